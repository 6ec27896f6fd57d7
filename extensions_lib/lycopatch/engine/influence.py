"""Where a network acts: how large its ΔW is in each block, against the original weights of the model it acts on.

The weight that a block's ΔW is compared with is that of all matrices and kernels of the block, whether the network
touches them or not: a network that changes one layer of a block a lot changes the block a little. The gains of
normalisations count only where the network changes them. Everything is at multiplier 1.

One layer is looked at at a time, so the largest one bounds the memory.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from lycopatch.engine.adapter import Adapter
from lycopatch.engine.blocks import block_of, block_order
from lycopatch.engine.delta_size import frobenius, length, spectral
from lycopatch.engine.errors import MalformedLayer, UnknownModel
from lycopatch.engine.families.layers import BoundLayer, RowRange
from lycopatch.engine.linalg import matrix_size
from lycopatch.engine.originals import Originals
from lycopatch.engine.patching import Progress, on_a_quiet_thread, quiet_torch
from lycopatch.engine.planning import Contribution, Wanted, plan
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.recognise import recognise, reference_indexes
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.strength import NoBase
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.types import COMPONENTS, Component
from lycopatch.engine.writing import BLOCK_ELEMENTS, PristineBase, fitted_delta, pristine

_NO_MODEL = "how much it changes depends on the weights of a model that is not loaded"
_ONLY_BIAS = "it changes nothing but a bias"
_ENDLESS = "its numbers are too large to be added up"
_NOWHERE = "the model it was made for is not known"


@dataclass(frozen=True, slots=True)
class Effect:
    """ΔW of some layers together: the root of the sum of all squares, and the largest σmax of a layer.

    ``weight``: ‖W‖ of what it is compared with, None where no model is at hand.
    """

    component: Component
    layers: int
    delta: float
    spectral: float
    weight: float | None = None

    @property
    def relative(self) -> float | None:
        """‖ΔW‖ / ‖W‖."""
        return self.delta / self.weight if self.weight else None


@dataclass(frozen=True, slots=True)
class Influence:
    """Layer (as the file calls it), block and component → effect; blocks in the order in which data passes them.

    A component's effect is that of all its blocks in which the network acts. ``unmeasured``: reason → how many layers
    (or keys of none). ``family``: of the model whose layers these are; ``against_model``: it is the loaded one.
    """

    layers: Mapping[str, Effect]
    blocks: Mapping[str, Effect]
    parts: Mapping[Component, Effect]
    unmeasured: Mapping[str, int]
    family: str | None
    against_model: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class OriginalWeights:
    """What a live model's weights were before any network.

    ``reading``: within it nobody writes the model, and its originals are those of now; it raises when the model is
    another one by then. ``norms`` remembers ‖W‖ of each tensor for as long as the model keeps its weights.
    """

    model: LiveModel
    originals: Originals
    reading: Callable[[], AbstractContextManager[object]]
    norms: dict[str, float] = field(default_factory=dict[str, float])

    def base(self, target: BoundLayer) -> PristineBase:
        """The target's weight, to be asked for its numbers within ``reading``."""
        return PristineBase(self.model, self.originals, target, *self._arithmetic(target.weight[0].tensor))

    def norm(self, name: str) -> float:
        """‖W‖ of a whole tensor."""
        known = self.norms.get(name)
        if known is None:
            with self.reading():
                device, dtype = self._arithmetic(name)
                rows, cols = matrix_size(self.model.tensor(name))
                step = rows if device.type != "cpu" else max(1, BLOCK_ELEMENTS // max(cols, 1))
                ranges = (RowRange(name, start, min(start + step, rows)) for start in range(0, rows, step))
                parts = [length(pristine(self.model, self.originals, [each], device, dtype)) for each in ranges]
            known = self.norms[name] = math.hypot(*parts)
        return known

    def _arithmetic(self, name: str) -> tuple[torch.device, torch.dtype]:
        live = self.model.tensor(name)
        if live.is_meta:
            raise UnknownModel("its weights are not in memory at the moment")
        return self.model.compute_device(name), torch.float64 if live.dtype == torch.float64 else torch.float32


def influence_of(
    adapter: Adapter,
    file: TensorFile,
    index: TargetIndex | None = None,
    weights: OriginalWeights | None = None,
    progress: Progress | None = None,
) -> Influence:
    """Measure a network on a model: ``index`` and ``weights`` are the loaded one's, both or neither.

    Without a model, or when none of the layers is one of its, they are those of the family that the network was made
    for, and there is no ‖W‖. ``progress`` is told (done, total) after each layer and weight, maybe on another thread;
    what it raises ends the work. Raises UnreadableAdapter for the file, UnknownModel or CheckpointChanged when the
    model can not be read.
    """
    started = time.perf_counter()
    contributions, unmeasured = _planned(adapter, index)
    if not contributions:
        index, weights = reference_indexes().get(recognise(adapter).family or ""), None
        contributions, unmeasured = _planned(adapter, index)
    tensors = _tensors(contributions, index) if index and weights else {}
    told = _Told(progress, len(contributions) + sum(map(len, tensors.values())))
    device = _device(weights, contributions)
    measured: list[tuple[Contribution, Effect]] = []

    def measure() -> dict[str, float]:
        with quiet_torch(device):
            for contribution in contributions:
                try:
                    measured.append((contribution, _effect(contribution, file, weights)))
                except MalformedLayer as error:
                    unmeasured[error.reason] += 1
                told.one_more()
            return _block_norms(tensors, weights, told) if weights else {}

    norms = on_a_quiet_thread(measure) if device.type == "cpu" else measure()
    blocks = _blocks(measured, norms)
    return Influence(
        layers={contribution.layer.name: effect for contribution, effect in measured},
        blocks=blocks,
        parts=_parts(blocks),
        unmeasured=dict(unmeasured),
        family=index.model.family if index else None,
        against_model=weights is not None,
        seconds=time.perf_counter() - started,
    )


@dataclass(slots=True)
class _Told:
    """Somebody who wants to know how far the work is."""

    progress: Progress | None
    total: int
    done: int = 0

    def one_more(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _planned(adapter: Adapter, index: TargetIndex | None) -> tuple[list[Contribution], Counter[str]]:
    """What the network would add to which layer, and why it would not add the rest."""
    if index is None:
        return [], Counter({_NOWHERE: len(adapter.layers)} if adapter.layers else {})
    planned, (report,) = plan([Wanted(AdapterRequest(adapter.path.stem, 1.0, 1.0, None, ""), adapter)], index)
    found = {each.layer_id: each for patch in planned.patches.values() for each in patch.contributions}
    return list(found.values()), Counter(each.reason for each in report.left_out)


def _device(weights: OriginalWeights | None, contributions: Sequence[Contribution]) -> torch.device:
    if weights is None or not contributions:
        return torch.device("cpu")
    return weights.model.compute_device(contributions[0].target.weight[0].tensor)


def _effect(contribution: Contribution, file: TensorFile, weights: OriginalWeights | None) -> Effect:
    """Measure one layer. Raises MalformedLayer with the reason why it can not be."""
    layer, target = contribution.layer, contribution.target
    if weights is not None:
        base = weights.base(target)
        loaded = layer.load(file, base.device, base.dtype)
        with weights.reading() if layer.needs_base else nullcontext():
            delta = fitted_delta(loaded, target, base)
    elif layer.needs_base:
        raise MalformedLayer(layer.name, _NO_MODEL)
    else:
        loaded = layer.load(file, torch.device("cpu"), torch.float32)
        delta = fitted_delta(loaded, target, NoBase(target.shape))
    if delta is None:
        raise MalformedLayer(layer.name, _ONLY_BIAS)
    size = frobenius(delta)
    if not math.isfinite(size):
        raise MalformedLayer(layer.name, _ENDLESS)
    return Effect(target.component, 1, size, spectral(delta) if size else 0.0)


def _tensors(contributions: Sequence[Contribution], index: TargetIndex) -> dict[str, set[str]]:
    """Each block in which there is one of these layers → the weights that it is compared with."""
    found: dict[str, set[str]] = {}
    for contribution in contributions:
        names = {part.tensor for part in contribution.target.weight}
        found.setdefault(block_of(contribution.target), set()).update(names)
    for layer in index.model.layers:
        if len(layer.shape) > 1 and (block := block_of(layer)) in found:
            found[block].update(part.tensor for part in layer.weight)
    return found


def _block_norms(tensors: Mapping[str, set[str]], weights: OriginalWeights, told: _Told) -> dict[str, float]:
    """‖W‖ of each block."""
    norms: dict[str, float] = {}
    for block, names in tensors.items():
        several: list[float] = []
        for name in sorted(names):
            several.append(weights.norm(name))
            told.one_more()
        norms[block] = math.hypot(*several)
    return norms


def _blocks(measured: Sequence[tuple[Contribution, Effect]], norms: Mapping[str, float]) -> dict[str, Effect]:
    found: dict[str, list[Effect]] = {}
    for contribution, effect in measured:
        found.setdefault(block_of(contribution.target), []).append(effect)
    return {block: _together(found[block], norms.get(block)) for block in sorted(found, key=block_order)}


def _parts(blocks: Mapping[str, Effect]) -> dict[Component, Effect]:
    found: dict[Component, Effect] = {}
    for component in COMPONENTS:
        own = [effect for effect in blocks.values() if effect.component == component]
        norms = [effect.weight for effect in own if effect.weight is not None]
        if own:
            found[component] = _together(own, math.hypot(*norms) if norms else None)
    return found


def _together(effects: Sequence[Effect], weight: float | None) -> Effect:
    return Effect(
        component=effects[0].component,
        layers=sum(effect.layers for effect in effects),
        delta=math.hypot(*(effect.delta for effect in effects)),
        spectral=max(effect.spectral for effect in effects),
        weight=weight,
    )
