"""The Stable Diffusion XL refiner: four levels of other widths, open_clip bigG alone (called the second encoder)."""

from __future__ import annotations

from lycopatch.engine.families.clip import CLIP_BIG_G, OPENCLIP
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.families.unet_layout import Layout

FAMILY = Family(
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    denoisers=(
        Denoiser(
            UNetConfig(
                channels=(384, 768, 1536, 1536),
                layout=Layout(
                    down=((0, 0), (4, 4), (4, 4), (0, 0)),
                    mid=(0, 4, 0),
                    up=((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)),
                ),
                context_dim=1280,
                linear_projection=True,
                vector_dim=2560,
            )
        ),
    ),
    encoders=(Encoder("te2", "conditioner.embedders.0.model.", OPENCLIP, CLIP_BIG_G),),
)
