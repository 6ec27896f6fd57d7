"""For tests only: routes that let the tests look into a WebUI's process, and make things go wrong there."""

import base64
import hashlib
import os
import sys

import torch
from fastapi import Body
from modules import (
    call_queue,
    devices,
    extra_networks,
    script_callbacks,
    scripts,
    sd_hijack,
    sd_models,
    shared,
    ui_extra_networks,
)

STARTS = "WEBUI_PROBE_STARTS"
WATCHED = ("UNetModel", "CLIPEncoder")

messages = [""]
watched_names = []
watched = []
fail_at = [0]


class Probe(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *args):
        messages[0] = processed.comments


def plain_name(name):
    return name.replace(".wrapped.", ".")


def parameters(model):
    for name, parameter in model.named_parameters():
        if name.startswith(("model.diffusion_model.", "cond_stage_model.")):
            yield plain_name(name), parameter.detach()


def digest(tensor):
    return hashlib.sha256(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()


def checkpoint_name(model):
    return os.path.basename(model.sd_checkpoint_info.filename)


def on_forward(module, inputs):
    kind = type(module).__name__
    if kind not in WATCHED:
        return
    if watched_names:
        model = sd_models.model_data.sd_model
        found = {name: digest(tensor) for name, tensor in parameters(model) if name in watched_names}
        watched.append({"module": kind, "checkpoint": checkpoint_name(model), "digests": found})
    if fail_at[0] and kind == "UNetModel":
        fail_at[0] -= 1
        if not fail_at[0]:
            raise RuntimeError("the probe was asked to fail here")


def hooks_of_ours(model):
    count = 0
    for module in model.modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks", "_load_state_dict_pre_hooks"):
            for hook in getattr(module, kind).values():
                hook = getattr(hook, "hook", hook)
                hook = getattr(hook, "func", hook)
                count += getattr(hook, "__module__", "").startswith("lycopatch")
    return count


def who(thing):
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def state():
    networks = sys.modules.get("networks")
    model = sd_models.model_data.sd_model
    callbacks = {
        category: sum("lycopatch" in str(entry.script) for entry in entries)
        for category, entries in script_callbacks.callback_map.items()
    }
    return {
        "starts": int(os.environ.get(STARTS, "0")),
        "registry": {kind: who(handler) for kind, handler in extra_networks.extra_network_registry.items()},
        "aliases": {kind: who(handler) for kind, handler in extra_networks.extra_network_aliases.items()},
        "pages": [type(page).__name__ for page in ui_extra_networks.extra_pages],
        "loaded_networks": [network.name for network in getattr(networks, "loaded_networks", ())],
        "available_networks": sorted(getattr(networks, "available_networks", ())),
        "device": str(devices.device),
        "model": None if model is None else f"{id(model)}",
        "checkpoint": None if model is None else checkpoint_name(model),
        "hooks": 0 if model is None else hooks_of_ours(model),
        "callbacks": callbacks,
        "embeddings": sorted(sd_hijack.model_hijack.embedding_db.word_embeddings),
        "messages": messages[0],
        "step": shared.state.sampling_step,
        "progress": shared.state.textinfo or "",
    }


def weights():
    with call_queue.queue_lock:
        return {name: digest(tensor) for name, tensor in parameters(shared.sd_model)}


def dtypes():
    return {name: dtype_name(tensor) for name, tensor in parameters(shared.sd_model)}


def dtype_name(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def tensor(name: str):
    with call_queue.queue_lock:
        found = dict(parameters(shared.sd_model))[name].cpu().contiguous()
    content = base64.b64encode(found.reshape(-1).view(torch.uint8).numpy().tobytes()).decode()
    return {"dtype": dtype_name(found), "shape": list(found.shape), "content": content}


def reload_ui():
    shared.state.request_restart()


def watch(names: list = Body(..., embed=True)):  # noqa: B008 - how FastAPI asks
    watched_names[:] = names
    watched.clear()


def fail(call: int = Body(..., embed=True)):
    fail_at[0] = call


def add_routes(demo, app):
    os.environ[STARTS] = str(int(os.environ.get(STARTS, "0")) + 1)
    answers = {"state": state, "weights": weights, "dtypes": dtypes, "tensor": tensor, "watched": lambda: watched}
    for path, answer in answers.items():
        app.add_api_route(f"/probe/{path}", answer, methods=["GET"])
    for path, do in {"reload": reload_ui, "watch": watch, "fail": fail}.items():
        app.add_api_route(f"/probe/{path}", do, methods=["POST"])


watching = torch.nn.modules.module.register_module_forward_pre_hook(on_forward)
script_callbacks.on_app_started(add_routes)
script_callbacks.on_script_unloaded(watching.remove)
