"""T-LoRA: ``ΔW = (alpha / r) · (p·diag(λ)·q − base)``, the base being the product the training started from.

Sources: Soboleva et al. 2025 (arXiv:2507.05964); LyCORIS ``modules/tlora.py``, which leaves the base out of the file:
it is made of the top singular triplets of the training checkpoint and can not be known here, so such layers are
refused. The authors' own files carry it (``base_p``, ``base_lambda``, ``base_q``) and are applied at full rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import LowRank, flat

_BASE = frozenset({"base_q", "base_p", "base_lambda"})


def _check(shapes: Shapes) -> str | None:
    q, p = shapes["q_layer"], shapes["p_layer"]
    if len(q) < 2 or len(p) < 2 or q[0] != p[1]:
        return "q_layer and p_layer do not share a rank"
    if shapes.keys() >= _BASE:
        base_q, base_p = shapes["base_q"], shapes["base_p"]
        if len(base_q) < 2 or len(base_p) < 2 or base_q[0] != base_p[1] or base_q[1:] != q[1:] or base_p[0] != p[0]:
            return "its base does not fit q_layer and p_layer"
        if math.prod(shapes["base_lambda"]) != base_q[0]:
            return "base_lambda is not one number per rank"
    if math.prod(shapes["lambda_layer"]) != q[0]:
        return "lambda_layer is not one number per rank"
    return None


@dataclass(frozen=True, slots=True)
class TLoRA(Algorithm):
    q_layer: Tensor  # [r, in] or [r, in, 1, 1]
    p_layer: Tensor  # [out, r] or [out, r, 1, 1]
    lambda_layer: Tensor  # [1, r]
    base_q: Tensor | None = None
    base_p: Tensor | None = None
    base_lambda: Tensor | None = None

    TITLE = "T-LoRA"
    SIGNATURE = Signature(require("q_layer", "p_layer", "lambda_layer"), _BASE, _check)

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        if shapes.keys() >= _BASE:
            return None
        return (
            "T-LoRA stores only half of its change; the other half is the training checkpoint's own "
            "decomposition, which the file does not hold"
        )

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        return shapes["q_layer"][0]

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        return (Footprint(rows=shapes["p_layer"][0], inputs=shapes["q_layer"][1]),)

    def delta(self, base: Base, context: Context) -> LowRank:
        assert self.base_q is not None and self.base_p is not None and self.base_lambda is not None
        trained = flat(self.p_layer) * self.lambda_layer.reshape(1, -1)
        start = flat(self.base_p) * self.base_lambda.reshape(1, -1)
        down = torch.cat([flat(self.q_layer), flat(self.base_q)])
        return LowRank(torch.cat([trained, -start], dim=1), down)
