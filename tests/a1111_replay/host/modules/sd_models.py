"""Loading, switching, keeping and throwing away models, with the callbacks each release fires while it does."""

from __future__ import annotations

import threading
from typing import Any

import torch

from modules import _host, devices, errors, lowvram, script_callbacks, sd_hijack, sd_unet, sd_vae, shared
from modules._checkpoints import (  # noqa: F401
    CheckpointInfo,
    checkpoint_aliases,
    checkpoints_list,
    find_checkpoint_config,
    get_closet_checkpoint_match,
    list_models,
    model_path,
    read_metadata_from_safetensors,
    read_state_dict,
    select_checkpoint,
)
from modules._sd_model import LatentDiffusion
from modules._weights import (  # noqa: F401
    KEEPS_SEVERAL,
    SkipWritingToConfig,
    check_fp8,
    checkpoints_loaded,
    get_checkpoint_state_dict,
    load_model_weights,
)


class SdModelData:
    def __init__(self) -> None:
        self.sd_model: Any = None
        self.loaded_sd_models: list[Any] = []
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()
        if not KEEPS_SEVERAL:
            del self.loaded_sd_models

    def get_sd_model(self) -> Any:
        """Loads one if there never was one; None after that failed, or after unloading."""
        if self.was_loaded_at_least_once or self.sd_model is not None:
            return self.sd_model
        with self.lock:
            if self.sd_model is None and not self.was_loaded_at_least_once:
                try:
                    load_model()
                except Exception as e:
                    errors.display(e, "loading stable diffusion model")
                    self.sd_model = None
        return self.sd_model

    def set_sd_model(self, v: Any, already_loaded: bool = False) -> None:
        self.sd_model = v
        if not KEEPS_SEVERAL:
            return
        if already_loaded:
            sd_vae.take_state_from(v)
        self.loaded_sd_models[:] = [model for model in self.loaded_sd_models if model is not v]
        if v is not None:
            self.loaded_sd_models.insert(0, v)


model_data = SdModelData()


def get_empty_cond(sd_model: Any) -> Any:
    """The empty prompt without networks: since 1.6 every handler is called with nothing, for a bare ``p``."""
    if KEEPS_SEVERAL:
        from modules import extra_networks, processing

        _host.log("get_empty_cond")
        extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
    return sd_model.get_learned_conditioning([""])


def send_model_to_cpu(m: Any) -> None:
    if m is not None and m.lowvram:
        lowvram.send_everything_to_cpu()
    elif m is not None:
        m.to(devices.cpu)


def send_model_to_device(m: Any) -> None:
    lowvram.apply(m)
    if not m.lowvram:
        m.to(devices.device)


def send_model_to_trash(m: Any) -> None:
    _host.log("trash")
    m.to(device="meta")


def load_model(checkpoint_info: CheckpointInfo | None = None, already_loaded_state_dict: Any = None) -> Any:
    """A new tree of modules. The old one goes to the meta device (until 1.5 it is only forgotten)."""
    info = checkpoint_info or select_checkpoint()
    if model_data.sd_model:
        if KEEPS_SEVERAL:
            send_model_to_trash(model_data.sd_model)
        else:
            sd_hijack.model_hijack.undo_hijack(model_data.sd_model)
        model_data.sd_model = None
    state_dict = already_loaded_state_dict or get_checkpoint_state_dict(info)
    config = find_checkpoint_config(state_dict, info)
    sd_model: Any = LatentDiffusion(_host.current.structures[config])
    sd_model.used_config = config
    load_model_weights(sd_model, info, state_dict)
    send_model_to_device(sd_model)
    sd_hijack.model_hijack.hijack(sd_model)
    sd_model.eval()
    model_data.set_sd_model(sd_model)
    model_data.was_loaded_at_least_once = True
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    script_callbacks.model_loaded_callback(sd_model)
    with devices.autocast(), torch.no_grad():
        sd_model.cond_stage_model_empty_prompt = get_empty_cond(sd_model)
    return sd_model


def reuse_model_from_already_loaded(sd_model: Any, info: CheckpointInfo) -> Any:
    """The loaded model of this checkpoint; or one to load it into; or None. Models over the limit are thrown away."""
    if sd_model is not None and sd_model.sd_checkpoint_info.filename == info.filename:
        return sd_model
    if shared.opts.sd_checkpoints_keep_in_cpu:
        send_model_to_cpu(sd_model)
    loaded = model_data.loaded_sd_models
    already = next((model for model in loaded if model.sd_checkpoint_info.filename == info.filename), None)
    for model in reversed([model for model in loaded if model is not already]):
        if len(loaded) > shared.opts.sd_checkpoints_limit > 0:
            loaded[:] = [each for each in loaded if each is not model]
            send_model_to_trash(model)
    if already is not None:
        send_model_to_device(already)
        model_data.set_sd_model(already, already_loaded=True)
        if not SkipWritingToConfig.skip:
            shared.opts.data["sd_model_checkpoint"] = already.sd_checkpoint_info.title
        _host.log(f"reused:{info.name_for_extra}")
        sd_vae.reload_vae_weights(already)
        return model_data.sd_model
    if len(loaded) < shared.opts.sd_checkpoints_limit and shared.opts.sd_checkpoints_limit > 1:
        model_data.sd_model = None
        load_model(info)
        return model_data.sd_model
    if loaded:
        model_data.sd_model = sd_model = loaded.pop()
        sd_vae.take_state_from(sd_model)
        return sd_model
    return None


def reload_model_weights(sd_model: Any = None, info: CheckpointInfo | None = None, forced_reload: bool = False) -> Any:
    """Make the chosen checkpoint (or ``info``) the current one, in the cheapest way."""
    info = info or select_checkpoint()
    sd_model = sd_model or model_data.sd_model
    previous = None if sd_model is None else sd_model.sd_checkpoint_info
    if sd_model is not None:
        if _host.at_least(8) and check_fp8(sd_model) != devices.fp8:
            forced_reload = True
        elif sd_model.sd_model_checkpoint == info.filename and not forced_reload:
            return sd_model
    if KEEPS_SEVERAL:
        sd_model = reuse_model_from_already_loaded(sd_model, info)
        if not forced_reload and sd_model is not None and sd_model.sd_checkpoint_info.filename == info.filename:
            return sd_model
    if sd_model is not None:
        sd_unet.apply_unet("None")
        send_model_to_cpu(sd_model)
        sd_hijack.model_hijack.undo_hijack(sd_model)
    state_dict = get_checkpoint_state_dict(info)
    if sd_model is None or find_checkpoint_config(state_dict, info) != sd_model.used_config:
        if sd_model is not None and KEEPS_SEVERAL:
            send_model_to_trash(sd_model)
        load_model(info, already_loaded_state_dict=state_dict)
        return model_data.sd_model
    _load_in_place(sd_model, info, state_dict, previous)
    if KEEPS_SEVERAL:
        model_data.set_sd_model(sd_model)
        sd_unet.apply_unet()
    return sd_model


def _load_in_place(sd_model: Any, info: CheckpointInfo, state_dict: dict[str, Any], previous: Any) -> None:
    """A load that fails is answered by loading the previous checkpoint; callbacks fire either way."""
    try:
        load_model_weights(sd_model, info, state_dict)
    except Exception:
        load_model_weights(sd_model, previous, None)
        raise
    finally:
        sd_hijack.model_hijack.hijack(sd_model)
        if KEEPS_SEVERAL and not sd_model.lowvram:
            sd_model.to(devices.device)
        script_callbacks.model_loaded_callback(sd_model)


def unload_model_weights(sd_model: Any = None, info: Any = None) -> Any:
    """Until 1.6 the model is given up; since 1.7 it only moves to the CPU."""
    if _host.at_least(7):
        send_model_to_cpu(sd_model or shared.sd_model)
        return sd_model
    if model_data.sd_model is not None:
        model_data.sd_model.to(devices.cpu)
        sd_hijack.model_hijack.undo_hijack(model_data.sd_model)
        model_data.sd_model = None
    return None


def apply_token_merging(sd_model: Any, token_merging_ratio: float) -> None: ...
