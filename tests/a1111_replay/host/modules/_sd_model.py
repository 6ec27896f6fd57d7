"""The model object: a U-Net, one or two text encoders and a VAE, where the WebUI has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules import _ldm

Shapes = Mapping[str, tuple[int, ...]]


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}


class FrozenCLIPEmbedder(_ldm.TextModel):
    """A text encoder as the model's own package has it; the WebUI wraps it."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        name = next(iter(shapes)).split(".")[0]
        self.add_module(name, _ldm.build(below(shapes, f"{name}."), _ldm.TextTower()))


class FrozenOpenCLIPEmbedder(FrozenCLIPEmbedder):
    """The same with open_clip inside."""


def embedder(shapes: Shapes) -> FrozenCLIPEmbedder:
    is_open_clip = any(name.startswith("model.") for name in shapes)
    return (FrozenOpenCLIPEmbedder if is_open_clip else FrozenCLIPEmbedder)(shapes)


class DiffusionWrapper(nn.Module):
    """``model``: what the sampler calls."""

    conditioning_key = "crossattn"

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.diffusion_model = _ldm.build(shapes, _ldm.UNet())

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.diffusion_model(x + t.reshape(-1, 1, 1, 1), context)


class Conditioner(nn.Module):
    """SDXL: the encoders' results side by side."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        count = len({name.split(".")[1] for name in shapes})
        self.embedders = nn.ModuleList(embedder(below(shapes, f"embedders.{n}.")) for n in range(count))

    def forward(self, texts: Any) -> Tensor:
        return torch.cat([each(texts) for each in self.embedders], dim=-1)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.embedders[0].tokenize(texts)

    def encode_embedding_init_text(self, init_text: str, nvpt: int) -> Tensor:
        """As wide as all encoders together: so wide an embedding's vectors have to be."""
        return torch.cat([each.encode_embedding_init_text(init_text, nvpt) for each in self.embedders], dim=1)


class LatentDiffusion(nn.Module):
    """``shared.sd_model``."""

    cond_stage_key = "txt"
    parameterization = "eps"
    sd_checkpoint_info: Any = None
    sd_model_checkpoint: str = ""
    sd_model_hash: str = ""
    used_config: str = ""
    is_sd1 = is_sd2 = is_sdxl = False

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.model = DiffusionWrapper(below(shapes, "model.diffusion_model."))
        self.first_stage_model = _ldm.Vae(below(shapes, "first_stage_model."))
        conditioner = below(shapes, "conditioner.")
        if conditioner:
            self.conditioner = Conditioner(conditioner)
        else:
            self.cond_stage_model = embedder(below(shapes, "cond_stage_model."))

    def apply_model(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.model(x, t, cond)

    def get_learned_conditioning(self, texts: list[str]) -> Tensor:
        return self.conditioner(texts) if hasattr(self, "conditioner") else self.cond_stage_model(texts)

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return self.first_stage_model.decode(z)

    @contextlib.contextmanager
    def ema_scope(self) -> Iterator[None]:
        yield
