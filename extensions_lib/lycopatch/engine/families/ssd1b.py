"""SSD-1B: Stable Diffusion XL with attention blocks deleted and a middle of one residual block."""

from __future__ import annotations

from lycopatch.engine.families.clip import CLIP_BIG_G, CLIP_L, HF, OPENCLIP
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

FAMILY = Family(
    name="ssd1b",
    title="SSD-1B",
    denoisers=(
        Denoiser(
            UNetConfig(
                channels=(320, 640, 1280),
                layout=Layout(
                    down=((0, 0), (2, 2), (4, 4)),
                    mid=(0,),
                    up=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
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
