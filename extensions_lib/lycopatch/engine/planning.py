"""Step 7: requests + adapters + index → a ``PatchPlan`` and what each file's keys come to.

The plan is data: two plans are equal when they would write the same numbers, whatever the order of the tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lycopatch.engine.adapter import Adapter, AdapterLayer
from lycopatch.engine.families.layers import BoundLayer, RowRange
from lycopatch.engine.report import Issue, LeftOut, Outcome, TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.types import Fingerprint
from lycopatch.engine.wording import plain, shown

LayerId = tuple[str, Fingerprint, str]
"""A layer of a file: path, fingerprint, layer name. A file that was written again has other layers."""

_KINDS_OF_KEYS = frozenset({"unknown key", "empty tensor", "base weight"})
"""Troubles of single keys, whose layers may be fine."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One layer of one network on one target. Equality is that of the numbers it adds."""

    layer_id: LayerId
    multiplier: float
    dyn_dim: int | None
    target: BoundLayer
    layer: AdapterLayer = field(compare=False)

    def sort_key(self) -> tuple[object, ...]:
        path, fingerprint, name = self.layer_id
        return path, fingerprint.mtime_ns, name, self.multiplier, self.dyn_dim or 0, self.target.paths


@dataclass(frozen=True, slots=True)
class TensorPatch:
    """All contributions to one live tensor, in an order that does not depend on the prompt's."""

    tensor: str
    is_bias: bool
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """What the model's tensors shall be: name → patch; a tensor that is not in it shall be pristine."""

    patches: Mapping[str, TensorPatch] = field(default_factory=dict[str, TensorPatch])

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that was resolved to a parsed file."""

    request: AdapterRequest
    adapter: Adapter


@dataclass(slots=True)
class _Trouble:
    """What of one tag can not be applied: each layer (or key) once for a kind, with the first reason."""

    found: dict[tuple[str, str], LeftOut] = field(default_factory=dict[tuple[str, str], LeftOut])

    def add(self, outcome: Outcome, kind: str, what: str, reason: str, keys: int = 1) -> None:
        known = self.found.get((kind, what))
        if known is None:
            self.found[kind, what] = LeftOut(what, outcome, kind, reason, keys)
        else:
            self.found[kind, what] = replace(known, keys=known.keys + keys)

    def tell(self, tag: TagReport) -> None:
        """Put all of it into a report, with one sentence for all of a kind."""
        tag.left_out = list(self.found.values())
        for kind in dict.fromkeys(each.kind for each in tag.left_out):
            several = [each for each in tag.left_out if each.kind == kind]
            reason, _ = Counter(each.reason for each in several).most_common(1)[0]
            first = next(each.what for each in several if each.reason == reason)
            noun = "key" if kind in _KINDS_OF_KEYS else "layer"
            count = f"{len(several)} {noun}s" if len(several) > 1 else f"1 {noun}"
            message = f"{count} of {shown(tag.name)} left out ({kind}), for example {plain(first)}: {reason}."
            tag.issues.append(Issue(kind, message, tag=tag.tag, file=tag.path, layer=first))


def plan(
    wanted: Sequence[Wanted], index: TargetIndex, broken: Mapping[LayerId, str] | None = None
) -> tuple[PatchPlan, list[TagReport]]:
    """Join files and model by layer name. ``broken`` names layers whose numbers are known to be unusable."""
    contributions: list[Contribution] = []
    reports: list[TagReport] = []
    for one in wanted:
        report, found = _plan_tag(one, index, broken or {})
        reports.append(report)
        contributions.extend(found)
    return PatchPlan(_by_tensor(contributions)), reports


def _plan_tag(
    wanted: Wanted, index: TargetIndex, broken: Mapping[LayerId, str]
) -> tuple[TagReport, list[Contribution]]:
    request, adapter = wanted.request, wanted.adapter
    report = TagReport(
        tag=request.tag,
        name=request.name,
        path=str(adapter.path),
        te_multiplier=request.te_multiplier,
        unet_multiplier=request.unet_multiplier,
        layers_total=len(adapter.layers),
    )
    trouble = _Trouble()
    found: list[Contribution] = []
    taken: dict[tuple[RowRange, ...], str] = {}
    counted: set[str] = set()
    for layer in adapter.layers:
        layer_id = (str(adapter.path), adapter.fingerprint, layer.name)
        target = _choose(layer, index)
        # VeRA's shared matrices belong to many layers and are counted with the first
        keys = [key for key in layer.keys.values() if key not in counted]
        counted.update(keys)
        outcome: Outcome = "skipped"
        if isinstance(target, _Unusable):
            outcome = target.outcome
            trouble.add(outcome, target.kind, layer.name, target.reason, len(keys))
        elif layer_id in broken:
            trouble.add(outcome, "damaged layer", layer.name, broken[layer_id], len(keys))
        elif target.weight in taken:
            reason = f"{shown(taken[target.weight])} names the same layer"
            trouble.add(outcome, "duplicate", layer.name, reason, len(keys))
        else:
            outcome = "applied"
            taken[target.weight] = layer.name
            report.layers_applied += 1
            multiplier = request.unet_multiplier if target.component == "unet" else request.te_multiplier
            if multiplier != 0:
                found.append(Contribution(layer_id, multiplier, request.dyn_dim, target, layer))
        report.keys[outcome].extend(keys)
    _account_for_the_rest(adapter, report, trouble)
    trouble.tell(report)
    return report, found


@dataclass(frozen=True, slots=True)
class _Unusable:
    outcome: Outcome
    kind: str
    reason: str


def _choose(layer: AdapterLayer, index: TargetIndex) -> BoundLayer | _Unusable:
    """The layer of the model that a file's layer is for, or why there is none."""
    candidates = index.find(layer.name)
    if not candidates:
        return _Unusable("unmatched", "no such layer", "this model has no layer of that name")
    if refusal := layer.refusal:
        return _Unusable("skipped", "not supported", refusal)
    reasons = [_mismatch(layer, candidate) for candidate in candidates]
    for candidate, reason in zip(candidates, reasons, strict=True):
        if reason is None:
            return candidate
    return _Unusable("skipped", "other size", reasons[0] or "")


def _mismatch(layer: AdapterLayer, target: BoundLayer) -> str | None:
    reason = layer.mismatch(target.shape)
    if reason is None or layer.needs_base or not target.is_first_convolution:
        return reason
    # Inpainting and instruct-pix2pix U-Nets read more channels than the four a network was trained with, or fewer:
    # the latent's channels come first in both.
    for channels in (4, 5, 8, 9):
        if layer.mismatch((target.shape[0], channels, *target.shape[2:])) is None:
            return None
    return reason


def _account_for_the_rest(adapter: Adapter, report: TagReport, trouble: _Trouble) -> None:
    for leftover in adapter.leftovers:
        report.keys[leftover.outcome].append(leftover.key)
        of_key = leftover.layer is None or leftover.kind in _KINDS_OF_KEYS
        what = leftover.key if of_key else leftover.layer or ""
        trouble.add(leftover.outcome, leftover.kind, what, leftover.reason)
    for embedding in adapter.embeddings:
        report.keys["embedding"].extend(embedding.keys.values())


def _by_tensor(contributions: Iterable[Contribution]) -> dict[str, TensorPatch]:
    weights: dict[str, list[Contribution]] = {}
    biases: dict[str, list[Contribution]] = {}
    for contribution in contributions:
        layer, target = contribution.layer, contribution.target
        if layer.changes_weight:
            for tensor in {part.tensor for part in target.weight}:
                weights.setdefault(tensor, []).append(contribution)
        if layer.changes_bias:
            names = {part.tensor for part in target.bias}
            if not names and layer.adds_bias and target.bias_name is not None:
                names = {target.bias_name}
            for name in names:
                biases.setdefault(name, []).append(contribution)
    patches = {name: _patch(name, several, is_bias=False) for name, several in sorted(weights.items())}
    patches.update((name, _patch(name, several, is_bias=True)) for name, several in sorted(biases.items()))
    return patches


def _patch(name: str, contributions: list[Contribution], *, is_bias: bool) -> TensorPatch:
    return TensorPatch(name, is_bias, tuple(sorted(contributions, key=Contribution.sort_key)))
