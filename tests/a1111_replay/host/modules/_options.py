"""Settings: ``OptionInfo``, ``Options``, and how each release treats what an extension adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from modules import _host, errors

HAS_CATEGORIES = _host.at_least(7)
"""Since 1.7 a section may belong to a category."""


class OptionInfo:
    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: Any = None,
        component_args: Any = None,
        onchange: Callable[[], object] | None = None,
        section: tuple[str, str] | None = None,
        refresh: Callable[[], object] | None = None,
        comment_before: str = "",
        comment_after: str = "",
        **since_later: Any,
    ) -> None:
        allowed = {"infotext", "restrict_api"} if _host.at_least(6) else set()
        allowed |= {"category_id"} if HAS_CATEGORIES else set()
        if set(since_later) - allowed:
            raise TypeError(f"OptionInfo got unexpected keyword arguments: {sorted(set(since_later) - allowed)}")
        self.default = default
        self.label = label
        self.component = component
        self.component_args = component_args
        self.onchange = onchange
        self.section = section
        self.refresh = refresh
        self.comment_before = comment_before
        self.comment_after = comment_after
        self.category_id = since_later.get("category_id")
        self.do_not_save = False

    def _noted(self, before: str = "", after: str = "") -> OptionInfo:
        self.comment_before += before
        self.comment_after += after
        return self

    def link(self, label: str, url: str) -> OptionInfo:
        return self._noted(before=f"[<a href='{url}'>{label}</a>]")

    def js(self, label: str, js_func: str) -> OptionInfo:
        return self._noted(before=f"[<a onclick='{js_func}()'>{label}</a>]")

    def info(self, info: str) -> OptionInfo:
        return self._noted(after=f"<span class='info'>({info})</span>")

    def html(self, html: str) -> OptionInfo:
        return self._noted(after=html)

    def needs_restart(self) -> OptionInfo:
        return self.info("requires restart")

    if _host.at_least(6):

        def needs_reload_ui(self) -> OptionInfo:
            return self.info("requires Reload UI")


def options_section(section_identifier: tuple[str, ...], options_dict: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    for info in options_dict.values():
        if HAS_CATEGORIES:
            info.section = section_identifier[:2]
            info.category_id = section_identifier[2] if len(section_identifier) == 3 else info.category_id
        else:
            info.section = section_identifier
    return options_dict


FIELDS = ("data", "data_labels", "restricted_opts")


class Options:
    """``data`` holds what was changed or saved; everything else comes from ``data_labels``; unknown names raise."""

    data: dict[str, Any]
    data_labels: dict[str, OptionInfo]

    def __init__(self, data_labels: dict[str, OptionInfo]) -> None:
        self.data_labels = data_labels
        self.data = {key: info.default for key, info in data_labels.items()}

    def __setattr__(self, key: str, value: Any) -> None:
        known = key not in FIELDS and (key in self.data or key in self.data_labels)
        if known:
            self.data[key] = value
        else:
            super().__setattr__(key, value)

    def __getattr__(self, key: str) -> Any:
        if key in FIELDS:
            return super().__getattribute__(key)
        if key in self.data:
            return self.data[key]
        if key in self.data_labels:
            return self.data_labels[key].default
        return super().__getattribute__(key)

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Change a setting and tell its handler; when that raises, the old value comes back."""
        old = self.data.get(key)
        if old == value:
            return False
        setattr(self, key, value)
        handler = self.data_labels[key].onchange
        if run_callbacks and handler is not None:
            try:
                handler()
            except Exception as e:
                errors.display(e, f"changing setting {key} to {value}")
                setattr(self, key, old)
                return False
        return True

    def get_default(self, key: str) -> Any:
        info = self.data_labels.get(key)
        return None if info is None else info.default

    def onchange(self, key: str, func: Callable[[], object], call: bool = True) -> None:
        item: Any = self.data_labels.get(key)
        item.onchange = func
        if call:
            func()

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        if HAS_CATEGORIES and key not in self.data:
            self.data[key] = info.default

    def reorder(self) -> None:
        """Sorted by section into a new dict: whoever still holds the old one adds to nothing."""
        items: list[Any] = list(self.data_labels.items())
        self.data_labels = dict(sorted(items, key=lambda item: (item[1].category_id or "~", item[1].section[1])))

    def save(self, filename: str) -> None:
        with open(filename, "w", encoding="utf8") as file:
            json.dump(self.data, file, indent=4)

    def load(self, filename: str) -> None:
        """``data`` becomes exactly what the file holds."""
        try:
            with open(filename, encoding="utf8") as file:
                self.data = json.load(file)
        except FileNotFoundError:
            self.data = {}

    def dumpjson(self) -> str:
        return json.dumps({key: self.data.get(key, info.default) for key, info in self.data_labels.items()})
