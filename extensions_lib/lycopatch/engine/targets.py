"""Step 6: a live model → ``TargetIndex``, every name by which a file may call each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lycopatch.engine.dialects import DIALECTS
from lycopatch.engine.dialects.base import LayerPaths
from lycopatch.engine.families.binding import BoundModel, bind
from lycopatch.engine.families.layers import BoundLayer


@dataclass(frozen=True)
class TargetIndex:
    """The layers of one model and their spellings. Rebuilt when the model changes, never mutated.

    ``conflicts`` are names that would mean two layers of one component; none of them is used.
    """

    model: BoundModel
    spellings: Mapping[str, tuple[int, ...]]
    conflicts: tuple[str, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> TargetIndex:
        """Index a model by its tensors' names and shapes; raises UnknownModel when nothing in it can be patched."""
        return cls.of_model(bind(shapes))

    @classmethod
    def of_model(cls, model: BoundModel) -> TargetIndex:
        """Index a model whose layers are known (some 0.1 s for SDXL)."""
        paths = [LayerPaths(layer.component, layer.paths) for layer in model.layers]
        found: dict[str, tuple[int, ...]] = {}
        conflicts: set[str] = set()
        for dialect in DIALECTS:
            for name, index in dialect.spell(paths):
                known = found.get(name)
                if known is None:
                    found[name] = (index,)
                elif index not in known:
                    if any(paths[other].component == paths[index].component for other in known):
                        conflicts.add(name)
                    found[name] = (*known, index)
        for name in conflicts:
            del found[name]
        return cls(model, found, tuple(sorted(conflicts)))

    def find(self, name: str) -> tuple[BoundLayer, ...]:
        """The layers a file may mean by ``name``: none, one, or one per text encoder where the name leaves it open."""
        return tuple(self.model.layers[index] for index in self.spellings.get(name, ()))
