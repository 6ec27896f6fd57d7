"""LoKr: ``ΔW = (alpha / r) · (w1 ⊗ w2)``, each factor full or a low-rank product, ``w2`` also with a Tucker core.

Sources: LyCORIS ``modules/lokr.py``, ``functional/lokr.py``; peft ``tuners/lokr``. GLoKr (LyCORIS 1.9 – 2.1) has the
same keys and the same product. Alpha scales only when at least one factor is low-rank, whatever number the file
holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature
from lycopatch.engine.linalg import Kronecker, flat, tucker_down

_W1 = (frozenset({"lokr_w1"}), frozenset({"lokr_w1_a", "lokr_w1_b"}))
_W2 = (frozenset({"lokr_w2"}), frozenset({"lokr_w2_a", "lokr_w2_b"}))


def _product(shapes: Shapes, factor: str) -> tuple[int, ...]:
    """The shape of ``w1`` or ``w2`` (kernel flattened into the last axis), however it is stored."""
    whole = shapes.get(f"lokr_{factor}")
    if whole is None:
        a, b = shapes[f"lokr_{factor}_a"], shapes[f"lokr_{factor}_b"]
        core = shapes.get("lokr_t2") if factor == "w2" else None
        whole = (a[0], *b[1:]) if core is None else (a[1], b[1], *core[2:])
    cols = math.prod(whole[1:])
    return (whole[0], cols)


def _check(shapes: Shapes) -> str | None:
    if any(len(shapes[key]) < 2 for key in shapes if key.startswith("lokr_")):
        return "its factors must be matrices"
    for factor in ("w1", "w2"):
        whole, parts = f"lokr_{factor}" in shapes, f"lokr_{factor}_a" in shapes
        if whole and parts:
            return f"lokr_{factor} is there both whole and in parts"
        if parts:
            a, b = shapes[f"lokr_{factor}_a"], shapes[f"lokr_{factor}_b"]
            core = shapes.get("lokr_t2") if factor == "w2" else None
            if math.prod(a[2:]) != 1 or (core is not None and math.prod(b[2:]) != 1):
                return f"lokr_{factor}_a has a kernel of its own"
            if core is None and a[1] != b[0]:
                return f"lokr_{factor}_a and lokr_{factor}_b do not share a rank"
            if core is not None and (len(core) != 4 or core[0] != a[0] or core[1] != b[0]):
                return "lokr_t2 does not fit its factors"
    if "lokr_t2" in shapes and "lokr_w2_a" not in shapes:
        return "lokr_t2 is there without lokr_w2_a and lokr_w2_b"
    return None


@dataclass(frozen=True, slots=True)
class LoKr(Algorithm):
    lokr_w1: Tensor | None = None  # [out_l, in_m]
    lokr_w1_a: Tensor | None = None  # [out_l, r]
    lokr_w1_b: Tensor | None = None  # [r, in_m]
    lokr_w2: Tensor | None = None  # [out_k, in_n] or [out_k, in_n, kh, kw]
    lokr_w2_a: Tensor | None = None  # [out_k, r]; with t2: [r, out_k]
    lokr_w2_b: Tensor | None = None  # [r, in_n·kh·kw]; with t2: [r, in_n]
    lokr_t2: Tensor | None = None  # [r, r, kh, kw]

    TITLE = "LoKr"
    SIGNATURE = Signature(tuple(one | two for one in _W1 for two in _W2), frozenset({"lokr_t2"}), _check)

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        for factor in ("lokr_w2_b", "lokr_w1_b"):
            if factor in shapes:
                return shapes[factor][0]
        return None

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        w1, w2 = _product(shapes, "w1"), _product(shapes, "w2")
        return (Footprint(rows=w1[0] * w2[0], cols=w1[1] * w2[1]),)

    def delta(self, base: Base, context: Context) -> Kronecker:
        return Kronecker(self._first(), self._second())

    def _first(self) -> Tensor:
        if self.lokr_w1 is not None:
            return flat(self.lokr_w1)
        assert self.lokr_w1_a is not None and self.lokr_w1_b is not None
        return flat(self.lokr_w1_a) @ flat(self.lokr_w1_b)

    def _second(self) -> Tensor:
        if self.lokr_w2 is not None:
            return flat(self.lokr_w2)
        assert self.lokr_w2_a is not None and self.lokr_w2_b is not None
        if self.lokr_t2 is not None:
            return self.lokr_w2_a.T @ tucker_down(self.lokr_t2, self.lokr_w2_b)
        return flat(self.lokr_w2_a) @ flat(self.lokr_w2_b)
