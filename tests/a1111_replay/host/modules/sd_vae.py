"""VAE files: changing one unwraps and wraps the model and fires ``model_loaded``, though nothing else was touched."""

from __future__ import annotations

import os
from typing import Any

from modules import _host, devices, lowvram, script_callbacks, shared
from modules.paths_internal import models_path

vae_path = os.path.join(models_path, "VAE")
vae_dict: dict[str, str] = {}
base_vae: dict[str, Any] | None = None
loaded_vae_file: str | None = None
unspecified = object()


def refresh_vae_list() -> None:
    vae_dict.clear()
    for file in shared.walk_files(vae_path, allowed_extensions=[".safetensors"]):
        vae_dict[os.path.basename(file)] = file


def get_loaded_vae_name() -> str | None:
    return None if loaded_vae_file is None else os.path.basename(loaded_vae_file)


def resolve_vae(checkpoint_file: str) -> str | None:
    """The file that the setting names."""
    return vae_dict.get(shared.opts.sd_vae)


def load_vae(model: Any, vae_file: str | None) -> None:
    global base_vae, loaded_vae_file
    from modules import sd_models

    if vae_file is not None:
        if base_vae is None:
            base_vae = {name: tensor.clone() for name, tensor in model.first_stage_model.state_dict().items()}
        model.first_stage_model.load_state_dict(sd_models.read_state_dict(vae_file))
        model.first_stage_model.to(devices.dtype_vae)
    elif loaded_vae_file is not None and base_vae is not None:
        model.first_stage_model.load_state_dict(base_vae)
        base_vae = None
    loaded_vae_file = vae_file
    model.base_vae, model.loaded_vae_file = base_vae, loaded_vae_file


def after_checkpoint(model: Any, checkpoint_file: str) -> None:
    """A checkpoint brought its own VAE: forget the other, and load the chosen one over it."""
    global base_vae, loaded_vae_file
    base_vae = loaded_vae_file = None
    load_vae(model, resolve_vae(checkpoint_file))


def take_state_from(model: Any) -> None:
    """Another model is the current one now: its VAE is the loaded one."""
    global base_vae, loaded_vae_file
    base_vae = getattr(model, "base_vae", None)
    loaded_vae_file = getattr(model, "loaded_vae_file", None)


def reload_vae_weights(sd_model: Any = None, vae_file: Any = unspecified) -> Any:
    from modules import sd_hijack

    sd_model = sd_model or shared.sd_model
    if vae_file is unspecified:
        vae_file = resolve_vae(sd_model.sd_checkpoint_info.filename)
    if loaded_vae_file == vae_file:
        return None
    if sd_model.lowvram:
        lowvram.send_everything_to_cpu()
    else:
        sd_model.to(devices.cpu)
    sd_hijack.model_hijack.undo_hijack(sd_model)
    load_vae(sd_model, vae_file)
    sd_hijack.model_hijack.hijack(sd_model)
    if not sd_model.lowvram:
        sd_model.to(devices.device)
    _host.log("vae")
    script_callbacks.model_loaded_callback(sd_model)
    return sd_model
