"""What the configs generate is, to the last name and shape, what the real models hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lycopatch.engine.families import clip, sd1, sd2, sdxl, sdxl_refiner, unet
from lycopatch.engine.families.clip import CLIP_BIG_G, CLIP_H, CLIP_L, ClipConfig
from lycopatch.engine.families.family import Family
from lycopatch.engine.families.layers import Shape
from lycopatch.engine.families.unet import UNetConfig

Keyset = Callable[[str], dict[str, Shape]]

BUFFERS = ("position_ids", "logit_scale", "betas", "alphas_cumprod", "alphas_cumprod_prev", "variance", "clipped")


def without_vae_and_buffers(shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(("first_stage_model.", "posterior_", "sqrt_", "log_")) and not name.endswith(BUFFERS)
    }


def unet_config(family: Family, **changes: int) -> UNetConfig:
    config = family.denoisers[0].config
    assert isinstance(config, UNetConfig)
    return replace(config, **changes)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("sd15_checkpoint", sd1.FAMILY),
        ("sd21_checkpoint", sd2.FAMILY),
        ("sdxl_base_checkpoint", sdxl.FAMILY),
        ("sdxl_refiner_checkpoint", sdxl_refiner.FAMILY),
    ],
)
def test_a_familys_checkpoint_is_the_real_one_without_vae_and_buffers(
    name: str, family: Family, keyset: Keyset
) -> None:
    assert family.checkpoint() == without_vae_and_buffers(keyset(name))


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("sd15_diffusers_unet", unet_config(sd1.FAMILY), 686),
        ("sd15_inpainting_diffusers_unet", unet_config(sd1.FAMILY, in_channels=9), 686),
        ("sd21_diffusers_unet", unet_config(sd2.FAMILY), 686),
        ("sdxl_base_diffusers_unet", unet_config(sdxl.FAMILY), 1680),
        ("sdxl_refiner_diffusers_unet", unet_config(sdxl_refiner.FAMILY), 1220),
    ],
)
def test_a_u_net_in_diffusers_names_is_the_real_one(name: str, config: UNetConfig, count: int, keyset: Keyset) -> None:
    shapes = unet.tensors(config, unet.DIFFUSERS)
    assert shapes == keyset(name)
    assert len(shapes) == len(unet.tensors(config, unet.LDM)) == count


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("clip_l_transformers_te", CLIP_L),
        ("sd2_transformers_te", replace(CLIP_H, layers=23, projection=None)),
        ("sdxl_te2_transformers", CLIP_BIG_G),
    ],
)
def test_a_text_encoder_in_transformers_names_is_the_real_one(name: str, config: ClipConfig, keyset: Keyset) -> None:
    assert clip.tensors(config, clip.HF) == keyset(name)
