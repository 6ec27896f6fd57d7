"""The trainers' own runtimes: a network put on a pipeline by the package that trained it, as it was while it trained.

Nothing is merged: lycoris-lora's modules stand in front of the layers' ``forward``, peft's in the place of the layers.
A pipeline that was wrapped stays wrapped.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from torch import Tensor, nn

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
"""Part of a pipeline → how kohya's names for its layers begin."""


def wrap(pipe: Any, file: Path) -> None:
    """Put the network of a file on a pipeline, at strength 1. Raises AssertionError unless all of it is in use."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
        # in fp32, as some modules add them to the model's weights in the precision of the file
        tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118
    if metadata.get("ss_network_module") == "lycoris.kohya":
        _wrap_with_lycoris(pipe, metadata, tensors)
    else:
        _wrap_with_peft(pipe, file, tensors)


def _wrap_with_peft(pipe: Any, file: Path, tensors: Mapping[str, Tensor]) -> None:
    pipe.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    loaded = [
        name
        for part in PREFIXES
        for name, _ in getattr(pipe, part).named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    ]
    assert len(loaded) == len(tensors)


def _wrap_with_lycoris(pipe: Any, metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> None:
    """Build the modules from the arguments of the training, and load the tensors into them.

    Not with ``create_network_from_weights``, which takes DyLoRA for LoRA and fails on (IA)³.
    """
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    from lycoris.config import PRESET
    from lycoris.kohya import create_network

    # in some releases of transformers there is one more level in the names of CLIP's layers, but never in the file's
    text_encoder = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    groups = {key.partition(".")[0] for key in tensors}
    layers = {
        "enable_conv": True,
        "unet_target_module": [],
        "unet_target_name": _layers(pipe.unet, PREFIXES["unet"], groups),
        "text_encoder_target_module": [],
        "text_encoder_target_name": _layers(text_encoder, PREFIXES["text_encoder"], groups),
    }
    with patch.dict(PRESET, {"layers of the file": layers}):
        network = create_network(
            1.0,
            int(metadata["ss_network_dim"]),
            float(metadata["ss_network_alpha"]),
            None,
            text_encoder,
            pipe.unet,
            preset="layers of the file",
            **json.loads(metadata["ss_network_args"]),
        )
    assert {module.lora_name for module in network.loras} == groups
    network.apply_to(text_encoder, pipe.unet, True, True)
    network.eval()
    for module in network.loras:
        if hasattr(module, "up_list"):
            _prepare_dylora(module, tensors)
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not missing
    assert not unexpected


def _layers(root: nn.Module, prefix: str, groups: set[str]) -> list[str]:
    """Patterns for the layers that a file names, each fitting one layer."""
    names = [name for name, _ in root.named_modules()]
    return [f"{re.escape(name)}$" for name in names if f"{prefix}_{name}".replace(".", "_") in groups]


def _prepare_dylora(module: Any, tensors: dict[str, Tensor]) -> None:
    """Cut a layer's tensors into the blocks of its training, and use all of them: else each forward draws a number."""
    down, up = (tensors.pop(f"{module.lora_name}.lora_{part}.weight") for part in ("down", "up"))
    for part, blocks in (("down", down.flatten(1).chunk(module.block_count)), ("up", up.chunk(module.block_count, 1))):
        tensors.update({f"{module.lora_name}.{part}_list.{number}": block for number, block in enumerate(blocks)})
    everything = (module.block_count - 1) * module.block_size
    module.get_random_rank_weight = lambda: module.get_weight(everything)


def trainers_can_run() -> bool:
    """Whether this torch is new enough for lycoris-lora."""
    return hasattr(torch.library, "custom_op")
