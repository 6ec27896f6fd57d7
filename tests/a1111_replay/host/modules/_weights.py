"""From a file into the modules of a model: in place, then to half precision or fp8."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from modules import _host, devices, sd_vae, shared
from modules._checkpoints import CheckpointInfo, read_state_dict

KEEPS_SEVERAL = _host.at_least(6)
"""Since 1.6 several models may stay loaded, and get_empty_cond activates extra networks."""

checkpoints_loaded: OrderedDict[Any, dict[str, Any]] = OrderedDict()


class SkipWritingToConfig:
    """While it lasts, loading a checkpoint does not change the setting."""

    skip = False

    def __enter__(self) -> SkipWritingToConfig:
        self.previous, SkipWritingToConfig.skip = SkipWritingToConfig.skip, True
        return self

    def __exit__(self, *_: object) -> None:
        SkipWritingToConfig.skip = self.previous


def get_checkpoint_state_dict(info: CheckpointInfo) -> dict[str, Any]:
    info.calculate_shorthash()
    if info in checkpoints_loaded:
        return checkpoints_loaded[info]
    return read_state_dict(info.filename)


def check_fp8(model: Any) -> bool | None:
    if model is None:
        return None
    wanted = getattr(shared.opts, "fp8_storage", "Disable")
    return wanted == "Enable" or (wanted == "Enable for SDXL" and getattr(model, "is_sdxl", False))


def load_model_weights(model: Any, info: CheckpointInfo, state_dict: dict[str, Any] | None) -> None:
    """In place: into the modules that are there; what the file lacks stays as it is."""
    if devices.fp8:
        model.half()
    if not SkipWritingToConfig.skip:
        shared.opts.data["sd_model_checkpoint"] = info.title
    if state_dict is None:
        state_dict = get_checkpoint_state_dict(info)
    model.is_sdxl = hasattr(model, "conditioner")
    model.is_sd2 = not model.is_sdxl and hasattr(model.cond_stage_model, "model")
    model.is_sd1 = not model.is_sdxl and not model.is_sd2
    if _host.at_least(8):
        model.is_ssd = False
    if _host.at_least(10):
        model.is_sd3 = False
    _remember(info, model, state_dict, before_loading=True)
    model.load_state_dict(state_dict, strict=False)
    _remember(info, model, state_dict, before_loading=False)
    _convert(model)
    while len(checkpoints_loaded) > shared.opts.sd_checkpoint_cache:
        checkpoints_loaded.popitem(last=False)
    model.sd_model_hash = info.calculate_shorthash()
    model.sd_model_checkpoint = info.filename
    model.sd_checkpoint_info = info
    shared.opts.data["sd_checkpoint_hash"] = info.sha256
    _host.log(f"weights:{info.name_for_extra}")
    sd_vae.after_checkpoint(model, info.filename)


def _remember(info: CheckpointInfo, model: Any, state_dict: dict[str, Any], *, before_loading: bool) -> None:
    """The cache in RAM: since 1.6 what was read, in 1.5 the model's own tensors, which go on living."""
    if shared.opts.sd_checkpoint_cache > 0 and before_loading == KEEPS_SEVERAL:
        checkpoints_loaded[info] = dict(state_dict if KEEPS_SEVERAL else model.state_dict())


def _convert(model: Any) -> None:
    """To half precision, and since 1.8 to fp8 where that is switched on; never the VAE."""
    vae, model.first_stage_model = model.first_stage_model, None
    if devices.dtype == torch.float16:
        model.half()
    elif _host.at_least(6):
        model.float()
    for module in model.modules():
        for name in ("fp16_weight", "fp16_bias"):
            module.__dict__.pop(name, None)
    devices.fp8 = bool(check_fp8(model))
    if devices.fp8:
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                _to_fp8(module)
    model.first_stage_model = vae
    vae.to(devices.dtype_vae)


def _to_fp8(module: Any) -> None:
    if shared.opts.cache_fp16_weight:
        module.fp16_weight = module.weight.data.clone().cpu().half()
        if module.bias is not None:
            module.fp16_bias = module.bias.data.clone().cpu().half()
    module.to(torch.float8_e4m3fn)
