"""Starting, and "Reload UI": the same steps in the same process."""

from __future__ import annotations

import importlib
import sys
from threading import Thread
from typing import Any

from modules import (
    _host,
    call_queue,
    devices,
    extensions,
    extra_networks,
    processing,  # noqa: F401
    script_callbacks,
    scripts,
    sd_models,
    sd_unet,
    sd_vae,
    shared,
    ui,
    ui_extra_networks,
)
from modules.shared import cmd_opts, opts

late_loaders: list[Thread] = []


def configure_opts_onchange() -> None:
    queued = call_queue.wrap_queued_call
    opts.onchange("sd_model_checkpoint", queued(lambda: sd_models.reload_model_weights()), call=False)
    opts.onchange("sd_vae", queued(lambda: sd_vae.reload_vae_weights()), call=False)
    if _host.at_least(8):
        opts.onchange("fp8_storage", queued(lambda: sd_models.reload_model_weights()), call=False)
        opts.onchange(
            "cache_fp16_weight", queued(lambda: sd_models.reload_model_weights(forced_reload=True)), call=False
        )


def initialize() -> None:
    shared.device = devices.device
    configure_opts_onchange()
    initialize_rest()


def initialize_rest(*, reload_script_modules: bool = False) -> None:
    """Scripts, then (in a thread) the model, then empty registries. The model may be ready before or after the page."""
    extensions.list_extensions()
    sd_models.list_models()
    scripts.load_scripts()
    if reload_script_modules and (not _host.at_least(6) or opts.enable_reloading_ui_scripts):
        for module in [module for name, module in sys.modules.items() if name.startswith("modules.ui")]:
            importlib.reload(module)
    sd_vae.refresh_vae_list()
    script_callbacks.list_optimizers_callback()
    sd_unet.list_unets()
    _load_model_in_thread()
    ui_extra_networks.initialize()
    extra_networks.initialize()
    extra_networks.register_default_extra_networks()


def _load_model_in_thread() -> None:
    when = "never" if getattr(cmd_opts, "skip_load_model_at_start", False) else _host.current.model_loads
    loader = Thread(target=lambda: shared.sd_model, name="model loader")
    if when == "early":
        loader.start()
        loader.join()
    elif when == "late":
        late_loaders.append(loader)


def finish_late_loading() -> None:
    while late_loaders:
        loader = late_loaders.pop()
        loader.start()
        loader.join()


def start_page() -> Any:
    """``before_ui``, the page, the server, ``app_started``; returns the server's application, a new one each time."""
    from fastapi import FastAPI

    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    app = FastAPI()
    if cmd_opts.api:
        _create_api()
    ui_extra_networks.add_pages_to_demo(app)
    script_callbacks.app_started_callback(shared.demo, app)
    finish_late_loading()
    return app


def start_api_only() -> Any:
    """``--nowebui``: no page, no settings page; in 1.5 not even ``before_ui``."""
    from fastapi import FastAPI

    app = FastAPI()
    _create_api()
    if _host.at_least(6):
        script_callbacks.before_ui_callback()
    script_callbacks.app_started_callback(None, app)
    finish_late_loading()
    return app


def _create_api() -> None:
    """The API builds its own arguments of scripts: ``ui()`` is called once more, outside of any page."""
    for is_img2img, runner in ((False, scripts.scripts_txt2img), (True, scripts.scripts_img2img)):
        if not runner.scripts:
            runner.initialize_scripts(is_img2img)
        runner.setup_ui()


def unload() -> None:
    """The first half of "Reload UI"."""
    shared.demo = None
    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
