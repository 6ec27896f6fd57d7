"""A Stable Diffusion 1 in miniature and networks for it, made of seeded random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine.families import sd1
from lycopatch.engine.families.binding import bind
from lycopatch.engine.families.clip import ClipConfig
from lycopatch.engine.families.family import Denoiser
from lycopatch.engine.families.layers import BoundLayer
from lycopatch.engine.families.unet import UNetConfig

SEED = 20
RANK = 4


def make_checkpoint() -> dict[str, Tensor]:
    """Name → fp16 tensor of every weight, in the names of a single-file checkpoint."""
    usual = sd1.FAMILY.denoisers[0].config
    assert isinstance(usual, UNetConfig)
    unet = replace(usual, channels=(32, 64, 64, 64), context_dim=48)
    clip = replace(sd1.FAMILY.encoders[0], config=ClipConfig(width=48, layers=2, vocabulary=256))
    family = replace(sd1.FAMILY, denoisers=(Denoiser(unet),), encoders=(clip,))
    generator = torch.Generator().manual_seed(SEED)
    return {name: _random(shape, generator, 0.05) for name, shape in family.checkpoint().items()}


def make_networks(folder: Path) -> list[str]:
    """Write a LoRA, a LoKr and a DoRA as kohya and LyCORIS would; returns their names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in make_checkpoint().items()}
    layers = [layer for layer in bind(shapes).layers if _is_attention(layer)]
    generator = torch.Generator().manual_seed(SEED + 1)
    lora = {key: value for layer in layers for key, value in _lora(layer, generator)}
    lokr = {key: value for layer in layers for key, value in _lokr(layer, generator)}
    dora = {key: value for layer in layers for key, value in _dora(layer, generator)}
    metadata = {"ss_base_model_version": "sd_v1", "ss_network_dim": str(RANK)}
    for name, tensors in (("ink", lora), ("paper", lokr), ("glow", dora)):
        save_file(tensors, folder / f"{name}.safetensors", metadata | {"ss_output_name": name})
    return ["ink (LoRA)", "paper (LoKr)", "glow (DoRA)"]


def _is_attention(layer: BoundLayer) -> bool:
    return len(layer.shape) == 2 and any(mark in layer.paths[0][1] for mark in (".attn1.", ".attn2.", ".self_attn."))


def _name(layer: BoundLayer) -> str:
    """The layer as kohya spells it."""
    paths = dict(layer.paths)
    prefix, path = ("lora_unet_", paths["diffusers"]) if layer.component == "unet" else ("lora_te_", paths["hf"])
    return prefix + path.replace(".", "_")


def _lora(layer: BoundLayer, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    out, inputs = layer.shape
    yield f"{_name(layer)}.lora_up.weight", _random((out, RANK), generator, 0.1)
    yield f"{_name(layer)}.lora_down.weight", _random((RANK, inputs), generator, 0.1)
    yield f"{_name(layer)}.alpha", torch.tensor(RANK / 2)


def _lokr(layer: BoundLayer, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    out, inputs = layer.shape
    yield f"{_name(layer)}.lokr_w1", _random((4, 4), generator, 0.1)
    yield f"{_name(layer)}.lokr_w2", _random((out // 4, inputs // 4), generator, 0.1)
    yield f"{_name(layer)}.alpha", torch.tensor(float(RANK))


def _dora(layer: BoundLayer, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    yield from _lora(layer, generator)
    yield f"{_name(layer)}.dora_scale", _random((layer.shape[0], 1), generator, 0.02) + 0.4


def _random(shape: tuple[int, ...], generator: torch.Generator, deviation: float) -> Tensor:
    return (torch.randn(shape, generator=generator) * deviation).to(torch.float16)
