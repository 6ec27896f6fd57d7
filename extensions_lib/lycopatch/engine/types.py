"""The small value types every room of the engine shares. Host-independent, no behaviour beyond arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Component = Literal["unet", "te1", "te2", "te3"]
"""Which model a layer belongs to: the U-Net (or MMDiT), or the first, second or third text encoder."""

COMPONENTS: tuple[Component, ...] = ("unet", "te1", "te2", "te3")

DTYPE_BYTES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes per element of each safetensors dtype this engine reads."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as its file's header announces it: safetensors dtype name and shape, no data."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Enough of a file's identity to notice that it was written again: size in bytes, mtime in nanoseconds."""

    size: int
    mtime_ns: int
