"""Rotations of the input side: peft OFT and OneTrainer's OFT_2, ``W'[:, k] = W[:, k] · R_kᵀ`` on blocks of columns.

Sources: peft ``tuners/oft/layer.py``; OneTrainer ``modules/module/oft_utils.py``. ``oft_R`` holds the strictly upper
triangle of the skew-symmetric Q row by row; one row of numbers serves all blocks when ``block_share`` was on. R is
peft's five-term series; the exact branch (``use_cayley_neumann: false`` in adapter_config.json) is ``(I − Q)(I +
Q)⁻¹``, the inverse direction. OneTrainer turns convolutions by R instead of Rᵀ, and with ``scaled_oft`` stores Q
times ``2·√(n − 1)``.

``oft_r`` (peft before mid-2025) holds whole blocks, ``Q = (A − Aᵀ)/2``, exact; ``oft_s`` then scales the rows. Before
``oft_s`` came (October 2024) the blocks turned the outputs instead: ``W'[k] = R_kᵀ W[k]`` on blocks of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.algorithms.oft import rotate_rows
from lycopatch.engine.linalg import Dense, cayley, cayley_neumann, skew, skew_from_upper


def block_size(length: int) -> int | None:
    """``n`` from ``n(n − 1)/2`` numbers, None when there is no such n."""
    n = (1 + math.isqrt(1 + 8 * length)) // 2
    return n if n * (n - 1) // 2 == length and n > 1 else None


def repeated(rotation: Tensor, size: int) -> Tensor:
    """One block used for all of ``size`` rows or columns."""
    if size % rotation.shape[1]:
        raise ValueError(f"its blocks of {rotation.shape[1]} do not divide the layer's {size}")
    return rotation.expand(size // rotation.shape[1], -1, -1)


def rotate_columns(base: Base, rotation: Tensor, row_scale: Tensor | None) -> Dense:
    """``ΔW`` of ``W'[:, k] = s ⊙ (W[:, k] · R_kᵀ)``; ``rotation`` ``[K, n, n]``, ``row_scale`` ``[out, 1]``."""
    weight = base.weight()
    blocks = weight.view(weight.shape[0], rotation.shape[0], rotation.shape[1]).transpose(0, 1)  # [K, out, n]
    if row_scale is None:
        eye = torch.eye(rotation.shape[1], dtype=rotation.dtype, device=rotation.device)
        change = torch.bmm(blocks, (rotation - eye).transpose(1, 2))
        return Dense(change.transpose(0, 1).reshape_as(weight))
    turned = torch.bmm(blocks, rotation.transpose(1, 2)).transpose(0, 1).reshape_as(weight)
    return Dense(turned * row_scale.reshape(-1, 1) - weight)


def _check(shapes: Shapes) -> str | None:
    values = shapes["oft_R"]
    if len(values) != 2:
        return "oft_R must be a matrix"
    if block_size(values[1]) is None:
        return f"{values[1]} numbers are no upper triangle"
    return None


def _check_old(shapes: Shapes) -> str | None:
    blocks = shapes["oft_r"]
    if len(blocks) != 3 or blocks[1] != blocks[2]:
        return "oft_r must be a list of square blocks"
    if "oft_s" in shapes and math.prod(shapes["oft_s"]) != max(shapes["oft_s"], default=0):
        return "oft_s is not one number per output"
    return None


@dataclass(frozen=True, slots=True)
class InputOFT(Algorithm):
    oft_R: Tensor  # [K, n(n−1)/2] or [1, n(n−1)/2]
    scaled_oft: Tensor | None = None  # one number: OneTrainer's mark

    TITLE = "OFT (oft_R)"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("oft_R"), frozenset({"scaled_oft"}), _check)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "OFT"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        count, length = shapes["oft_R"]
        size = block_size(length) or 0
        return (Footprint(cols=count * size),) if count > 1 else (Footprint(cols=size), Footprint())

    def delta(self, base: Base, context: Context) -> Dense:
        size = block_size(self.oft_R.shape[1])
        assert size is not None
        columns = math.prod(base.shape[1:])
        values = self.oft_R
        if context.scalars.get("scaled_oft"):
            values = values / (2 * math.sqrt(size - 1))
        q = skew_from_upper(values, size)
        rotation = cayley(-q) if "exact_cayley" in context.conventions else cayley_neumann(q)
        if "onetrainer" in context.conventions and len(base.shape) > 2:
            rotation = rotation.transpose(1, 2)
        if rotation.shape[0] == 1:
            rotation = repeated(rotation, columns)
        return rotate_columns(base, rotation, None)


@dataclass(frozen=True, slots=True)
class OldPeftOFT(Algorithm):
    oft_r: Tensor  # [K, n, n], K·n = in·kernel (or one block for all)
    oft_s: Tensor | None = None  # [out, 1]

    TITLE = "OFT (oft_r)"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("oft_r"), frozenset({"oft_s"}), _check_old)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "OFT"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        count, size, _ = shapes["oft_r"]
        if "oft_s" not in shapes:
            return (Footprint(rows=count * size),) if count > 1 else (Footprint(rows=size), Footprint())
        rows = math.prod(shapes["oft_s"])
        exact = Footprint(rows=rows, cols=count * size)
        return (exact,) if count > 1 else (exact, Footprint(rows=rows))

    def delta(self, base: Base, context: Context) -> Dense:
        rotation = cayley(skew(self.oft_r) / -2)
        turned = base.shape[0] if self.oft_s is None else math.prod(base.shape[1:])
        if rotation.shape[0] == 1:
            rotation = repeated(rotation, turned)
        if self.oft_s is None:
            return rotate_rows(base, rotation, None)
        return rotate_columns(base, rotation, self.oft_s)
