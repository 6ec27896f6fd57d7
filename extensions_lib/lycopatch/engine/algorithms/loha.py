"""LoHa: ``ΔW = (alpha / r) · (w1_a @ w1_b) ⊙ (w2_a @ w2_b)``, with Tucker cores for convolutions.

Sources: Hyeon-Woo et al. 2021, FedPara (arXiv:2108.06098); LyCORIS ``modules/loha.py``, ``functional/loha.py``.
OneTrainer stores the factors of a convolution with four axes; they are the same numbers flattened.
LyCORIS up to 1.9.0 trained Tucker layers with ``t1`` in both halves; nothing in a file tells, so it is applied as
stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature
from lycopatch.engine.linalg import Hadamard, LowRank, flat, tucker_down

_FACTORS = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})


def _check(shapes: Shapes) -> str | None:
    tucker = "hada_t1" in shapes
    if tucker != ("hada_t2" in shapes):
        return "only one of hada_t1 and hada_t2 is there"
    for half in ("1", "2"):
        a, b = shapes[f"hada_w{half}_a"], shapes[f"hada_w{half}_b"]
        if len(a) < 2 or len(b) < 2 or math.prod(a[2:]) != 1:
            return f"hada_w{half}_a and hada_w{half}_b must be matrices"
        if tucker:
            core = shapes[f"hada_t{half}"]
            if len(core) != 4 or core[0] != a[0] or core[1] != b[0]:
                return f"hada_t{half} does not fit its factors"
        elif a[1] != b[0]:
            return f"hada_w{half}_a and hada_w{half}_b do not share a rank"
    return None


def _footprint(shapes: Shapes, half: str) -> Footprint:
    a, b = shapes[f"hada_w{half}_a"], shapes[f"hada_w{half}_b"]
    cols = math.prod(b[1:])
    if "hada_t1" in shapes:
        core = shapes[f"hada_t{half}"]
        return Footprint(rows=a[1], cols=cols * core[2] * core[3])
    return Footprint(rows=a[0], cols=cols)


def _check_all(shapes: Shapes) -> str | None:
    why = _check(shapes)
    if why is None and _footprint(shapes, "1") != _footprint(shapes, "2"):
        return "the two halves have different sizes"
    return why


@dataclass(frozen=True, slots=True)
class LoHa(Algorithm):
    hada_w1_a: Tensor  # [out, r]; with t1: [r, out]
    hada_w1_b: Tensor  # [r, in·kh·kw]; with t1: [r, in]
    hada_w2_a: Tensor  # like w1_a
    hada_w2_b: Tensor  # like w1_b
    hada_t1: Tensor | None = None  # [r, r, kh, kw]
    hada_t2: Tensor | None = None  # [r, r, kh, kw]

    TITLE = "LoHa"
    SIGNATURE = Signature((_FACTORS,), frozenset({"hada_t1", "hada_t2"}), _check_all)

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        return shapes["hada_w1_b"][0]

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        return (_footprint(shapes, "1"),)

    def delta(self, base: Base, context: Context) -> Hadamard:
        first = _half(self.hada_w1_a, self.hada_w1_b, self.hada_t1)
        second = _half(self.hada_w2_a, self.hada_w2_b, self.hada_t2)
        return Hadamard(first, second)


def _half(a: Tensor, b: Tensor, core: Tensor | None) -> LowRank:
    if core is None:
        return LowRank(flat(a), flat(b))
    return LowRank(a.T, tucker_down(core, b))
