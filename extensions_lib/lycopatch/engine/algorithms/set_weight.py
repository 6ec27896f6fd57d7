"""``set_weight``: the file holds the new weight itself, ``ΔW = set_weight − W``.

Source: the control networks of Black Forest Labs as other loaders name their keys. ``reshape_weight`` asks for a
larger layer than the model has and is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature
from lycopatch.engine.linalg import Dense, flat


@dataclass(frozen=True, slots=True)
class SetWeight(Algorithm):
    set_weight: Tensor | None = None  # the weight's own shape

    TITLE = "Set"
    NEEDS_BASE = True
    SIGNATURE = Signature((frozenset({"set_weight"}), frozenset({"reshape_weight"})))

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        if "reshape_weight" in shapes:
            return "it needs a larger layer than this model has"
        return None

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        shape = shapes.get("set_weight")
        if not shape:
            return (Footprint(),)
        cols = math.prod(shape[1:])
        return (Footprint(rows=shape[0], cols=cols),)

    def delta(self, base: Base, context: Context) -> Dense:
        assert self.set_weight is not None
        return Dense(flat(self.set_weight) - base.weight())
