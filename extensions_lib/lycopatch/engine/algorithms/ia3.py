"""(IA)³: the rows or the columns of W are scaled, ``ΔW = W ⊙ w``.

Sources: Liu et al. 2022 (arXiv:2205.05638); LyCORIS ``modules/ia3.py``; peft ``tuners/ia3``, which stores the factor itself
(1 = unchanged) instead of its distance from 1, and whose output-side factor also scales the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Base, Context, Footprint, Formula, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import Dense


def _scaled(base: Base, factors: Tensor, on_input: bool) -> Dense:
    """``W ⊙ factors`` along the in axis or the out axis."""
    weight = base.weight()
    if not on_input:
        return Dense(weight * factors.reshape(-1, 1))
    kernel = weight.shape[1] // base.shape[1]
    return Dense(weight * factors.reshape(-1).repeat_interleave(kernel))


@dataclass(frozen=True, slots=True)
class IA3(Formula):
    weight: Tensor  # [dim] or [1, dim, 1, 1]
    on_input: Tensor  # one number: 0 or 1

    TITLE = "IA3"
    SIGNATURE = Signature(require("weight", "on_input"))

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        size = 1
        for extent in shapes["weight"]:
            size *= extent
        return (Footprint(inputs=size) if scalars.get("on_input") else Footprint(rows=size),)

    def delta(self, base: Base, context: Context) -> Dense:
        return _scaled(base, self.weight, bool(context.scalars["on_input"]))


@dataclass(frozen=True, slots=True)
class PeftIA3(Formula):
    ia3_l: Tensor  # [1, in] (the input is scaled) or [out, 1]

    TITLE = "IA3 (peft)"
    SIGNATURE = Signature(require("ia3_l"))

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "IA3"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        shape = shapes["ia3_l"]
        if len(shape) > 1 and shape[0] == 1:
            return (Footprint(inputs=shape[1]), Footprint(rows=shape[1]))
        return (Footprint(rows=shape[0]),)

    def delta(self, base: Base, context: Context) -> Dense:
        return _scaled(base, self.ia3_l - 1, self._on_input(base.shape))

    def bias_delta(self, bias: Tensor, context: Context) -> Tensor | None:
        factors = self.ia3_l.reshape(-1)
        if factors.numel() != bias.numel() or self._is_linear_input:
            return None
        return bias * (factors - 1)

    @property
    def _is_linear_input(self) -> bool:
        """``[1, in]``: a Linear whose input is scaled."""
        return self.ia3_l.dim() == 2 and self.ia3_l.shape[0] == 1

    def _on_input(self, shape: tuple[int, ...]) -> bool:
        """A convolution's factor is ``[1, dim, 1, 1]`` on either side: its size tells, and the output side comes first."""
        if self.ia3_l.dim() > 2:
            return self.ia3_l.numel() != shape[0]
        return self._is_linear_input
