"""Methods of peft that are recognised and refused: what they need is not in the file.

Source: peft ``tuners/{fourierft,randlora,shira,glora}``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.algorithms.base import Algorithm, Shapes, Signature

_GLORA = frozenset({"glora_A", "glora_B", "glora_C", "glora_D", "glora_E"})


@dataclass(frozen=True, slots=True)
class FourierFT(Algorithm):
    TITLE = "FourierFT"
    SIGNATURE = Signature((frozenset({"fourierft_spectrum"}),))

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        return "FourierFT's random frequencies are not in the file"


@dataclass(frozen=True, slots=True)
class RandLoRA(Algorithm):
    TITLE = "RandLoRA"
    SIGNATURE = Signature((frozenset({"randlora_lambda"}),), frozenset({"randlora_gamma"}))

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        return "RandLoRA's random bases are not in the file"


@dataclass(frozen=True, slots=True)
class SHiRA(Algorithm):
    TITLE = "SHiRA"
    SIGNATURE = Signature((frozenset({"shira_weight"}),))

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        return "SHiRA's sparse positions are not in the file"


@dataclass(frozen=True, slots=True)
class PeftGLoRA(Algorithm):
    TITLE = "GLoRA (peft)"
    SIGNATURE = Signature(tuple(frozenset({key}) for key in sorted(_GLORA)), _GLORA)

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        return "peft's GLoRA is another method than LyCORIS' and is not supported"
