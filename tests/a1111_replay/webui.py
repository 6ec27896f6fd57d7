"""``WebUI``: one replayed process, driven by a test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from a1111_replay import folders, gradio_recorder
from a1111_replay.isolation import Isolation
from a1111_replay.structures import KINDS, shapes_of, write_checkpoint

VERSIONS = {"1.5": (1, 5), "1.6": (1, 6), "1.8": (1, 8), "1.9": (1, 9), "1.10": (1, 10)}
"""(1.8 was compared with its sources only where 1.9 is the same; Forge Classic stands on it.)"""
CONFIGS = {
    "sd1": "v1-inference.yaml",
    "sd2": "v2-inference.yaml",
    "sdxl": "sd_xl_base.yaml",
    "refiner": "sd_xl_refiner.yaml",
    "inpaint": "v1-inpainting-inference.yaml",
}
ABSENT = {
    (1, 5): "util options patches shared_cmd_options fifo_lock sd_samplers_cfg_denoiser infotext_utils".split(),
    (1, 6): ["infotext_utils"],
    (1, 8): ["generation_parameters_copypaste"],
    (1, 9): ["generation_parameters_copypaste"],
    (1, 10): ["generation_parameters_copypaste"],
}
"""Modules that a release does not have (the last one: not until ``infotext_utils`` makes it an alias)."""


class GenerationFailed(Exception):
    """What a test lets happen inside the sampler."""


class WebUI:
    """A WebUI in ``folder``; used with ``with``, afterwards nothing of it is left in the process.

    ``model``: the kind of the checkpoints "alpha" (chosen) and "beta". ``model_loads``: "early" (before the page is
    built), "late" (after ``app_started``) or "never" (only when asked for); in a thread of its own, which has ended
    when ``start`` returns. ``half``: weights are stored in float16, and the WebUI computes under autocast
    (``manual_cast``: under replaced forwards). Meanwhile ``sys.path`` has none of the tests' own folders.
    """

    def __init__(
        self,
        version: str,
        folder: Path,
        *,
        builtin_lora: bool = True,
        api_only: bool = False,
        extensions: Mapping[str, Path] | Sequence[Path] = (),
        arguments: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        data_dir_elsewhere: bool = False,
        model: str | None = "sd1",
        model_loads: str = "early",
        half: bool = False,
        manual_cast: bool = False,
    ) -> None:
        self.version = version
        self.root = folder.resolve() / "webui"
        self.data = folder.resolve() / "data" if data_dir_elsewhere else self.root
        self.root.mkdir(parents=True, exist_ok=True)
        self.api_only = api_only
        self.arguments = [*arguments, *(["--nowebui"] if api_only else [])]
        self._loads = model_loads
        self._half, self._manual_cast = half, manual_cast
        self._isolation = Isolation()
        self.host: Any = None
        known = folders.named(extensions)
        folders.prepare(self.root, self.data, builtin_lora=builtin_lora, extensions=known, settings=settings or {})
        if model is not None:
            self.add_checkpoint("alpha", model, seed=1)
            self.add_checkpoint("beta", model, seed=2)
        self.app: Any = None

    # --- the process --------------------------------------------------------------------------------------------------

    def __enter__(self) -> WebUI:
        self._isolation.enter(self.root)
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _prepare(self) -> None:
        """gradio's stand-in, and what the package ``modules`` has to know before it is imported."""
        gradio, self.gradio = gradio_recorder.install("3.32.0" if self.version == "1.5" else "3.41.2")
        sys.modules["gradio"] = gradio
        self.host = importlib.import_module("modules._host").Host(
            version=VERSIONS[self.version],
            script_path=self.root,
            data_path=self.data,
            arguments=list(self.arguments),
            structures={CONFIGS[kind]: shapes_of(kind) for kind in KINDS},
            half=self._half,
            manual_cast=self._manual_cast,
            model_loads=self._loads,
        )
        self.module("_host").current = self.host
        for name in ABSENT[self.host.version]:
            sys.modules[f"modules.{name}"] = None

    def __exit__(self, *_: object) -> None:
        self._isolation.leave((self.root, self.data))

    def module(self, name: str) -> Any:
        """``modules.<name>`` of this WebUI."""
        return importlib.import_module(f"modules.{name}")

    def start(self) -> WebUI:
        """From the command line to ``app_started``."""
        startup = self.module("_startup")
        startup.initialize()
        self.app = startup.start_api_only() if self.api_only else startup.start_page()
        return self

    def reload_ui(self) -> None:
        """ "Reload UI" in the settings."""
        startup = self.module("_startup")
        startup.unload()
        importlib.invalidate_caches()
        startup.initialize_rest(reload_script_modules=True)
        self.app = startup.start_page()

    def client(self) -> Any:
        """An HTTP client of the server (``fastapi.testclient``)."""
        from fastapi.testclient import TestClient

        return TestClient(self.app, raise_server_exceptions=False)

    # --- what happened ------------------------------------------------------------------------------------------------

    @property
    def errors(self) -> list[Any]:
        """What the console shows: ``.message``, ``.exception``."""
        return self.host.errors

    @property
    def events(self) -> list[str]:
        """In order: ``script:…``, ``callback:…``, ``weights:…``, ``conds``, ``get_empty_cond``, ``refiner`` …"""
        return self.host.events

    @property
    def model(self) -> Any:
        """The loaded model, without loading one."""
        return self.module("sd_models").model_data.sd_model

    @property
    def opts(self) -> Any:
        return self.module("shared").opts

    @property
    def registry(self) -> dict[str, Any]:
        return self.module("extra_networks").extra_network_registry

    # --- what a user does ---------------------------------------------------------------------------------------------

    def add_checkpoint(self, name: str, kind: str = "sd1", **more: Any) -> Path:
        """A file in ``models/Stable-diffusion``; a running WebUI sees it at once."""
        path = write_checkpoint(self.data / "models" / "Stable-diffusion" / f"{name}.safetensors", kind, **more)
        if self.host is not None:
            self.module("sd_models").list_models()
        return path

    def set_option(self, key: str, value: Any) -> bool:
        """Save one setting: its handler runs; False when nothing changed, or the handler raised."""
        return self.opts.set(key, value)

    def switch_checkpoint(self, name: str) -> bool:
        """Choose a checkpoint at the top of the page."""
        info = self.module("sd_models").get_closet_checkpoint_match(name)
        return self.set_option("sd_model_checkpoint", info.title if info else name)

    def change_vae(self, name: str = "None") -> bool:
        """Choose a VAE file of ``models/VAE``."""
        self.module("sd_vae").refresh_vae_list()
        return self.set_option("sd_vae", name)

    def unload_checkpoint(self) -> None:
        """ "Unload SD checkpoint to free VRAM" in the settings."""
        self.module("call_queue").wrap_queued_call(self.module("sd_models").unload_model_weights)()

    def txt2img(
        self,
        prompt: Any = "",
        *,
        interrupt_at_step: int | None = None,
        fail_at_step: int | None = None,
        on_step: Callable[[Any, int], None] | None = None,
        scripts: Any = None,
        steps: int = 2,
        size: int = 32,
        seed: int = 1,
        **fields: Any,
    ) -> Any:
        """Make pictures as the page does. Fields are those of ``StableDiffusionProcessingTxt2Img``.

        Steps count from 0 and over both passes of hires. ``fail_at_step`` raises ``GenerationFailed`` there.
        """
        processing = self.module("processing")
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt=prompt, steps=steps, width=size, height=size, seed=seed, **fields
        )
        p.scripts = scripts or self.module("scripts").scripts_txt2img
        p.script_args = p.scripts.default_arguments()
        if self.host.version >= (1, 6):
            p.scripts.setup_scrips(p)
        return self.run_job(p, interrupt_at_step=interrupt_at_step, fail_at_step=fail_at_step, on_step=on_step)

    def run_job(
        self,
        p: Any,
        *,
        interrupt_at_step: int | None = None,
        fail_at_step: int | None = None,
        on_step: Callable[[Any, int], None] | None = None,
    ) -> Any:
        """Run a job of your own making, in the queue."""
        state = self.module("shared").state
        done = 0

        def step(job: Any, i: int) -> None:
            nonlocal done
            if on_step is not None:
                on_step(job, i)
            if done == interrupt_at_step:
                state.interrupt()
            if done == fail_at_step:
                raise GenerationFailed
            done += 1

        with self.module("call_queue").queue_lock:
            state.begin()
            self.host.on_step = step
            try:
                return self.module("processing").process_images(p)
            finally:
                self.host.on_step = None
                p.close()
                state.interrupted = state.skipped = False
                state.end()

    def paste(self, infotext: str) -> dict[str, Any]:
        """Read an infotext back into the page: the fields, after every extension had its turn."""
        fields = self.module("_infotext_parsing").parse_generation_parameters(infotext)
        self.module("script_callbacks").infotext_pasted_callback(infotext, fields)
        return fields

    def cards(self, tabname: str = "txt2img", *, refresh: bool = False) -> dict[str, str]:
        """Page title → HTML, as a browser gets it when it opens the page (or presses refresh)."""
        ui = self.module("ui").extra_networks_uis[tabname]
        contents = ui.refresh() if refresh else ui.pages_html()
        return {page.title: content for page, content in zip(ui.stored_extra_pages, contents, strict=True)}
