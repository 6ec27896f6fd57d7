"""The WebUI's model as the engine's ``LiveModel``.

Parameters are held through the modules that own them: the WebUI swaps ``param.data`` when it moves or converts a model,
and inserts and removes levels of the module tree (``wrapped``) whenever it loads weights, but the modules stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

TOKEN_TABLES = ("token_embedding", "embed_tokens", "shared", "word_embeddings")
"""What CLIP, T5 and XLM-R call the table of their tokens."""


class WebUIModel:
    """A model of the WebUI by the names its parameters have now; they stay valid while its structure does."""

    def __init__(self, model: nn.Module, compute_device: Callable[[], torch.device]) -> None:
        self._compute_device = compute_device
        self._owners: dict[str, tuple[nn.Module, str]] = {
            f"{path}.{attribute}" if path else attribute: (module, attribute)
            for path, module in model.named_modules()
            for attribute, parameter in module.named_parameters(recurse=False)
            if parameter.is_floating_point()
        }

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(getattr(owner, attribute).shape) for name, (owner, attribute) in self._owners.items()}

    def tensor(self, name: str) -> Tensor:
        owner, attribute = self._owners[name]
        return getattr(owner, attribute).detach()

    def unrounded(self, name: str) -> Tensor | None:
        owner, attribute = self._owners[name]
        if getattr(owner, attribute).element_size() > 1:
            return None  # a copy that was left behind when fp8 storage was switched off
        return getattr(owner, f"fp16_{attribute}", None)

    def compute_device(self, name: str) -> torch.device:
        return self._compute_device()

    def add_bias(self, name: str, weight: Tensor) -> bool:
        path, _, attribute = name.rpartition(".")
        owner, _ = self._owners[f"{path}.weight"]
        if getattr(owner, attribute, self) is not None:
            return False
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        owner.register_parameter(attribute, nn.Parameter(bias, requires_grad=False))
        self._owners[name] = owner, attribute
        return True

    def remove_bias(self, name: str) -> None:
        owner, attribute = self._owners.pop(name)
        owner.register_parameter(attribute, None)


def token_tables(model: nn.Module) -> list[nn.Module]:
    """The token embeddings of a model's text encoders: the first thing that each of them uses, whatever wraps it."""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) and path.removesuffix(".wrapped").endswith(TOKEN_TABLES)
    ]


def is_gone(model: nn.Module) -> bool:
    """True when the WebUI threw a model's weights away (they are on the meta device)."""
    return any(parameter.is_meta for parameter in model.parameters())
