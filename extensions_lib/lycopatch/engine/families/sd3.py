"""Stable Diffusion 3 medium, with 3.5 medium and large as variants: MMDiT, CLIP-L, bigG and T5-XXL."""

from __future__ import annotations

from dataclasses import replace

from lycopatch.engine.families.clip import CLIP_BIG_G, CLIP_L, HF
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.mmdit import MMDiTConfig
from lycopatch.engine.families.t5 import T5_XXL

FAMILY = Family(
    name="sd3",
    title="Stable Diffusion 3",
    denoisers=(
        Denoiser(MMDiTConfig(depth=24, hidden=1536)),
        Denoiser(MMDiTConfig(depth=24, hidden=1536, dual_blocks=13, qk_norm=True), variant="SD3.5 medium"),
        Denoiser(MMDiTConfig(depth=38, hidden=2432, qk_norm=True), variant="SD3.5 large"),
    ),
    encoders=(
        Encoder("te1", "text_encoders.clip_l.transformer.", HF, replace(CLIP_L, projection=768)),
        Encoder("te2", "text_encoders.clip_g.transformer.", HF, CLIP_BIG_G),
        Encoder("te3", "text_encoders.t5xxl.transformer.", HF, T5_XXL),
    ),
)
