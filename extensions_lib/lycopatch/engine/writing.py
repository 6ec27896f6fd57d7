"""One live tensor of a ``PatchPlan``: everything that is added to it, one rounding, one write.

A tensor is computed from its pristine weight: an fp32 accumulator takes a block of rows, all contributions are added,
the sum is rounded once and written. A block fits the processor's cache, so each weight moves through memory once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from lycopatch.engine.adapter import LoadedLayer
from lycopatch.engine.algorithms.base import Base
from lycopatch.engine.errors import MalformedLayer
from lycopatch.engine.families.layers import BoundLayer, RowRange
from lycopatch.engine.linalg import Delta, Dense, Hadamard, Kronecker, Sum, matrix_size, merge_low_rank, to_dense
from lycopatch.engine.originals import Originals, as_rows
from lycopatch.engine.planning import Contribution, LayerId, TensorPatch
from lycopatch.engine.ports import LiveModel

BLOCK_ELEMENTS = 1 << 20  # 4 MB of fp32: measured best for low-rank products (benchmarks/)
SMALL_BLOCK_ELEMENTS = 1 << 18  # for products that need scratch blocks of their own

Loader = Callable[[Contribution, torch.device, torch.dtype], LoadedLayer]
"""Reads a contribution's tensors; raises MalformedLayer when they can not be used."""


@dataclass(frozen=True, slots=True)
class Part:
    """A delta on the rows ``start … stop`` of a tensor; ``offset`` is where they begin in the delta."""

    delta: Delta
    weight: float
    start: int
    stop: int
    offset: int


@dataclass(frozen=True, slots=True)
class PristineBase:
    """What an algorithm sees of the original weight: the target's rows, gathered from wherever they live.

    Only reads. Nothing may write the target meanwhile.
    """

    model: LiveModel
    originals: Originals
    target: BoundLayer
    device: torch.device
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    def weight(self) -> Tensor:
        whole = pristine(self.model, self.originals, self.target.weight, self.device, self.dtype)
        return whole.T.contiguous() if self.target.transposed else whole


def pristine(
    model: LiveModel, originals: Originals, ranges: Sequence[RowRange], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The original numbers of some row ranges, one after the other, ``[rows, cols]``: memory of their own."""
    gathered: list[Tensor] = []
    for part in ranges:
        live = model.tensor(part.tensor)
        finer = model.unrounded(part.tensor)
        if finer is not None:
            rows = as_rows(finer, part.start, part.stop)
        else:
            scratch = torch.empty((part.stop - part.start) * matrix_size(live)[1], dtype=live.dtype, device="cpu")
            rows = originals.rows(part.tensor, live, part.start, part.stop, scratch)
        # one layout whatever the live tensor's: products of other strides round differently
        gathered.append(rows.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format))
    return torch.cat(gathered) if len(gathered) > 1 else gathered[0]


class Scratch:
    """Memory that one thread uses for one tensor after the other: fresh pages cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], Tensor] = {}

    def take(self, use: str, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A vector of ``count`` numbers of any content, valid until the next one for the same use is taken."""
        # memory taken in inference mode can be written only there
        kind = (use, dtype, device, torch.is_inference_mode_enabled())
        kept = self._buffers.get(kind)
        if kept is None or kept.numel() < count:
            kept = self._buffers[kind] = torch.empty(count, dtype=dtype, device=device)
        return kept[:count]


@dataclass(frozen=True, slots=True)
class TensorWriter:
    """Computes and writes one tensor at a time; keeps nothing for undoing it. For one thread."""

    model: LiveModel
    originals: Originals
    load: Loader
    scratch: Scratch = field(default_factory=Scratch)

    def parts(self, patch: TensorPatch) -> tuple[list[Part], dict[LayerId, str]]:
        """Everything that is added to a tensor, read and ready; and the layers whose numbers can not be used.

        Writes nothing. Raises AdapterError when a network's file can not be read any more.
        """
        live = self.model.tensor(patch.tensor)
        device, dtype = self._arithmetic(patch.tensor, live)
        grouped: dict[tuple[int, int, int], list[tuple[Delta, float]]] = {}
        broken: dict[LayerId, str] = {}
        for contribution in patch.contributions:
            try:
                delta = self._delta(contribution, patch, device, dtype)
            except MalformedLayer as error:
                broken[contribution.layer_id] = error.reason
                continue
            if delta is None:
                continue
            for start, stop, offset in places(contribution.target, patch):
                grouped.setdefault((start, stop, offset), []).append((delta, contribution.multiplier))
        parts = [
            Part(delta, weight, start, stop, offset)
            for (start, stop, offset), several in grouped.items()
            for delta, weight in merge_low_rank(several)
        ]
        return parts, broken

    def _arithmetic(self, name: str, live: Tensor) -> tuple[torch.device, torch.dtype]:
        return self.model.compute_device(name), torch.float64 if live.dtype == torch.float64 else torch.float32

    def _delta(
        self, contribution: Contribution, patch: TensorPatch, device: torch.device, dtype: torch.dtype
    ) -> Delta | None:
        loaded = self.load(contribution, device, dtype)
        target = contribution.target
        if patch.is_bias:
            return self._bias_delta(loaded, target, device, dtype)
        base = PristineBase(self.model, self.originals, target, device, dtype)
        delta = fitted_delta(loaded, target, base, contribution.dyn_dim)
        if delta is None or not target.transposed:
            return delta
        return Dense(to_dense(delta).matrix.T.contiguous())

    def _bias_delta(
        self, loaded: LoadedLayer, target: BoundLayer, device: torch.device, dtype: torch.dtype
    ) -> Dense | None:
        bias = pristine(self.model, self.originals, _bias_ranges(target), device, dtype)
        delta = loaded.bias_delta(bias.reshape(-1))
        return None if delta is None else Dense(delta.reshape(-1, 1))

    def write(self, name: str, parts: Sequence[Part]) -> None:
        """Write round(pristine + Σ parts) into the live tensor, block by block."""
        live = self.model.tensor(name)
        finer = self.model.unrounded(name)
        if finer is not None:
            self.originals.keep(name, live)  # for giving back; the arithmetic does not read it
        elif _write_kronecker(parts, self.originals, name, live, self.scratch):
            return
        device, dtype = self._arithmetic(name, live)
        rows, cols = matrix_size(live)
        step = rows if device.type != "cpu" else max(1, _block_elements(parts) // max(cols, 1))
        size = min(step, rows) * cols
        stored = self.scratch.take("stored", size, live.dtype, torch.device("cpu"))
        accumulator = self.scratch.take("accumulator", size, dtype, device)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            acc = accumulator[: (stop - start) * cols].view(stop - start, cols)
            if finer is not None:
                acc.copy_(as_rows(finer, start, stop))
            else:
                acc.copy_(self.originals.rows(name, live, start, stop, stored))
            for part in parts:
                first, last = max(start, part.start), min(stop, part.stop)
                if first < last:
                    block = acc[first - start : last - start, : part.delta.cols]
                    part.delta.add_rows(block, first - part.start + part.offset, part.weight)
            target = live[start:stop] if live.dim() else live
            target.copy_(acc.view(target.shape))


def fitted_delta(loaded: LoadedLayer, target: BoundLayer, base: Base, dyn_dim: int | None = None) -> Delta | None:
    """ΔW at multiplier 1, of the size of the target's weight; None when the layer leaves the weight alone.

    Raises MalformedLayer when it is for a weight of another size.
    """
    delta = loaded.weight_delta(base, dyn_dim)
    if delta is None:
        return None
    cols = math.prod(target.shape[1:])
    if delta.rows != target.shape[0] or (delta.cols != cols and not target.is_first_convolution):
        reason = f"it changes {delta.rows} × {delta.cols} numbers of a weight of {target.shape[0]} × {cols}"
        raise MalformedLayer(loaded.layer.name, reason)
    return delta.first_columns(cols) if delta.cols > cols else delta


def places(target: BoundLayer, patch: TensorPatch) -> Iterator[tuple[int, int, int]]:
    """Where a target's rows lie in the patched tensor: (start, stop, offset in the target)."""
    offset = 0
    for part in _bias_ranges(target) if patch.is_bias else target.weight:
        if part.tensor == patch.tensor:
            yield part.start, part.stop, offset
        offset += part.stop - part.start


def _bias_ranges(target: BoundLayer) -> tuple[RowRange, ...]:
    """The target's bias, also where the live layer got one only now."""
    if target.bias or target.bias_name is None:
        return target.bias
    return (RowRange(target.bias_name, 0, target.shape[0]),)


def _block_elements(parts: Sequence[Part]) -> int:
    def needs_scratch(delta: Delta) -> bool:
        return isinstance(delta, Hadamard) or (isinstance(delta, Sum) and any(map(needs_scratch, delta.parts)))

    return SMALL_BLOCK_ELEMENTS if any(needs_scratch(part.delta) for part in parts) else BLOCK_ELEMENTS


def _write_kronecker(parts: Sequence[Part], originals: Originals, name: str, live: Tensor, memory: Scratch) -> bool:
    """Write a lone Kronecker product as one multiply-add per block, without accumulator; False when that is not exact.

    torch computes a half-precision ``addcmul`` in fp32 and rounds once, so this is the same number for less traffic; it
    is exact only while both factors are numbers of the live dtype.
    """
    delta = parts[0].delta if len(parts) == 1 else None
    if not isinstance(delta, Kronecker) or live.dtype not in (torch.float16, torch.bfloat16):
        return False
    whole = (delta.rows, delta.cols) == matrix_size(live)
    if not whole or not live.is_contiguous() or live.device.type != "cpu" or not _addcmul_rounds_once(live.dtype):
        return False
    w1, w2 = delta.w1.to(live.dtype), delta.w2.to(live.dtype)
    if not (torch.equal(w1.float(), delta.w1) and torch.equal(w2.float(), delta.w2)):
        return False
    group, cols = delta.w2.shape[0], delta.cols
    factor_of_all = delta.scale * parts[0].weight
    step = max(1, BLOCK_ELEMENTS // max(group * cols, 1))
    scratch = memory.take("stored", min(step * group, delta.rows) * cols, live.dtype, live.device)
    for outer in range(0, w1.shape[0], step):
        factor = w1[outer : outer + step]
        start, stop = outer * group, (outer + factor.shape[0]) * group
        shape = (factor.shape[0], group, w1.shape[1], w2.shape[1])
        pristine = originals.rows(name, live, start, stop, scratch).view(shape)
        out = live[start:stop].view(shape)
        torch.addcmul(pristine, factor[:, None, :, None], w2[None, :, None, :], value=factor_of_all, out=out)
    return True


@cache
def _addcmul_rounds_once(dtype: torch.dtype) -> bool:
    """True when this build of torch computes ``addcmul`` of ``dtype`` in fp32 and rounds the sum alone."""
    eps = torch.finfo(dtype).eps
    k = 16 if dtype == torch.float16 else 1
    # 1 + eps plus a little less than eps / 2 is 1 + eps; were the product or the factor rounded first, it would be
    # exactly eps / 2, a tie that goes to the even neighbour 1 + 2·eps
    start, half = torch.tensor([1 + eps], dtype=dtype), torch.tensor([eps / 2], dtype=dtype)
    left, right = torch.tensor([1 + k * eps], dtype=dtype), torch.tensor([eps / 2 * (1 - k * eps)], dtype=dtype)
    try:
        rounded = (
            torch.addcmul(start, left, right, value=1.0),
            torch.addcmul(start, torch.ones_like(half), half, value=1 - (k * eps) ** 2),
        )
    except RuntimeError:  # old builds have no half-precision addcmul for the CPU
        return False
    return all(torch.equal(each, start) for each in rounded)
