"""LoRA and LoCon: ``ΔW = (alpha / r) · up @ down``; Tucker form ``up @ (mid ×₂ down)``.

Sources: Hu et al. 2021 (arXiv:2106.09685); LyCORIS ``modules/locon.py``; kohya ``networks/lora.py``,
``networks/dylora.py``; peft ``tuners/lora`` and ``tuners/adalora`` (``lora_E`` scales the ranks one by one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import LowRank, flat, tucker_down


def _check(shapes: Shapes) -> str | None:
    up, down, mid = shapes["lora_up"], shapes["lora_down"], shapes.get("lora_mid")
    if len(up) < 2 or len(down) < 2:
        return "up and down must be matrices"
    inner_up, inner_down = (mid[0], mid[1]) if mid is not None and len(mid) == 4 else (up[1], up[1])
    if mid is not None and len(mid) != 4:
        return "lora_mid must have four axes"
    if math.prod(up[2:]) != 1 or (mid is not None and math.prod(down[2:]) != 1):
        return "lora_up has a kernel of its own"
    if up[1] != inner_up or down[0] != inner_down:
        return f"the rank of up is {up[1]}, that of down is {down[0]}"
    if "lora_E" in shapes and math.prod(shapes["lora_E"]) != down[0]:
        return "lora_E is not one number per rank"
    return None


@dataclass(frozen=True, slots=True)
class LoRA(Algorithm):
    lora_up: Tensor  # [out, r] or [out, r, 1, 1]
    lora_down: Tensor  # [r, in] or [r, in, kh, kw]
    lora_mid: Tensor | None = None  # [r_up, r_down, kh, kw]; then down is [r_down, in, 1, 1]
    lora_E: Tensor | None = None  # [r, 1], AdaLoRA's singular values

    TITLE = "LoRA"
    SIGNATURE = Signature(require("lora_up", "lora_down"), frozenset({"lora_mid", "lora_E"}), _check)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        kernel = shapes["lora_down"][2:] + shapes.get("lora_mid", ())[2:]
        return "LoCon" if any(extent > 1 for extent in kernel) else "LoRA"

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        return shapes["lora_down"][0]

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        kernel = math.prod(shapes.get("lora_mid", shapes["lora_down"])[2:])
        return (Footprint(rows=shapes["lora_up"][0], cols=shapes["lora_down"][1] * kernel),)

    def delta(self, base: Base, context: Context) -> LowRank:
        up, down = flat(self.lora_up), flat(self.lora_down)
        if self.lora_mid is not None:
            down = tucker_down(self.lora_mid, down)
        elif context.dyn_dim is not None:
            # As in A1111: fewer ranks, but alpha is still divided by the full rank.
            up, down = up[:, : context.dyn_dim], down[: context.dyn_dim]
        if self.lora_E is not None:
            up = up * self.lora_E.reshape(1, -1)[:, : up.shape[1]]
        return LowRank(up, down)
