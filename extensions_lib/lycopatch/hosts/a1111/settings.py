"""The user's settings, on a page of their own among the WebUI's settings.

Each is read when it is used, so a change counts from the next picture on. ``config.json`` may hold anything: a value
that makes no sense counts as the default.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lycopatch.hosts.a1111 import host_api

SECTION = ("lycopatch", "LycoPatch")
PREFIX = "lycopatch_"
ORIGINALS = ("automatic", "checkpoint file", "memory")


class Settings:
    """What the user chose. ``"lycopatch_" + the property's name`` is the key in ``config.json``."""

    @property
    def enabled(self) -> bool:
        return self._is_on("enabled", True)

    @property
    def extra_folders(self) -> tuple[Path, ...]:
        """Absolute; a relative line is meant below the WebUI's own folder."""
        text = host_api.option(PREFIX + "extra_folders", "")
        lines = text.splitlines() if isinstance(text, str) else ()
        return tuple(_folders(lines))

    @property
    def keep_builtin_page(self) -> bool:
        return self._is_on("keep_builtin_page", False)

    @property
    def gallery_on_page(self) -> bool:
        return self._is_on("gallery_on_page", True)

    @property
    def add_hashes(self) -> bool:
        """Also the built-in Lora's own setting for this counts, while there is one."""
        theirs = "lora_add_hashes_to_infotext"
        wanted_there = not host_api.has_setting(theirs) or bool(host_api.option(theirs, True))
        return wanted_there and self._is_on("add_hashes", True)

    @property
    def prefer_alias(self) -> bool:
        return self._is_on("prefer_alias", False)

    @property
    def allow_pickle(self) -> bool:
        return self._is_on("allow_pickle", False)

    @property
    def usual_weight(self) -> float:
        """Of a network for which nobody prefers another: the WebUI's own setting."""
        weight = host_api.option("extra_networks_default_multiplier", 1.0)
        return float(weight) if isinstance(weight, int | float) else 1.0

    @property
    def originals(self) -> str:
        """One of ``ORIGINALS``."""
        choice = host_api.option(PREFIX + "originals", ORIGINALS[0])
        return choice if choice in ORIGINALS else ORIGINALS[0]

    @property
    def show_messages(self) -> bool:
        return self._is_on("show_messages", True)

    def register(self) -> None:
        """Make the settings known to the WebUI. Those that are known stay as they are, with who waits for a change."""
        described = {PREFIX + name: info for name, info in _described()}
        new = {key: info for key, info in described.items() if not host_api.has_setting(key)}
        host_api.add_settings(SECTION, new)

    def on_change(self, name: str, react: Callable[[], object] | None) -> None:
        """Call ``react`` whenever the user saves another value; None: no longer."""
        if host_api.has_setting(PREFIX + name):
            host_api.on_setting_changed(PREFIX + name, react)

    def _is_on(self, name: str, default: bool) -> bool:
        value = host_api.option(PREFIX + name, default)
        return value if isinstance(value, bool) else default


def _described() -> Iterator[tuple[str, Any]]:
    """Name → what the WebUI shows, in the order of the page."""

    def setting(default: Any, label: str, info: str, component: Any = None, arguments: Any = None) -> Any:
        return host_api.new_setting(default, label, component, arguments).info(info)

    yield (
        "enabled",
        setting(
            True,
            "Handle <lora:…> and <lyco:…> tags",
            "off: all weights are restored at once, and the built-in Lora extension handles the tags if it is on",
        ),
    )
    folders = setting(
        "",
        "More folders with networks",
        "one per line; pictures beside the networks of a new folder are shown after Reload UI",
        _component("Textbox"),
        {"lines": 3, "placeholder": "D:/networks"},
    )
    yield "extra_folders", _not_by_api(folders)
    yield (
        "keep_builtin_page",
        setting(
            False,
            "Also show the built-in page of Lora cards",
            "ours takes its place otherwise; after Reload UI",
        ),
    )
    yield (
        "gallery_on_page",
        setting(
            True,
            "Show the library with its search and filters in place of the cards",
            "off: cards as the WebUI draws them; after a refresh of the page",
        ),
    )
    yield (
        "prefer_alias",
        setting(
            False,
            "Cards insert the name that the trainer gave a network",
            "instead of its file name, where that name finds the network",
        ),
    )
    yield (
        "add_hashes",
        setting(
            True,
            "Write the hashes of used networks into the picture's parameters",
            "sites and other users recognise the networks by them",
        ),
    )
    yield "show_messages", setting(True, "Show what went wrong under the picture", "one line for each trouble")
    pickles = setting(
        False,
        "Also read networks in .pt, .ckpt and .bin files",
        "only numbers are taken from them and nothing in them is run; .safetensors is safer still",
    )
    yield "allow_pickle", _not_by_api(pickles)
    yield (
        "originals",
        setting(
            ORIGINALS[0],
            "Where the original weights are kept while networks are active",
            "in memory is faster; the checkpoint file needs no memory; automatic decides by the memory that is free",
            _component("Radio"),
            {"choices": list(ORIGINALS)},
        ),
    )


def _component(name: str) -> Callable[..., Any]:
    """A component of gradio's, which is imported when the settings page is built and not at the start."""
    return lambda **arguments: getattr(importlib.import_module("gradio"), name)(**arguments)


def _not_by_api(info: Any) -> Any:
    """Only for the person at the screen, where the WebUI knows the difference."""
    info.restrict_api = True
    return info


def _folders(lines: Iterable[str]) -> Iterator[Path]:
    for line in lines:
        text = line.strip().strip('"').strip()
        if text and "\0" not in text:
            yield host_api.data_folder() / _home(Path(text))


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # "~name" of somebody unknown
        return path
