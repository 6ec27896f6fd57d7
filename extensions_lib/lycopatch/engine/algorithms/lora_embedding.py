"""LoRA on an embedding: ``ΔE = (alpha / r) · (B @ A)ᵀ``.

Source: peft ``tuners/lora/layer.py`` (class Embedding).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, Scalars, Shapes, Signature, require
from lycopatch.engine.linalg import LowRank


def _check(shapes: Shapes) -> str | None:
    a, b = shapes["lora_embedding_A"], shapes["lora_embedding_B"]
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        return "A and B do not share a rank"
    return None


@dataclass(frozen=True, slots=True)
class LoRAEmbedding(Algorithm):
    lora_embedding_A: Tensor  # [r, vocabulary]
    lora_embedding_B: Tensor  # [width, r]

    TITLE = "LoRA embedding"
    SIGNATURE = Signature(require("lora_embedding_A", "lora_embedding_B"), check=_check)

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        return "LoRA"

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        return shapes["lora_embedding_A"][0]

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        return (Footprint(rows=shapes["lora_embedding_A"][1], cols=shapes["lora_embedding_B"][0]),)

    def delta(self, base: Base, context: Context) -> LowRank:
        return LowRank(self.lora_embedding_A.T, self.lora_embedding_B.T)
