"""Step 6: a live model → ``TargetIndex``, every name by which a file may call each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lycopatch.engine.dialects import DIALECTS
from lycopatch.engine.dialects.base import LayerPaths
from lycopatch.engine.families.binding import BoundModel, bind
from lycopatch.engine.families.layers import BoundLayer


@dataclass(frozen=True)
class TargetIndex:
    """The layers of one model and their spellings. Rebuilt when the model changes, never mutated."""

    model: BoundModel

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> TargetIndex:
        """Index a model by its tensors' names and shapes; raises UnknownModel when nothing in it can be patched."""
        return cls(bind(shapes))

    @cached_property
    def _spellings(self) -> tuple[Mapping[str, tuple[int, ...]], tuple[str, ...]]:
        paths = [LayerPaths(layer.component, layer.paths) for layer in self.model.layers]
        found: dict[str, tuple[int, ...]] = {}
        conflicts: list[str] = []
        for dialect in DIALECTS:
            for name, index in dialect.spell(paths):
                known = found.get(name, ())
                if index in known:
                    continue
                if any(paths[other].component == paths[index].component for other in known):
                    conflicts.append(name)
                found[name] = (*known, index)
        for name in conflicts:
            found.pop(name, None)
        return found, tuple(conflicts)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Names that would mean two layers of one component; none of them is used."""
        return self._spellings[1]

    @property
    def spellings(self) -> int:
        return len(self._spellings[0])

    def find(self, name: str) -> tuple[BoundLayer, ...]:
        """The layers a file may mean by ``name``: none, one, or one per text encoder where the name does not say which."""
        return tuple(self.model.layers[index] for index in self._spellings[0].get(name, ()))
