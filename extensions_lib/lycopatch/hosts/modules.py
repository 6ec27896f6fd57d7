"""``ModuleModel``: torch modules as the engine's ``LiveModel``, whatever wraps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from lycopatch.engine.errors import UnknownModel

COMPILED = "_orig_mod."
"""The level that ``torch.compile`` inserts in the path of a module."""


class ModuleModel:
    """One or more modules, each below a prefix of names: ``{"unet.": pipe.unet, …}``, or ``{"": model}``.

    Names are those of the modules before ``torch.compile`` wrapped them. Quantised weights (stored as integers) are no
    part of the model. ``tensor`` raises UnknownModel for a weight that accelerate moved out of reach.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = {prefix: uncompiled(module) for prefix, module in modules.items()}
        self._given_biases: dict[str, nn.Module] = {}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {
            prefix + name.replace(COMPILED, ""): tuple(parameter.shape)
            for prefix, module in self._modules.items()
            for name, parameter in module.named_parameters()
            if parameter.is_floating_point()
        }

    def tensor(self, name: str) -> Tensor:
        owner, attribute = self._owner(name)
        live = getattr(owner, attribute).detach()
        return self._offloaded(name) if live.device.type == "meta" else live

    def unrounded(self, name: str) -> Tensor | None:
        return None

    def compute_device(self, name: str) -> torch.device:
        return self.tensor(name).device

    def add_bias(self, name: str, weight: Tensor) -> bool:
        owner, attribute = self._owner(name)
        # sequential offload hands a module only the weights that it knew when it was switched on
        if getattr(owner, attribute, self) is not None or any(_weights_kept_by(owner)):
            return False
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        owner.register_parameter(attribute, nn.Parameter(bias, requires_grad=False))
        self._given_biases[name] = owner
        return True

    def remove_bias(self, name: str) -> None:
        # from the module that got it: another one may stand in its place by now, with a bias of its own
        self._given_biases.pop(name).register_parameter(name.rpartition(".")[2], None)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module that has the parameter, looked up by path: modules may be replaced, names stay."""
        module, path = self._split(name)
        path, _, attribute = path.rpartition(".")
        return uncompiled(module.get_submodule(path)), attribute

    def _split(self, name: str) -> tuple[nn.Module, str]:
        prefix = max((each for each in self._modules if name.startswith(each)), key=len)
        return self._modules[prefix], name.removeprefix(prefix)

    def _offloaded(self, name: str) -> Tensor:
        """Where accelerate keeps a weight between its uses: with the hook of the module, or of one around it."""
        module, path = self._split(name)
        inner = path.split(".")
        for cut in range(len(inner) - 1, -1, -1):
            owner = uncompiled(module.get_submodule(".".join(inner[:cut])))
            for kept in _weights_kept_by(owner):
                found = _same_each_time(kept, ".".join(inner[cut:]))
                if found is not None:
                    return found.detach()
        raise UnknownModel(
            f'its weight "{name}" is on the meta device, which holds no numbers; load the model into memory, '
            "without offloading to disk"
        )


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, or the module itself."""
    return cast(nn.Module, getattr(module, "_orig_mod", module))


def _weights_kept_by(module: nn.Module) -> Iterator[Mapping[str, Any]]:
    """The weights that accelerate's hooks on a module put into it before each use and take out again."""
    hook = getattr(module, "_hf_hook", None)
    for each in (hook, *getattr(hook, "hooks", ())):
        kept = getattr(each, "weights_map", None)
        if isinstance(kept, Mapping):
            yield cast("Mapping[str, Any]", kept)


def _same_each_time(kept: Mapping[str, Any], name: str) -> Tensor | None:
    """The tensor in memory that every use takes; None when it is read from disk anew, so that writing would be lost."""
    first, second = kept.get(name), kept.get(name)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.device.type == "meta":
        return None
    return first if first.data_ptr() == second.data_ptr() else None
