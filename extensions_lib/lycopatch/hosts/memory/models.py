"""``DictModel``: a dict of tensors as the engine's ``LiveModel``."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor


class DictModel:
    """A dict of tensors, as a checkpoint file holds them. The dict is written in place, whole numbers never are."""

    def __init__(self, tensors: MutableMapping[str, Tensor]) -> None:
        self._tensors = tensors

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items() if tensor.is_floating_point()}

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def unrounded(self, name: str) -> Tensor | None:
        return None

    def compute_device(self, name: str) -> torch.device:
        return self._tensors[name].device

    def add_bias(self, name: str, weight: Tensor) -> bool:
        if name in self._tensors:
            return False
        self._tensors[name] = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        return True

    def remove_bias(self, name: str) -> None:
        self._tensors.pop(name, None)
