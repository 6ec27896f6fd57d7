"""What different trainers put around their tensors in a pickle, taken off: object → name → tensor.

A state dict as it is; one level of ``state_dict``; HCP-Diffusion's ``lora``, ``plugin`` and ``base`` side by side;
and the plain list of the first LoRA trainer (cloneofsimo/lora): up and down factors in the order of its walk through
the model, named here as the safetensors files of that same trainer name them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

import torch

from lycopatch.engine.wording import shown

_HCP_CONTAINERS = ("lora", "plugin", "base")

_LIST_OWNERS: dict[int, str] = {256: "unet", 288: "unet", 96: "text_encoder"}
# Two tensors each for 8 projections in 16 attention blocks of SD 1 (and 2); the same and the 16 feed-forward inputs;
# 4 projections in the 12 layers of SD 1's text encoder. A list has no names: its length is all there is to go by.

_log = logging.getLogger(__name__)


class NotTensors(Exception):
    """What was loaded is not a set of usable tensors; the text is the reason as a sentence."""


def named_tensors(loaded: object) -> dict[str, torch.Tensor]:
    """The tensors in ``loaded`` by name; values that are no tensors are left out. Raises NotTensors when none stay."""
    if isinstance(loaded, (list, tuple)):
        return _numbered(cast("Sequence[object]", loaded))
    if not isinstance(loaded, dict):
        raise NotTensors(f"it holds no named tensors but one {type(loaded).__name__}.")
    content = cast("Mapping[object, object]", loaded)
    tensors: dict[str, torch.Tensor] = {}
    dropped = 0
    for part in _unwrapped(content):
        for name, value in part.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                dropped += 1
            elif name in tensors:
                raise NotTensors(f"it contains the tensor {shown(name)} in two of its parts.")
            else:
                tensors[name] = value
    if dropped:
        _log.info("%d values that are no named tensors were left out", dropped)
    if not tensors:
        raise NotTensors("it holds no named tensors.")
    return tensors


def _unwrapped(content: Mapping[object, object]) -> list[Mapping[object, object]]:
    """The dicts whose items are the tensors."""
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return [content]
    inner = content.get("state_dict")
    if isinstance(inner, dict):
        content = cast("Mapping[object, object]", inner)
    parts = [content[name] for name in _HCP_CONTAINERS if isinstance(content.get(name), dict)]
    return cast("list[Mapping[object, object]]", parts) or [content]


def _numbered(values: Sequence[object]) -> dict[str, torch.Tensor]:
    owner = _LIST_OWNERS.get(len(values))
    if owner is None or not all(isinstance(value, torch.Tensor) for value in values):
        known = ", ".join(str(length) for length in sorted(_LIST_OWNERS))
        raise NotTensors(
            f"it is a list of {len(values)} values without names, and only lists of {known} tensors have a known "
            "order. Convert it to safetensors with the program that made it."
        )
    tensors = cast("Sequence[torch.Tensor]", values)
    return {f"{owner}:{index // 2}:{('up', 'down')[index % 2]}": tensor for index, tensor in enumerate(tensors)}
