"""What one family file states: its denoiser's structure (and relatives with the same names), its text encoders."""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.families import clip, mmdit, t5, unet
from lycopatch.engine.families.clip import ClipConfig
from lycopatch.engine.families.layers import Shape
from lycopatch.engine.families.mmdit import MMDiTConfig
from lycopatch.engine.families.t5 import T5Config
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.types import Component

DenoiserConfig = UNetConfig | MMDiTConfig
EncoderConfig = ClipConfig | T5Config

DENOISER_PREFIX = "model.diffusion_model."
"""Where a single-file checkpoint keeps its U-Net or MMDiT."""


@dataclass(frozen=True, slots=True)
class Denoiser:
    """The structure of a U-Net or MMDiT; ``variant`` names a relative that is not the family's usual one."""

    config: DenoiserConfig
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder: which one, where a single-file checkpoint keeps it, in which naming."""

    component: Component
    prefix: str
    naming: str
    config: EncoderConfig


@dataclass(frozen=True, slots=True)
class Family:
    """A base model: ``name`` for programs, ``title`` for people; the first of ``denoisers`` is the usual one."""

    name: str
    title: str
    denoisers: tuple[Denoiser, ...]
    encoders: tuple[Encoder, ...]

    def checkpoint(self) -> dict[str, Shape]:
        """Return name → shape of every weight and bias in the family's single-file checkpoint, VAE excluded."""
        config = self.denoisers[0].config
        body = unet.tensors(config, unet.LDM) if isinstance(config, UNetConfig) else mmdit.tensors(config)
        shapes = {DENOISER_PREFIX + name: shape for name, shape in body.items()}
        for encoder in self.encoders:
            config = encoder.config
            text = clip.tensors(config, encoder.naming) if isinstance(config, ClipConfig) else t5.tensors(config)
            shapes |= {encoder.prefix + name: shape for name, shape in text.items()}
        return shapes
