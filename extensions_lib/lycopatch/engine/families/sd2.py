"""Stable Diffusion 2.x: the blocks of version 1 with linear projections, and open_clip ViT-H."""

from __future__ import annotations

from lycopatch.engine.families.clip import CLIP_H, OPENCLIP
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

FAMILY = Family(
    name="sd2",
    title="Stable Diffusion 2",
    denoisers=(
        Denoiser(
            UNetConfig(
                channels=(320, 640, 1280, 1280),
                layout=Layout(
                    down=((1, 1), (1, 1), (1, 1), (0, 0)),
                    mid=(0, 1, 0),
                    up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
                ),
                context_dim=1024,
                linear_projection=True,
            )
        ),
    ),
    encoders=(Encoder("te1", "cond_stage_model.model.", OPENCLIP, CLIP_H),),
)
