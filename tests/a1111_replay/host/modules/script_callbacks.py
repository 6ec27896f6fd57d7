"""Callbacks: who registered, in which order they are called, and that nothing they raise ever gets out."""

from __future__ import annotations

import os
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import _callback_params, _host, errors
from modules._callback_params import (  # noqa: F401
    AfterCFGCallbackParams,
    BeforeTokenCounterParams,
    CFGDenoisedParams,
    ExtraNoiseParams,
    ImageGridLoopParams,
    ImageSaveParams,
    UiTrainTabParams,
)

NAMED = _host.at_least(9)
"""Since 1.9 a callback has a name, by which users and ``metadata.ini`` may order it."""

if _host.at_least(8):
    CFGDenoiserParams = _callback_params._CFGDenoiserParamsSince18
else:
    CFGDenoiserParams = _callback_params._CFGDenoiserParams

CATEGORIES = (
    "app_started model_loaded ui_tabs ui_train_tabs ui_settings before_image_saved image_saved extra_noise "
    "cfg_denoiser cfg_denoised cfg_after_cfg before_component after_component image_grid infotext_pasted "
    "script_unloaded before_ui on_reload list_optimizers list_unets before_token_counter"
).split()
SINCE = {"extra_noise": 6, "before_token_counter": 8}
REVERSED = ("before_ui", "script_unloaded")

if NAMED:

    @dataclass
    class ScriptCallback:
        script: str
        callback: Callable[..., Any]
        name: str = "unnamed"

else:
    ScriptCallback = namedtuple("ScriptCallback", ["script", "callback"])

callback_map: dict[str, list] = {
    f"callbacks_{category}": [] for category in CATEGORIES if _host.at_least(SINCE.get(category, 5))
}
ordered_callbacks_map: dict[str, list] = {}


def clear_callbacks() -> None:
    for registered in callback_map.values():
        registered.clear()
    ordered_callbacks_map.clear()


def _caller() -> str:
    """The file from which this module was called."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename


def add_callback(callbacks: list, fun: Callable[..., Any], *, name=None, category="unknown", filename=None) -> None:
    """Append to a list of callbacks; since 1.9 under a name that no other of the list has."""
    filename = filename or _caller()
    if not NAMED:
        callbacks.append(ScriptCallback(filename, fun))
        return
    from modules import extensions

    owner = extensions.find_extension(filename)
    parts = [owner.canonical_name if owner else "base", os.path.basename(filename), category]
    full = "/".join(parts if name is None else [*parts, name])
    taken = {entry.name for entry in callbacks}
    unique = next(each for each in (full, *(f"{full}-{n}" for n in range(1, 1000))) if each not in taken)
    callbacks.append(ScriptCallback(filename, fun, unique))


def sort_callbacks(category: str, unordered: list, *, enable_user_sort: bool = True) -> list:
    """Order by ``metadata.ini`` of all extensions, then put what the user prefers first."""
    from modules import _util, extensions, shared

    known = {entry.name: entry for entry in unordered}
    after: dict[str, list[str]] = {name: [] for name in known}
    instructions = [each for ext in extensions.extensions for each in ext.metadata.list_callback_order_instructions()]
    for each in instructions:
        if each.name in known:
            after[each.name] += [name for name in each.after if name in known]
            for name in each.before:
                if name in known:
                    after[name].append(each.name)
    ordered = [known[name] for name in _util.topological_sort(after)]
    preferred = getattr(shared.opts, f"prioritized_callbacks_{category}", []) if enable_user_sort else []
    first = [known[name] for name in preferred if name in known]
    return first + [entry for entry in ordered if entry not in first]


def ordered_callbacks(category: str, *, enable_user_sort: bool = True) -> list:
    """In the order of calling. Since 1.9 the order is remembered until the number of callbacks changes."""
    unordered = callback_map[f"callbacks_{category}"]
    if not NAMED:
        return unordered
    known = ordered_callbacks_map.get(category)
    if known is None or len(known) != len(unordered):
        known = ordered_callbacks_map[category] = sort_callbacks(category, unordered, enable_user_sort=enable_user_sort)
    return known


def _runner(category: str) -> Callable[..., Any]:
    """What the WebUI calls: everybody gets a turn, an exception is reported and the next one is called."""
    fills_a_list = category in ("list_optimizers", "list_unets")

    def run(*args: Any, **kwargs: Any) -> list | None:
        _host.log(f"callback:{category}")
        found: list = []
        called = ordered_callbacks(category)
        for entry in reversed(called) if category in REVERSED else called:
            try:
                result = entry.callback(found) if fills_a_list else entry.callback(*args, **kwargs)
                if category == "ui_tabs":
                    found += result or []
            except Exception:
                errors.report(f"Error executing callback {category} for {entry.script}", exc_info=True)
        return found if fills_a_list or category == "ui_tabs" else None

    return run


def _registrar(category: str) -> Callable[..., None]:
    if NAMED:

        def register_named(callback: Callable[..., Any], *, name: str | None = None) -> None:
            add_callback(callback_map[f"callbacks_{category}"], callback, name=name, category=category)

        return register_named

    def register(callback: Callable[..., Any]) -> None:
        add_callback(callback_map[f"callbacks_{category}"], callback, category=category)

    return register


for _category in (name.removeprefix("callbacks_") for name in callback_map):
    _on = "before_reload" if _category == "on_reload" else _category
    _called = "app_reload" if _category == "on_reload" else _category
    globals()[f"on_{_on}"] = _registrar(_category)
    globals()[f"{_called}_callback"] = _runner(_category)


def remove_current_script_callbacks() -> None:
    """Forget what the calling file registered."""
    filename = _caller()
    _remove(lambda entry: entry.script == filename)


def remove_callbacks_for_function(callback_func: Callable[..., Any]) -> None:
    _remove(lambda entry: entry.callback == callback_func)


def _remove(unwanted: Callable[[Any], bool]) -> None:
    for registered in [*callback_map.values(), *ordered_callbacks_map.values()]:
        registered[:] = [entry for entry in registered if not unwanted(entry)]
