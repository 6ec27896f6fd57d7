"""Full: native fine-tuning, ``ΔW = diff``, ``Δb = diff_b``. No alpha.

Source: LyCORIS ``modules/full.py``; kohya's extraction scripts. ``diff_b`` may come alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature
from lycopatch.engine.linalg import Dense, flat


@dataclass(frozen=True, slots=True)
class Full(Algorithm):
    diff: Tensor | None = None  # the weight's own shape

    TITLE = "Full"
    SIGNATURE = Signature((frozenset({"diff"}), frozenset({"diff_b"})))

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        shape = shapes.get("diff")
        if shape is None:
            return (Footprint(rows=shapes["diff_b"][0] if shapes["diff_b"] else None),)
        cols = math.prod(shape[1:])
        return (Footprint(rows=shape[0] if shape else None, cols=cols),)

    def delta(self, base: Base, context: Context) -> Dense | None:
        return None if self.diff is None else Dense(flat(self.diff))
