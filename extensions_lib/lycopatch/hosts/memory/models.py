"""Models without a host: a dict of tensors, or modules in checkpoint naming."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor, nn


class DictModel:
    """A dict of tensors, as a checkpoint file holds them. The dict is written in place."""

    def __init__(self, tensors: MutableMapping[str, Tensor]) -> None:
        self._tensors = tensors

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def compute_device(self, name: str) -> torch.device:
        return self._tensors[name].device

    def add_bias(self, name: str, weight: Tensor) -> bool:
        self._tensors[name] = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        return True

    def remove_bias(self, name: str) -> None:
        del self._tensors[name]


class ModuleModel:
    """One or more modules, each below a prefix of names: ``{"unet.": pipe.unet, …}``, or ``{"": model}``."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {
            prefix + name: tuple(parameter.shape)
            for prefix, module in self._modules.items()
            for name, parameter in module.named_parameters()
        }

    def tensor(self, name: str) -> Tensor:
        owner, attribute = self._owner(name)
        return getattr(owner, attribute).detach()

    def compute_device(self, name: str) -> torch.device:
        return self.tensor(name).device

    def add_bias(self, name: str, weight: Tensor) -> bool:
        owner, attribute = self._owner(name)
        if getattr(owner, attribute, self) is not None:
            return False
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        owner.register_parameter(attribute, nn.Parameter(bias, requires_grad=False))
        return True

    def remove_bias(self, name: str) -> None:
        owner, attribute = self._owner(name)
        owner.register_parameter(attribute, None)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that has the parameter, looked up by path: modules may be replaced, names stay."""
        prefix = max((each for each in self._modules if name.startswith(each)), key=len)
        path, _, attribute = name.removeprefix(prefix).rpartition(".")
        return self._modules[prefix].get_submodule(path), attribute

