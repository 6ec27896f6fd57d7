"""The tensors of small models with true names: what a checkpoint file of each kind holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lycopatch.engine.families import sd1, sd2, sdxl, sdxl_refiner
from lycopatch.engine.families.clip import ClipConfig
from lycopatch.engine.families.family import Denoiser, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

Shapes = Mapping[str, tuple[int, ...]]

LAYOUT = Layout(down=((0,), (1,)), mid=(0, 1, 0), up=((1, 1), (0, 0)))
WIDTH = 16
KINDS = ("sd1", "sd2", "sdxl", "refiner", "inpaint")
_FAMILIES = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl, "refiner": sdxl_refiner, "inpaint": sd1}
VAE = {"decoder.conv_out.weight": (3, 4, 1, 1), "decoder.conv_out.bias": (3,)}


@cache
def shapes_of(kind: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a checkpoint of ``kind``, the VAE's among them."""
    family: Family = _FAMILIES[kind].FAMILY
    usual = family.denoisers[0].config
    assert isinstance(usual, UNetConfig)
    encoders = tuple(replace(encoder, config=_clip(encoder.config)) for encoder in family.encoders)
    unet = replace(
        usual,
        channels=(8, 16),
        layout=LAYOUT,
        context_dim=WIDTH * len(encoders),
        vector_dim=None if usual.vector_dim is None else WIDTH,
        in_channels=9 if kind == "inpaint" else 4,
    )
    small = replace(family, denoisers=(Denoiser(unet),), encoders=encoders)
    return small.checkpoint() | {f"first_stage_model.{name}": shape for name, shape in VAE.items()}


def _clip(config: object) -> ClipConfig:
    assert isinstance(config, ClipConfig)
    return ClipConfig(
        width=WIDTH, layers=2, projection=WIDTH if config.projection else None, vocabulary=64, positions=8
    )


def random_tensors(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights of a size that keeps numbers near 1; norms about 1; others for each seed."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        center = 1.0 if len(shape) == 1 and name.endswith(".weight") else 0.0
        found[name] = (center + 0.2 * torch.randn(shape, generator=generator)).to(dtype)
    return found


def write_checkpoint(path: Path, kind: str = "sd1", *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint file; two seeds give two models of the same structure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_checkpoint(kind, seed, dtype))
    return path


@cache
def _checkpoint(kind: str, seed: int, dtype: torch.dtype) -> bytes:
    return save(random_tensors(shapes_of(kind), seed, dtype))


def write_vae(path: Path, *, seed: int = 1) -> Path:
    """A VAE file, as it lies in ``models/VAE``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(VAE, seed), path)
    return path


def write_lora(
    path: Path, layers: Mapping[str, tuple[int, ...]], *, rank: int = 2, seed: int = 1, **metadata: str
) -> Path:
    """A plain LoRA file in kohya's names: layer name (``lora_unet_…``) → shape of its weight."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in layers.items():
        tail = (1, 1) if len(shape) == 4 else ()
        tensors[f"{name}.lora_up.weight"] = 0.3 * torch.randn((shape[0], rank, *tail), generator=generator)
        tensors[f"{name}.lora_down.weight"] = 0.3 * torch.randn((rank, *shape[1:]), generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata or None)
    return path
