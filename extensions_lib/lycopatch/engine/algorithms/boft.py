"""BOFT: several stages of block rotations with a butterfly of the rows in between, ``ΔW = R_M … R_1 W − W``.

Sources: Liu et al. 2023 (arXiv:2311.06243); LyCORIS ``modules/boft.py``. In stage ``i`` rows ``2^i·n/2`` apart meet
in one block; R is not transposed (unlike Diag-OFT). Constraint and ``rescale`` as in Diag-OFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.algorithms.oft import constrained
from lycopatch.engine.linalg import Dense, cayley, skew


def _check(shapes: Shapes) -> str | None:
    blocks = shapes["oft_blocks"]
    if len(blocks) != 4:
        return f"oft_blocks has {len(blocks)} axes instead of four"
    stages, count, size, other = blocks
    if size != other or size % 2:
        return "its blocks are not square or of odd size"
    if "rescale" in shapes and math.prod(shapes["rescale"]) != count * size:
        return "rescale is not one number per output"
    if stages and (count * size) % (2**stages * (size // 2)):
        return f"{count} blocks of {size} can not be permuted in {stages} stages"
    return None


@dataclass(frozen=True, slots=True)
class BOFT(Algorithm):
    oft_blocks: Tensor  # [M, K, n, n], K·n = out
    rescale: Tensor | None = None  # [out, 1] or [out, 1, 1, 1]

    TITLE = "BOFT"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("oft_blocks"), frozenset({"rescale"}), _check)

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        blocks = shapes["oft_blocks"]
        return (Footprint(rows=blocks[1] * blocks[2]),)

    def delta(self, base: Base, context: Context) -> Dense:
        stages, count, size, _ = self.oft_blocks.shape
        weight = base.weight()
        rotations = cayley(constrained(skew(self.oft_blocks), context.alpha, base.shape[0], kohya=False))
        turned = weight
        for stage in range(stages):
            half = 2**stage * (size // 2)
            # rows (c, g, t) → (c, t, g): those `half` apart become neighbours
            mixed = turned.view(-1, 2, half, weight.shape[1]).transpose(1, 2).reshape(count, size, -1)
            mixed = torch.bmm(rotations[stage], mixed)
            turned = mixed.view(-1, half, 2, weight.shape[1]).transpose(1, 2).reshape_as(weight)
        if self.rescale is not None:
            turned = turned * self.rescale.reshape(-1, 1)
        return Dense(turned - weight)
