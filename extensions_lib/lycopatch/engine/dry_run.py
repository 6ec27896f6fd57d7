"""What a prompt's networks would do to a model: found, planned, compared and estimated. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from lycopatch.engine.adapter import AdapterLayer
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.linalg import Delta
from lycopatch.engine.overlap import NotMeasured, Overlap, overlaps
from lycopatch.engine.patching import Patcher, Progress, quiet_torch
from lycopatch.engine.planning import Contribution, LayerId, PatchPlan, TensorPatch, Wanted, plan
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.resolving import AdapterCache, OpenNetworks, explain
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.writing import PristineBase, fitted_delta

MEASURING_SECONDS = 2.0
"""How long networks are compared with each other."""

MOST_PAIRS = 15
"""How many pairs are compared: each two of six networks."""

USUAL_PACE = 1e-9
"""Seconds per unit of ``Patcher.work`` until the model's own pace is known; measured on one core (benchmarks/)."""

_REMEMBERED = 5
_MOMENT = 0.01
"""Seconds; what takes less says little about what takes long."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What activating would cost now. ``seconds`` is a guess from ``USUAL_PACE`` unless ``sure``.

    ``tensors``: to be written, ``restored``: to be given back; ``bytes_read``: of the networks' files;
    ``bytes_originals``: memory that copies of originals would take while these networks are active, as far as the
    checkpoint file can not give them back.
    """

    seconds: float
    sure: bool
    tensors: int
    restored: int
    bytes_read: int
    bytes_originals: int


@dataclass(slots=True)
class DryRun:
    """A report per tag, as an activation would give it, and how tags overlap (by their places in ``tags``).

    ``estimate`` is None without a model. ``pairs_left_out``: how many pairs that share weights were not compared.
    """

    tags: list[TagReport] = field(default_factory=list[TagReport])
    issues: list[Issue] = field(default_factory=list[Issue])
    overlaps: list[Overlap] = field(default_factory=list[Overlap])
    pairs_left_out: int = 0
    estimate: Estimate | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Pace:
    """How fast networks get into one model, learnt from its last activations."""

    _known: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def learn(self, work: int, seconds: float) -> None:
        """Remember an activation that did so much work."""
        if work and seconds > _MOMENT:
            self._known = [*self._known, (work, seconds)][-_REMEMBERED:]

    def seconds(self, work: int) -> tuple[float, bool]:
        """How long so much work will take, and whether that is more than a guess."""
        total = sum(known for known, _ in self._known)
        if not total:
            return work * USUAL_PACE, False
        return work * sum(seconds for _, seconds in self._known) / total, True


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A model that is only looked at. ``lock``: within it nobody writes the model or plans anything."""

    index: TargetIndex
    patcher: Patcher
    pace: Pace
    lock: AbstractContextManager[object]

    def run(
        self,
        networks: OpenNetworks,
        requests: Sequence[AdapterRequest],
        broken: Mapping[LayerId, str],
        progress: Progress | None,
        limit: float,
    ) -> DryRun:
        """Everything about these requests. What ``progress`` raises while networks are compared ends the work."""
        started = time.perf_counter()
        found = DryRun()
        patches: dict[int, Mapping[str, TensorPatch]] = {}
        with self.lock:
            wanted: list[Wanted] = []
            for place, request in enumerate(requests):
                one = networks.resolve(request)
                if isinstance(one, TagReport):
                    found.tags.append(one)
                    continue
                planned, (tag,) = plan([one], self.index, broken)
                explain(tag, one.adapter, self.index)
                found.tags.append(tag)
                wanted.append(one)
                patches[place] = planned.patches
            found.estimate = self._estimate(plan(wanted, self.index, broken)[0])
        pairs = _sharing(patches, [tag.path for tag in found.tags])
        found.pairs_left_out = max(0, len(pairs) - MOST_PAIRS)
        found.overlaps = self._compare(networks, patches, pairs[:MOST_PAIRS], progress, limit)
        found.seconds = time.perf_counter() - started
        return found

    def _estimate(self, planned: PatchPlan) -> Estimate:
        patcher = self.patcher
        there = patcher.model.shapes().keys()
        changed, dropped = patcher.pending(planned)
        work = sum(patcher.work(patch.tensor, patch) for patch in changed if patch.tensor in there)
        work += sum(patcher.work(name, None) for name in dropped)
        seconds, sure = self.pace.seconds(work)
        return Estimate(
            seconds=seconds,
            sure=sure,
            tensors=len(changed),
            restored=len(dropped),
            bytes_read=sum(_bytes_of(each.layer) for patch in changed for each in patch.contributions),
            bytes_originals=sum(self._bytes_of_copy(name) for name in planned.patches if name in there),
        )

    def _bytes_of_copy(self, name: str) -> int:
        live = _tensor(self.patcher.model, name)
        if live is None or not self.patcher.originals.needs_copy(name, live):
            return 0
        return live.numel() * live.element_size()

    def _compare(
        self,
        networks: OpenNetworks,
        patches: Mapping[int, Mapping[str, TensorPatch]],
        pairs: Sequence[tuple[int, int]],
        progress: Progress | None,
        limit: float,
    ) -> list[Overlap]:
        cpu = torch.device("cpu")
        end = time.perf_counter() + limit

        def delta_of(contribution: Contribution) -> Delta | None:
            loaded = networks.load(contribution, cpu, torch.float32)
            target = contribution.target
            base = PristineBase(self.patcher.model, self.patcher.originals, target, cpu, torch.float32)
            if not loaded.layer.needs_base:
                return fitted_delta(loaded, target, base, contribution.dyn_dim)
            with self.lock, self.patcher.originals.steady():
                live = [_tensor(self.patcher.model, part.tensor) for part in target.weight]
                if any(each is None or each.is_meta for each in live):
                    raise NotMeasured("its original weights are not in memory at the moment")
                return fitted_delta(loaded, target, base, contribution.dyn_dim)

        def go_on(done: int, total: int) -> bool:
            if progress is not None:
                progress(done, total)
            return time.perf_counter() < end

        with quiet_torch(cpu):
            return overlaps(patches, pairs, delta_of, go_on)


def _sharing(patches: Mapping[int, Mapping[str, TensorPatch]], paths: Sequence[str | None]) -> list[tuple[int, int]]:
    """The pairs of different files that change the same weights, those that share most first."""
    weights = {
        place: {name for name, patch in several.items() if not patch.is_bias} for place, several in patches.items()
    }
    pairs = [(a, b) for a, b in combinations(sorted(weights), 2) if paths[a] != paths[b] and weights[a] & weights[b]]
    return sorted(pairs, key=lambda pair: -len(weights[pair[0]] & weights[pair[1]]))


def _bytes_of(layer: AdapterLayer) -> int:
    """What is read from the file for a layer."""
    return sum(spec.nbytes for spec in layer.specs.values())


def _tensor(model: LiveModel, name: str) -> Tensor | None:
    """A live tensor; None while it is not to be had."""
    try:
        return model.tensor(name)
    except UnknownModel:
        return None


def resolve_only(
    catalog: Catalog, requests: Sequence[AdapterRequest], issues: Sequence[Issue] = (), *, allow_pickle: bool = False
) -> DryRun:
    """What there is to say without a model: which files the tags mean, and whether they can be read."""
    started = time.perf_counter()
    found = DryRun(issues=list(issues))
    with OpenNetworks(catalog, AdapterCache(), allow_pickle=allow_pickle) as networks:
        for request in requests:
            one = networks.resolve(request)
            if isinstance(one, Wanted):
                one = TagReport(
                    request.tag,
                    request.name,
                    str(one.adapter.path),
                    te_multiplier=request.te_multiplier,
                    unet_multiplier=request.unet_multiplier,
                    layers_total=len(one.adapter.layers),
                )
            found.tags.append(one)
    found.seconds = time.perf_counter() - started
    return found
