"""What one reference answer is, and the reproducible random numbers that it is made of."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
HALVES = (F16, BF16)
F8 = tuple(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name))
"""None of them before torch 2.1."""

DTYPE_NAMES = {F32: "f32", F16: "f16", BF16: "bf16"} | dict(zip(F8, ("f8e4m3", "f8e5m2"), strict=False))

EXACT = 1e-6
"""Tolerance where reference and loader differ by the rounding of float32 arithmetic alone."""

NORMED = 2e-6
"""Tolerance of DoRA: a norm and a quotient more, and trainers add a float32 epsilon to the norm."""

ROTATED = 1e-5
"""Tolerance of rotations: LyCORIS hard-codes float32 in the Cayley transform, and an inverse amplifies rounding."""


@dataclass(frozen=True)
class OracleCase:
    """One adapter layer as its trainer stores it, and the weight that it must turn the model's weight into.

    ``tolerance`` bounds ``‖ΔW − ΔW_ref‖ / ‖ΔW_ref‖`` (Frobenius, ΔW before it is rounded to the model's dtype);
    where ``changes_weight`` is False nothing may change, up to ``tolerance · ‖W‖``.
    """

    id: str
    algorithm: str
    modifiers: tuple[str, ...]
    layer_kind: str
    tensors: dict[str, Tensor]  # by the saver's own key behind the layer's name: "lora_up.weight", "alpha" …
    weight: Tensor  # as the checkpoint stores it
    bias: Tensor | None
    reference_weight: Tensor | None  # float64, at multiplier 1; None: the layer is to be recognised and refused
    reference_bias: Tensor | None  # float64; None: the layer has no bias, before or after
    origin: str  # "lycoris", "peft" or "formula"
    config: dict[str, Any] | None = None  # what peft writes to adapter_config.json
    layer_prefix: str = "lora_unet_"
    tolerance: float = EXACT
    shared: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # whole keys, of the file and no layer
    changes_weight: bool = True  # False: only the bias changes, or nothing at all

    @property
    def delta(self) -> Tensor:
        """The reference ΔW, float64."""
        assert self.reference_weight is not None, f"{self.id} is a case for recognition only"
        return self.reference_weight - self.weight.double()


class Numbers:
    """Random numbers that depend on a name alone, so that adding a case changes no other."""

    def __init__(self, name: str) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64) * std

    def uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return torch.rand(*shape, generator=self._generator, dtype=torch.float64) * (high - low) + low


def stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A detached copy of ``tensor`` as a file of ``dtype`` holds it; whole numbers stay what they are."""
    tensor = tensor.detach().clone().contiguous()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def relative(error: Tensor, size: Tensor) -> float:
    """``‖error‖ / ‖size‖``."""
    return (error.norm() / size.norm()).item()


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Trainers draw their initial values from torch's global generator: put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
