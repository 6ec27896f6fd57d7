"""peft's BOFT: butterfly stages of block rotations on the input side, ``W' = boft_s ⊙ (W · Matᵀ)``.

Source: peft ``tuners/boft/layer.py``: ``Q = (B − Bᵀ)/2``, ``R = (I − Q)(I + Q)⁻¹``, ``Mat = Π_i P_i·diag(R_i)·P_iᵀ``
with the first stage innermost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import Dense, cayley, skew


def _check(shapes: Shapes) -> str | None:
    blocks = shapes["boft_R"]
    if len(blocks) != 4 or blocks[2] != blocks[3]:
        return "boft_R must hold square blocks in stages"
    if math.prod(shapes["boft_s"]) != max(shapes["boft_s"], default=0):
        return "boft_s is not one number per output"
    if blocks[0] > 1 and (blocks[2] % 2 or blocks[1] % 2 ** (blocks[0] - 1)):
        return f"{blocks[1]} blocks of {blocks[2]} can not be permuted in {blocks[0]} stages"
    return None


@dataclass(frozen=True, slots=True)
class InputBOFT(Algorithm):
    boft_R: Tensor  # [M, K, n, n], K·n = in·kernel
    boft_s: Tensor  # [out, 1] or [1, out]

    TITLE = "BOFT (boft_R)"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("boft_R", "boft_s"), check=_check)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "BOFT"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        blocks = shapes["boft_R"]
        return (Footprint(rows=max(shapes["boft_s"]), cols=blocks[1] * blocks[2]),)

    def delta(self, base: Base, context: Context) -> Dense:
        weight = base.weight()
        stages, count, size, _ = self.boft_R.shape
        rotations = cayley(skew(self.boft_R) / -2)
        turned = weight.T  # [columns, out]: the rotations act on the left
        for stage in range(stages):
            chunks, half = (2 ** (stage + 1), size // 2) if size % 2 == 0 else (1, size)
            # chunk (g, t) → (t, g): the two halves of a group are interleaved, a block then holds one chunk of each
            if chunks > 2:
                turned = turned.reshape(-1, 2, chunks // 2, half, weight.shape[0]).transpose(1, 2)
            mixed = torch.bmm(rotations[stage], turned.reshape(count, size, -1))
            if chunks > 2:
                mixed = mixed.view(-1, chunks // 2, 2, half, weight.shape[0]).transpose(1, 2)
            turned = mixed.reshape(weight.shape[1], weight.shape[0])
        return Dense(turned.T * self.boft_s.reshape(-1, 1) - weight)
