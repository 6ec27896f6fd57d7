"""Diag-OFT: blocks of rows of W are rotated, ``W'[k] = R_kᵀ W[k]``, ``R = (I + Q)(I − Q)⁻¹``, ``Q = B − Bᵀ``.

Sources: Qiu et al. 2023 (arXiv:2306.07280); LyCORIS ``modules/diag_oft.py``; kohya ``networks/oft.py``. ``alpha`` is
not a scale but the constraint: ‖Q‖ (all blocks together) is held below ``alpha · out``. LyCORIS reads 0 as "no
constraint", kohya as "no rotation". ``rescale`` multiplies the rows afterwards. The bias is not rotated.

``oft_diag`` (LyCORIS 2.0.0 – 2.0.2) holds the finished R; development versions of late 2023 held R − I under that name,
which the diagonal tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import Dense, cayley, norm, skew


def constrained(q: Tensor, alpha: float | None, outputs: int, *, kohya: bool) -> Tensor:
    """``Q`` held to the norm that its trainer allowed; ``q`` ``[…, n, n]``, the norm taken over all of it."""
    limit = (alpha or 0.0) * outputs
    size = norm(q)
    if kohya:
        return q * ((torch.clamp(size, max=limit) + 1e-8) / (size + 1e-8))
    if limit <= 0 or size + 1e-8 <= limit:
        return q
    return q * (limit / (size + 1e-8))


def _check(shapes: Shapes) -> str | None:
    blocks = shapes["oft_blocks"]
    if len(blocks) != 3:
        return f"oft_blocks has {len(blocks)} axes instead of three"
    if blocks[1] != blocks[2]:
        return "its blocks are not square"
    if "rescale" in shapes and math.prod(shapes["rescale"]) != blocks[0] * blocks[1]:
        return "rescale is not one number per output"
    return None


def _check_diag(shapes: Shapes) -> str | None:
    blocks = shapes["oft_diag"]
    if len(blocks) != 3 or blocks[1] != blocks[2]:
        return "oft_diag must be a list of square blocks"
    return None


def rotate_rows(base: Base, rotation: Tensor, rescale: Tensor | None) -> Dense:
    """``ΔW`` of ``W'[k] = R_kᵀ W[k]``, rows then times ``rescale`` ``[out, 1, …]``; ``rotation`` ``[K, n, n]``."""
    weight = base.weight()
    blocks = weight.view(rotation.shape[0], rotation.shape[1], -1)
    if rescale is None:
        # (R − I)ᵀ W: nothing cancels when the rotation is small.
        eye = torch.eye(rotation.shape[1], dtype=rotation.dtype, device=rotation.device)
        return Dense(torch.bmm((rotation - eye).transpose(1, 2), blocks).view_as(weight))
    turned = torch.bmm(rotation.transpose(1, 2), blocks).view_as(weight)
    return Dense(turned * rescale.reshape(-1, 1) - weight)


@dataclass(frozen=True, slots=True)
class DiagOFT(Algorithm):
    oft_blocks: Tensor  # [K, n, n], K·n = out
    rescale: Tensor | None = None  # [out, 1] or [out, 1, 1, 1]

    TITLE = "OFT"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("oft_blocks"), frozenset({"rescale"}), _check)

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        blocks = shapes["oft_blocks"]
        return (Footprint(rows=blocks[0] * blocks[1]),)

    def delta(self, base: Base, context: Context) -> Dense:
        kohya = "kohya_oft" in context.conventions
        q = constrained(skew(self.oft_blocks), context.alpha, base.shape[0], kohya=kohya)
        return rotate_rows(base, cayley(q), self.rescale)


@dataclass(frozen=True, slots=True)
class OFTDiag(Algorithm):
    oft_diag: Tensor  # [K, n, n], the rotation itself

    TITLE = "OFT (oft_diag)"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("oft_diag"), check=_check_diag)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "OFT"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        blocks = shapes["oft_diag"]
        return (Footprint(rows=blocks[0] * blocks[1]),)

    def delta(self, base: Base, context: Context) -> Dense:
        rotation = self.oft_diag
        diagonal = rotation.diagonal(dim1=-2, dim2=-1)
        if diagonal.abs().mean() < 0.5:
            rotation = rotation + torch.eye(rotation.shape[-1], dtype=rotation.dtype, device=rotation.device)
        return rotate_rows(base, rotation, None)
