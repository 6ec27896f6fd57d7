"""``--medvram`` and ``--lowvram``: one part at a time on the card, fetched by hooks when it is called.

Without a card the parts only say where they would be: ``in_gpu`` and, in ``moves``, every fetching.
"""

from __future__ import annotations

from typing import Any

from modules import shared

in_gpu: Any = None
moves: list[Any] = []


def send_everything_to_cpu() -> None:
    global in_gpu
    in_gpu = None


def is_needed(sd_model: Any) -> bool:
    options = shared.cmd_opts
    for_sdxl = getattr(options, "medvram_sdxl", False) and hasattr(sd_model, "conditioner")
    return options.lowvram or options.medvram or for_sdxl


def apply(sd_model: Any) -> None:
    if is_needed(sd_model):
        setup_for_low_vram(sd_model, not shared.cmd_opts.lowvram)
    else:
        sd_model.lowvram = False


def setup_for_low_vram(sd_model: Any, use_medvram: bool) -> None:
    """Once per model; hooks on the text encoder, and on the U-Net or (``--lowvram``) on its blocks."""
    if getattr(sd_model, "lowvram", False):
        return
    sd_model.lowvram = True
    unet = sd_model.model.diffusion_model
    blocks = [unet.time_embed, *unet.input_blocks, unet.middle_block, *unet.output_blocks]
    for part in [_text_encoder(sd_model), *([sd_model.model] if use_medvram else blocks)]:
        part.register_forward_pre_hook(_fetch)


def _text_encoder(sd_model: Any) -> Any:
    if hasattr(sd_model, "conditioner"):
        return sd_model.conditioner
    embedder = sd_model.cond_stage_model
    return embedder.transformer if hasattr(embedder, "transformer") else embedder.model


def _fetch(module: Any, _: Any) -> None:
    global in_gpu
    if in_gpu is not module:
        in_gpu = module
        moves.append(module)


def is_enabled(sd_model: Any) -> bool:
    return getattr(sd_model, "lowvram", False)
