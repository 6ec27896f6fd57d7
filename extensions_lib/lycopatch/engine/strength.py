"""How much a layer changes: the size of its ΔW without the base model, not multiplied out where that can be avoided."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.adapter import AdapterLayer, LoadedLayer
from lycopatch.engine.delta_size import frobenius, length
from lycopatch.engine.errors import MalformedLayer

_LARGEST_WEIGHT = 1 << 30
"""Elements; the largest real one, a text encoder's vocabulary, has half of that. A small file can claim much more."""

_ZERO_IS_IDENTITY = frozenset({"OFT", "OFT (oft_R)", "OFT (oft_r)", "BOFT", "IA3", "GLoRA"})
"""Algorithms that need the base weight, and change nothing when all their tensors are zero."""


@dataclass(frozen=True, slots=True)
class NoBase:
    """The base weight where there is none: its shape as far as the layer tells."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def weight(self) -> Tensor:
        raise AssertionError("only layers that do not need the base weight are measured")


def root_mean_square(layer: AdapterLayer, tensors: dict[str, Tensor]) -> float | None:
    """Of ΔW (of Δb where only the bias changes) at multiplier 1; None when it depends on the base model's weight.

    ``tensors``: the layer's, in float32. Raises MalformedLayer, or what torch raises, when they do not go together.
    """
    footprint = layer.footprints[0]
    rows, cols = footprint.rows, footprint.cols if footprint.cols is not None else footprint.inputs
    claimed = float(tensors["bias_size"].double().prod()) if "bias_size" in tensors else 0.0
    if max((rows or 1) * (cols or 1), claimed) > _LARGEST_WEIGHT:
        raise MalformedLayer(layer.name, "they are for a larger weight than any model has")
    if rows is None or layer.needs_base or (cols is None and layer.changes_weight):
        return _zero_or_unknown(layer, tensors)
    loaded = LoadedLayer(layer, tensors)
    delta = loaded.weight_delta(NoBase((rows, cols or 1))) if layer.changes_weight else None
    norm, count = (0.0, 0) if delta is None else (frobenius(delta), delta.rows * delta.cols)
    if layer.changes_bias and norm == 0:
        bias = loaded.bias_delta(torch.zeros(rows))
        if bias is not None:
            norm, count = length(bias), bias.numel()
    return norm / math.sqrt(count) if count else None


def _zero_or_unknown(layer: AdapterLayer, tensors: dict[str, Tensor]) -> float | None:
    own = [tensor for suffix, tensor in tensors.items() if suffix not in ("alpha", "on_input")]
    zero = layer.algorithm.TITLE in _ZERO_IS_IDENTITY and not any(bool(tensor.any()) for tensor in own)
    return 0.0 if zero else None
