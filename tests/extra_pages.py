"""The part of the WebUI that shows extra-networks pages, for tests of ours: what it prints as it is, and what escaped.

``1.5`` prints into attributes without quotes and prints names and descriptions as they are; ``1.10`` has a folder tree
and prints file names and search terms as they are. Everything else of the WebUI is only there to be imported.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from lycopatch.engine.catalog import Catalog

RELEASES = ("1.5", "1.10")
_OURS = ("modules", "lycopatch.hosts.a1111")


@dataclass
class PageHost:
    """What a test looks at and changes."""

    release: str
    options: SimpleNamespace
    models: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(sd_model=None))
    hashes: dict[str, str] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)


class Shelves:
    """Plays the part of ``Library``: the network folders and their catalog."""

    def __init__(self, *folders: Path) -> None:
        self._folders = list(folders)
        self.catalog = Catalog(folders)

    def folders(self) -> list[Path]:
        return self._folders

    def refresh(self) -> None:
        self.catalog.refresh()


@contextmanager
def page_host(release: str) -> Iterator[PageHost]:
    """The WebUI's modules, for as long as the context lasts."""
    before = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    for name in before:
        del sys.modules[name]
    options = SimpleNamespace(samples_format="png")
    if release == "1.10":
        options.extra_networks_card_description_is_html = False
    host = PageHost(release, options)
    for name, contents in _modules(host).items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        sys.modules[name] = module
    try:
        yield host
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(tuple(f"{each}." for each in _OURS))


def _modules(host: PageHost) -> dict[str, dict[str, Any]]:
    base: Any = _NewPage if host.release == "1.10" else _OldPage

    class Page(base):
        options = host.options

    def known(path: str, title: str, use_addnet_hash: bool = False) -> str | None:
        return host.hashes.get(title)

    empty = ("call_queue", "devices", "extra_networks", "paths", "script_callbacks")
    return {
        "modules": {"__path__": []},
        **{f"modules.{name}": {} for name in empty},
        "modules.shared": {"opts": host.options, "cmd_opts": SimpleNamespace()},
        "modules.sd_models": {"model_data": host.models},
        "modules.errors": {"report": lambda message, exc_info=False: host.reported.append(message)},
        "modules.hashes": {"sha256_from_cache": known},
        "modules.ui_extra_networks": {"ExtraNetworksPage": Page},
        "modules.ui_extra_networks_user_metadata": {"UserMetadataEditor": Editor},
    }


def quoted(text: str) -> str:
    """As the WebUI writes a JavaScript string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Page:
    options: SimpleNamespace

    def __init__(self, title: str) -> None:
        self.title, self.name = title, title.lower()
        self.metadata: dict[str, Any] = {}
        self.items: dict[str, Any] = {}

    def search_terms_from_path(self, path: str, folders: list[str]) -> str:
        return next(
            (os.path.relpath(path, os.path.dirname(folder)) for folder in folders if path.startswith(folder)), ""
        )

    def find_preview(self, stem: str) -> str | None:
        path = f"{stem}.png"
        return f"./thumb?filename={path.encode().hex()}" if os.path.isfile(path) else None

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        return {"date_modified": int(os.stat(path).st_mtime), "name": os.path.basename(path).lower(), "path": path}

    def create_html(self, tabname: str) -> str:
        self.items = {item["name"]: item for item in self.list_items()}  # type: ignore[attr-defined]
        self.metadata = {name: item["metadata"] for name, item in self.items.items() if item["metadata"]}
        return "".join(self.item_html(tabname, item) for item in self.items.values())

    def item_html(self, tabname: str, item: dict[str, Any]) -> str:
        raise NotImplementedError

    def metadata_response(self, name: str) -> bytes:
        """What the "i" button gets; a server sends UTF-8."""
        return json.dumps(
            {"metadata": json.dumps(self.metadata[name], ensure_ascii=False)}, ensure_ascii=False
        ).encode()


class _OldPage(_Page):
    def item_html(self, tabname: str, item: dict[str, Any]) -> str:
        click = (
            item.get("onclick") or '"' + html.escape(f"return cardClicked({quoted(tabname)}, {item['prompt']})") + '"'
        )
        sort = " ".join(html.escape(f"data-sort-{key}={value}") for key, value in item["sort_keys"].items())
        picture = f"<img src='{html.escape(item['preview'])}'>" if item["preview"] else ""
        edit = f"<div class='edit' onclick='edit(event, {quoted(tabname)}, {quoted(item['name'])})'></div>"
        return (
            f"<div class='card' onclick={click} data-name=\"{html.escape(item['name'])}\" {sort}>{picture}{edit}"
            f"<span class='search'>{item['search_term']}</span><span class='name'>{html.escape(item['name'])}</span>"
            f"<span class='description'>{item['description'] or ''}</span></div>"
        )


class _NewPage(_Page):
    def create_html(self, tabname: str) -> str:
        cards = super().create_html(tabname)
        by_path = {item["filename"]: item for item in self.items.values()}
        found: list[str] = []
        for folder in self.allowed_directories_for_previews():  # type: ignore[attr-defined]
            for place, _, names in os.walk(folder):
                for path in (os.path.join(place, name) for name in names):
                    if path in by_path:
                        item = by_path[path]
                        found.append(f'<li data-path="{path}" data-hash="{item["shorthash"]}">{item["name"]}</li>')
        return cards + "<ul>" + "".join(found) + "</ul>"

    def item_html(self, tabname: str, item: dict[str, Any]) -> str:
        call = f"cardClicked('{tabname}', {item['prompt']}, {item.get('negative_prompt', chr(39) * 2)}, false);"
        click = html.escape(call) if item.get("onclick") is None else item["onclick"]
        sort = " ".join(f'data-sort-{key}="{html.escape(str(value))}"' for key, value in item["sort_keys"].items())
        description = item["description"] or ""
        if not self.options.extra_networks_card_description_is_html:
            description = html.escape(description)
        terms = "".join(f"<span class='search'>{term}</span>" for term in item["search_terms"])
        picture = f'<img src="{html.escape(item["preview"])}">' if item["preview"] else ""
        return (
            f'<div class="card" onclick="{click}" data-name="{html.escape(item["name"])}" {sort}>{picture}'
            f'<div class="copy" data-clipboard-text="{item["filename"]}"></div>{terms}'
            f'<span class="name">{html.escape(item["name"])}</span><span class="description">{description}</span></div>'
        )


class Editor:
    """The base of the editors, without anything visible."""

    def __init__(self, ui: Any, tabname: str, page: Any) -> None:
        self.ui, self.tabname, self.page = ui, tabname, page

    def create_default_editor_elems(self) -> None:
        self.edit_name = self.edit_description = self.html_filedata = self.html_preview = Recorder("default")
        self.create_extra_default_items_in_left_column()  # type: ignore[attr-defined]

    def create_default_buttons(self) -> None:
        self.html_status, self.button_save = Recorder("status"), Recorder("save")

    def setup_save_handler(self, button: Any, func: Any, components: list[Any]) -> None:
        self.saved = components

    def create_ui(self) -> None:
        self.box, self.edit_name_input, self.button_edit = Recorder("box"), Recorder("name"), Recorder("edit")
        self.create_editor()  # type: ignore[attr-defined]


class Recorder:
    """A component that remembers how it was made and what a click on it does."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional, self.named, self.clicks = positional, named, []

    def click(self, **event: Any) -> Recorder:
        self.clicks.append(event)
        return self

    then = click


class Seen(HTMLParser):
    """A page as a browser reads it: its elements, and the names of all their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def attributes(self) -> set[str]:
        return {re.sub("^data-sort-.*", "data-sort", name) for _, attributes in self.elements for name in attributes}
