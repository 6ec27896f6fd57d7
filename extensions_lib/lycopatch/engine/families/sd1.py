"""Stable Diffusion 1.x: four levels, attention on the first three, CLIP-L."""

from __future__ import annotations

from lycopatch.engine.families.clip import CLIP_L, HF
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

FAMILY = Family(
    name="sd1",
    title="Stable Diffusion 1",
    denoisers=(
        Denoiser(
            UNetConfig(
                channels=(320, 640, 1280, 1280),
                layout=Layout(
                    down=((1, 1), (1, 1), (1, 1), (0, 0)),
                    mid=(0, 1, 0),
                    up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
                ),
                context_dim=768,
                linear_projection=False,
            )
        ),
    ),
    encoders=(Encoder("te1", "cond_stage_model.transformer.", HF, CLIP_L),),
)
