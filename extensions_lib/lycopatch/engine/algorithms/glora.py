"""GLoRA: ``ΔW = (alpha / r) · (W·A + B)``, A and B low-rank products; A acts on the input side.

Source: Chavan et al. 2023 (arXiv:2306.07967); LyCORIS ``modules/glora.py``. Two layouts of the same four tensors:

======== ============ ============ ================================
tensor   ≥ 3.0.0      ≤ 2.2.0
======== ============ ============ ================================
a1       [in, r]      [r, in]
a2       [r, in]      [in, r]
b1       [out, r]     [r, in]
b2       [r, in·k]    [out, r]
ΔW       W·(a1@a2) + b1@b2          (W@a2)@a1 + b2@b1
======== ============ ============ ================================

The four shapes decide which it is. Both read well only for a square layer; then it is the one whose rank is the smaller
side, and the newer one when they are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import Dense, LowRank, Sum, flat


def _newer(shapes: Shapes) -> Footprint | None:
    a1, a2, b1, b2 = (shapes[key] for key in ("a1", "a2", "b1", "b2"))
    if a1[1] != a2[0] or a1[0] != a2[1] or b1[1] != b2[0] or b2[1] != a1[0]:
        return None
    cols = math.prod(b2[1:])
    return Footprint(rows=b1[0], cols=cols, inputs=a1[0])


def _older(shapes: Shapes) -> Footprint | None:
    a1, a2, b1, b2 = (shapes[key] for key in ("a1", "a2", "b1", "b2"))
    if a2[1] != a1[0] or a2[0] != a1[1] or b2[1] != b1[0] or b1[1] != a1[1]:
        return None
    return Footprint(rows=b2[0], cols=b1[1], inputs=a1[1])


def _check(shapes: Shapes) -> str | None:
    if any(len(shapes[key]) < 2 for key in ("a1", "a2", "b1", "b2")):
        return "its tensors must be matrices"
    if any(math.prod(shapes[key][2:]) != 1 for key in ("a1", "a2", "b1")):
        return "only b2 may have a kernel"
    if _newer(shapes) is None and _older(shapes) is None:
        return "its four tensors fit neither the layout of LyCORIS 3 nor the one before"
    return None


def _is_newer(shapes: Shapes) -> bool:
    """True for the layout of LyCORIS 3; the shapes have passed ``_check``."""
    if _newer(shapes) is None or _older(shapes) is None:
        return _newer(shapes) is not None
    return shapes["a1"][0] >= shapes["a1"][1]


@dataclass(frozen=True, slots=True)
class GLoRA(Algorithm):
    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor

    TITLE = "GLoRA"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("a1", "a2", "b1", "b2"), check=_check)

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        return shapes["a2"][0] if _is_newer(shapes) else shapes["a1"][0]

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        layout = _newer(shapes) if _is_newer(shapes) else _older(shapes)
        assert layout is not None
        return (layout,)

    def delta(self, base: Base, context: Context) -> Sum | LowRank:
        shapes = {key: tuple(getattr(self, key).shape) for key in ("a1", "a2", "b1", "b2")}
        a1, a2, b1, b2 = flat(self.a1), flat(self.a2), flat(self.b1), flat(self.b2)
        if not _is_newer(shapes):
            up = torch.cat([base.weight() @ a2, b2], dim=1)
            return LowRank(up, torch.cat([a1, b1], dim=0))
        if len(base.shape) <= 2:
            up = torch.cat([base.weight() @ a1, b1], dim=1)
            return LowRank(up, torch.cat([a2, b2], dim=0))
        weight = base.weight().view(base.shape[0], base.shape[1], -1)  # [out, in, kernel]
        mixed = torch.einsum("oik,ir,rj->ojk", weight, a1, a2).reshape(base.shape[0], -1)
        return Sum((Dense(mixed), LowRank(b1, b2)))
