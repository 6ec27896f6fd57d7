"""The always-visible scripts of one tab, and the calling of their hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import _host, errors

HOOKS_SINCE = {
    "setup": 6, "before_process": 5, "process": 5, "before_process_batch": 5, "after_extra_networks_activate": 5,
    "process_batch": 5, "process_before_every_sampling": 10, "before_hr": 5, "post_sample": 8, "postprocess_batch": 5,
    "postprocess_batch_list": 5, "postprocess_image": 5, "postprocess_image_after_composite": 9, "postprocess": 5,
}  # fmt: skip
"""Hook → minor release that has it."""


class ScriptRunner:
    """``alwayson_scripts`` may be replaced by a shorter list, as extensions do that make pictures inside pictures."""

    def __init__(self) -> None:
        self.scripts: list[Any] = []
        self.alwayson_scripts: list[Any] = []
        self.selectable_scripts: list[Any] = []
        self.infotext_fields: list[tuple[Any, str]] = []
        self.inputs: list[Any] = [None]

    def initialize_scripts(self, is_img2img: bool) -> None:
        from modules import scripts

        for each in (self.scripts, self.alwayson_scripts, self.selectable_scripts):
            each.clear()
        for data in scripts.scripts_data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"Error # failed to initialize Script {data.module}: ", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            visibility = script.show(is_img2img)
            if visibility:
                script.alwayson = visibility is scripts.AlwaysVisible
                self.scripts.append(script)
                (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)

    def setup_ui(self) -> None:
        """``ui()`` of every script; its controls become the arguments of its hooks."""
        self.inputs = [None]
        for script in self.alwayson_scripts + self.selectable_scripts:
            script.args_from = script.args_to = len(self.inputs)
            try:
                controls = script.ui(script.is_img2img)
            except Exception:
                errors.report(f"Error calling: {script.filename}/ui", exc_info=True)
                continue
            if controls is not None:
                self.inputs += controls
                script.args_to = len(self.inputs)

    def default_arguments(self) -> list[Any]:
        """What an untouched page sends."""
        return [getattr(control, "value", None) for control in self.inputs]

    def setup_scrips(self, p: Any, *, is_ui: bool = True) -> None:
        """(The WebUI spells it so.)"""
        self._call("setup", p)

    def __getattr__(self, hook: str) -> Callable[..., None]:
        if hook not in HOOKS_SINCE or not _host.at_least(HOOKS_SINCE[hook]):
            raise AttributeError(hook)
        return lambda p, *args, **kwargs: self._call(hook, p, *args, **kwargs)

    def _call(self, hook: str, p: Any, *given: Any, **kwargs: Any) -> None:
        """The hook of every script; whatever it raises is reported, and the next script is called."""
        for script in self.alwayson_scripts:
            method = getattr(script, hook, None)
            if method is None:
                continue
            try:
                arguments = (p.script_args or [])[script.args_from : script.args_to]
                method(p, *given, *arguments, **kwargs)
            except Exception:
                errors.report(f"Error running {hook}: {script.filename}", exc_info=True)
