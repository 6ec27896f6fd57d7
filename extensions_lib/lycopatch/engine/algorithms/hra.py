"""HRA: a chain of Householder reflections on the input side, ``W' = W · Π_j (I − 2 û_j û_jᵀ)``.

Source: Yuan et al. 2024 (arXiv:2405.17484); peft ``tuners/hra/layer.py``. The columns of ``hra_u`` are normalised,
and with ``apply_GS`` in adapter_config.json made orthogonal first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import LowRank, norm


def _check(shapes: Shapes) -> str | None:
    return None if len(shapes["hra_u"]) == 2 else "hra_u must be a matrix"


@dataclass(frozen=True, slots=True)
class HRA(Algorithm):
    hra_u: Tensor  # [in·kh·kw, r]

    TITLE = "HRA"
    NEEDS_BASE = True
    SIGNATURE = Signature(require("hra_u"), check=_check)

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        return (Footprint(cols=shapes["hra_u"][0]),)

    def delta(self, base: Base, context: Context) -> LowRank:
        directions = self._directions("hra_orthogonal" in context.conventions)
        current = base.weight().clone()
        ups: list[Tensor] = []
        for direction in directions:
            up = -2 * (current @ direction)
            current.addr_(up, direction)
            ups.append(up)
        return LowRank(torch.stack(ups, dim=1), torch.stack(directions))

    def _directions(self, orthogonal: bool) -> list[Tensor]:
        directions: list[Tensor] = []
        for column in self.hra_u.T:
            if orthogonal:
                for earlier in directions:
                    column = column - (earlier @ column) * earlier
            directions.append(column / norm(column))
        return directions
