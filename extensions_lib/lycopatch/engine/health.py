"""Whether a file's numbers can be used: layer by layer, so that memory is bounded by the largest one.

A *fault* is what keeps a layer or the file from working; a *note* is worth knowing and changes no verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lycopatch.engine.adapter import Adapter, AdapterLayer
from lycopatch.engine.errors import MalformedLayer, UnreadableAdapter
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.strength import root_mean_square

Severity = Literal["fault", "note"]

HUGE = 10.0
"""Root mean square of ΔW above which no picture survives: the weights of all base models are far below 1."""

TINY = 1e-9
"""Root mean square of ΔW below which nothing of it survives being added to weights of half precision."""

_LEFTOVERS: dict[str, tuple[str, Severity]] = {
    "unknown algorithm": ("incomplete", "fault"),
    "damaged layer": ("bad alpha", "fault"),
    "unknown key": ("unknown", "note"),
    "duplicate": ("duplicate", "note"),
    "empty tensor": ("empty", "note"),
    "base weight": ("base weight", "note"),
}
"""What the parser left over → kind and severity here."""


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """One finding. ``kind`` is stable for programs, ``message`` a sentence for people, ``layer`` None for the file."""

    kind: str
    message: str
    layer: str | None = None
    severity: Severity = "fault"


Progress = Callable[[int, int], None]
"""Told after each layer: (done, total). What it raises ends the check."""


def check_health(file: TensorFile, adapter: Adapter, progress: Progress | None = None) -> list[HealthIssue]:
    """Read every tensor of the file once and return what is wrong with it, in the order of the file.

    Raises UnreadableAdapter when the file changes or fails meanwhile.
    """
    if adapter.not_a_network is not None:
        return [HealthIssue("not a network", f"The file is {adapter.not_a_network}.")]
    found = list(_structure(file, adapter))
    unchanging: list[HealthIssue] = []
    for done, layer in enumerate(adapter.layers, 1):
        for issue in _layer(file, layer):
            (unchanging if issue.kind == "zero" else found).append(issue)
        if progress is not None:
            progress(done, len(adapter.layers))
    if unchanging and len(unchanging) == len(adapter.layers):
        found.append(HealthIssue("zero", "All layers are zero: the network changes nothing."))
    else:
        found.extend(unchanging)
    if not adapter.layers:
        found.append(HealthIssue("empty", "The file holds no layer that could be applied."))
    return found


def is_healthy(issues: list[HealthIssue]) -> bool:
    """True when there is no fault among the findings."""
    return all(issue.severity != "fault" for issue in issues)


def unreadable_kind(error: UnreadableAdapter) -> str:
    """``truncated`` for a file whose end is missing, else ``unreadable``."""
    cut = any(words in error.reason for words in ("download is incomplete", "did not finish", "became shorter"))
    return "truncated" if cut else "unreadable"


def _structure(file: TensorFile, adapter: Adapter) -> Iterator[HealthIssue]:
    """What the header alone shows."""
    told: set[tuple[str, str]] = set()
    for leftover in adapter.leftovers:
        kind, severity = _LEFTOVERS.get(leftover.kind, (leftover.kind, "note"))
        if leftover.layer is None or kind == "duplicate":
            yield HealthIssue(kind, f'"{leftover.key}" is left out: {leftover.reason}.', leftover.layer, severity)
        elif (leftover.layer, kind) not in told:  # once for a layer, which may have many keys
            told.add((leftover.layer, kind))
            yield HealthIssue(kind, f'"{leftover.layer}" is left out: {leftover.reason}.', leftover.layer, severity)
    refusals = Counter(layer.refusal for layer in adapter.layers if layer.refusal)
    for reason, count in refusals.items():
        yield HealthIssue("not supported", f"{_layers(count)} can not be applied: {reason}.", severity="note")
    formats = Counter(spec.dtype for spec in file.specs.values() if spec.dtype.startswith("F8_"))
    for dtype, count in formats.items():
        message = f"{count} of {len(file.specs)} tensors are stored in 8 bits ({dtype}), 2 or 3 of them for precision."
        yield HealthIssue("fp8", message, severity="note")


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _layer(file: TensorFile, layer: AdapterLayer) -> Iterator[HealthIssue]:
    """What is wrong with the numbers of one layer."""
    tensors = {suffix: file.read(key) for suffix, key in layer.keys.items()}
    broken = [issue for suffix, tensor in tensors.items() if (issue := _not_finite(layer, suffix, tensor))]
    if broken:
        yield from broken
        return
    if layer.scale == 0 and "alpha" in layer.scalars and layer.rank is not None:
        message = f'The alpha of "{layer.name}" is 0, which switches the layer off.'
        yield HealthIssue("bad alpha", message, layer.name)
        return
    if layer.refusal is None:
        yield from _strength(layer, {suffix: _wide(tensor) for suffix, tensor in tensors.items()})


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _not_finite(layer: AdapterLayer, suffix: str, tensor: Tensor) -> HealthIssue | None:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    tensor = _wide(tensor)
    if math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all()):
        return None
    nans, infinite = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    kind, count, what = ("nan", nans, "no numbers (NaN)") if nans else ("inf", infinite, "infinite")
    message = f'{count} of {tensor.numel()} values in "{layer.keys[suffix]}" are {what}; the layer is left out.'
    return HealthIssue(kind, message, layer.name)


def _strength(layer: AdapterLayer, tensors: dict[str, Tensor]) -> Iterator[HealthIssue]:
    """Whether the layer changes nothing, or absurdly much."""
    try:
        rms = root_mean_square(layer, tensors)
    except (MalformedLayer, RuntimeError, ValueError, IndexError) as error:
        reason = error.reason if isinstance(error, MalformedLayer) else str(error).split("\n")[0][:200]
        yield HealthIssue("malformed", f'The tensors of "{layer.name}" do not go together: {reason}.', layer.name)
        return
    if rms is None:
        return
    if rms == 0:
        yield HealthIssue("zero", f'"{layer.name}" changes nothing: its change is zero.', layer.name, "note")
    elif not rms <= HUGE:
        message = f'"{layer.name}" changes the weights by {rms:.3g} on average, which no picture survives.'
        yield HealthIssue("huge", message, layer.name)
    elif rms < TINY:
        message = f'"{layer.name}" changes the weights by {rms:.3g} on average, which is lost in rounding.'
        yield HealthIssue("tiny", message, layer.name, "note")
