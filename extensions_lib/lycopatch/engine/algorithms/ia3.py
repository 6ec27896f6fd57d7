"""(IA)³: the rows or the columns of W are scaled, ``ΔW = W ⊙ w``.

Sources: Liu et al. 2022 (arXiv:2205.05638); LyCORIS ``modules/ia3.py``; peft ``tuners/ia3``, which stores the factor
itself (1 = unchanged) instead of its distance from 1, and whose output-side factor also scales the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import Dense


def _check(shapes: Shapes) -> str | None:
    return None if math.prod(shapes["on_input"]) == 1 else "on_input is more than one number"


def _check_peft(shapes: Shapes) -> str | None:
    return None if len(shapes["ia3_l"]) >= 2 else "ia3_l must have two axes"


def _scaled(base: Base, factors: Tensor, on_input: bool) -> Dense:
    """``W ⊙ factors`` along the in axis or the out axis."""
    weight = base.weight()
    outputs, inputs = base.shape[0], base.shape[1] if len(base.shape) > 1 else 1
    size = inputs if on_input else outputs
    if factors.numel() != size:
        raise ValueError(f"it has {factors.numel()} factors for {size} {'inputs' if on_input else 'outputs'}")
    if not on_input:
        return Dense(weight * factors.reshape(-1, 1))
    kernel = weight.shape[1] // inputs
    return Dense(weight * factors.reshape(-1).repeat_interleave(kernel))


@dataclass(frozen=True, slots=True)
class IA3(Algorithm):
    weight: Tensor  # [dim] or [1, dim, 1, 1]
    on_input: Tensor  # one number: 0 or 1

    TITLE = "IA3"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("weight", "on_input"), check=_check)

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        size = math.prod(shapes["weight"])
        return (Footprint(inputs=size) if scalars.get("on_input") else Footprint(rows=size),)

    def delta(self, base: Base, context: Context) -> Dense:
        return _scaled(base, self.weight, bool(context.scalars["on_input"]))


@dataclass(frozen=True, slots=True)
class PeftIA3(Algorithm):
    ia3_l: Tensor  # [1, in] (the input is scaled) or [out, 1]

    TITLE = "IA3 (peft)"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("ia3_l"), check=_check_peft)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "IA3"

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        first, second = shapes["ia3_l"][:2]
        if first == 1:
            return (Footprint(inputs=second), Footprint(rows=second))
        return (Footprint(rows=first),)

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
        """A convolution's factor is ``[1, dim, 1, 1]`` on either side: its size tells, the output side first."""
        if self.ia3_l.dim() > 2:
            return self.ia3_l.numel() != shape[0]
        return self._is_linear_input
