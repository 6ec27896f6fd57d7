"""Norm layers: ``Δγ = w_norm``, ``Δβ = b_norm``. No alpha; either may be missing.

Source: LyCORIS ``modules/norms.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature
from lycopatch.engine.linalg import Dense, flat


@dataclass(frozen=True, slots=True)
class Norm(Algorithm):
    w_norm: Tensor | None = None  # [dim]

    TITLE = "Norm"
    SIGNATURE = Signature((frozenset({"w_norm"}), frozenset({"b_norm"})))

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        shape = shapes["w_norm"] if "w_norm" in shapes else shapes["b_norm"]
        return (Footprint(rows=shape[0] if shape else None, cols=1),)

    def delta(self, base: Base, context: Context) -> Dense | None:
        return None if self.w_norm is None else Dense(flat(self.w_norm))
