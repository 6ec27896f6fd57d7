"""VeRA: two frozen random matrices shared by all layers, scaled per layer, ``ΔW = (λ_b ⊙ B)(λ_d ⊙ A)``.

Source: Kopiczko et al. 2023 (arXiv:2310.11454); peft ``tuners/vera/layer.py``. Each layer uses the first rows of B
and the first columns of A. Files without A and B would need the trainer's random generator: refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import LowRank, flat


def _check(shapes: Shapes) -> str | None:
    rank = math.prod(shapes["vera_lambda_d"])
    a, b = shapes.get("vera_A", (rank, 0)), shapes.get("vera_B", (0, rank))
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        return "its lambda_d and the shared matrices do not share a rank"
    return None


@dataclass(frozen=True, slots=True)
class VeRA(Algorithm):
    vera_lambda_b: Tensor  # [out]
    vera_lambda_d: Tensor  # [r]
    vera_A: Tensor | None = None  # [r, widest in], one for the whole file
    vera_B: Tensor | None = None  # [widest out, r], one for the whole file

    TITLE = "VeRA"
    SIGNATURE = Signature(require("vera_lambda_b", "vera_lambda_d"), frozenset({"vera_A", "vera_B"}), _check)

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        if "vera_A" in shapes and "vera_B" in shapes:
            return None
        return "the file does not hold VeRA's shared matrices A and B; save it with save_projection=True"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        return (Footprint(rows=math.prod(shapes["vera_lambda_b"])),)

    def delta(self, base: Base, context: Context) -> LowRank:
        assert self.vera_A is not None and self.vera_B is not None
        rows, cols = base.shape[0], math.prod(base.shape[1:])
        if self.vera_A.shape[1] < cols or self.vera_B.shape[0] < rows:
            raise ValueError("the file's shared matrices are smaller than this layer")
        up = flat(self.vera_B)[:rows] * self.vera_lambda_b.reshape(-1, 1)
        down = flat(self.vera_A)[:, :cols] * self.vera_lambda_d.reshape(-1, 1)
        return LowRank(up, down)
