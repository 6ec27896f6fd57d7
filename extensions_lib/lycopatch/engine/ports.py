"""What the engine asks of a host: a model whose tensors can be written in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class LiveModel(Protocol):
    """A loaded model as named tensors. Names are stable for as long as the model is the same object."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name → shape of every parameter of real numbers; whole numbers are codes, to which nothing can be added."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor that forward passes use now; written with ``copy_``, never replaced."""
        ...

    def unrounded(self, name: str) -> Tensor | None:
        """The original in more digits than the live tensor has, where the host keeps one (fp8 storage); else None."""
        ...

    def compute_device(self, name: str) -> torch.device:
        """Where to compute a patch of this tensor; it may rest elsewhere."""
        ...

    def add_bias(self, name: str, weight: Tensor) -> bool:
        """Give a layer without bias one of zeros, like ``weight`` in dtype and device; False when impossible."""
        ...

    def remove_bias(self, name: str) -> None:
        """Take back what ``add_bias`` gave."""
        ...
