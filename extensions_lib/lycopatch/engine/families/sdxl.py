"""Stable Diffusion XL base: three levels, deep attention on the last two, CLIP-L and open_clip bigG."""

from __future__ import annotations

from lycopatch.engine.families.clip import CLIP_BIG_G, CLIP_L, HF, OPENCLIP
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

FAMILY = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    denoisers=(
        Denoiser(
            UNetConfig(
                channels=(320, 640, 1280),
                layout=Layout(
                    down=((0, 0), (2, 2), (10, 10)),
                    mid=(0, 10, 0),
                    up=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
                ),
                context_dim=2048,
                linear_projection=True,
                vector_dim=2816,
            )
        ),
    ),
    encoders=(
        Encoder("te1", "conditioner.embedders.0.transformer.", HF, CLIP_L),
        Encoder("te2", "conditioner.embedders.1.model.", OPENCLIP, CLIP_BIG_G),
    ),
)
