"""Pages of cards: their registration, the serving of previews, and the base class that extensions fill with data."""

from __future__ import annotations

import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

import gradio as gr

from modules import _cards, _host, _util, errors, extra_networks, shared, ui_extra_networks_user_metadata

extra_pages: list[Any] = []
allowed_dirs: set[str] = set()
LISTS_LATE = _host.at_least(8)
"""Since 1.8 pages are built empty, have a lister of directories, and a name for the tab with underscores."""


def register_page(page: ExtraNetworksPage) -> None:
    extra_pages.append(page)
    allowed_dirs.clear()
    allowed_dirs.update(folder for each in extra_pages for folder in each.allowed_directories_for_previews())


def initialize() -> None:
    extra_pages.clear()


def quote_js(s: str) -> str:
    escaped = s.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def fetch_file(filename: str = "") -> Any:
    """A preview. Whatever is not below a registered folder, or no picture by its name, is an error (HTTP 500)."""
    from fastapi.exceptions import HTTPException
    from starlette.responses import FileResponse

    if not os.path.isfile(filename):
        raise HTTPException(status_code=404, detail="File not found")
    if not any(Path(folder).absolute() in Path(filename).absolute().parents for folder in allowed_dirs):
        raise ValueError(
            f"File cannot be fetched: {filename}. Must be in one of directories registered by extra pages."
        )
    extension = os.path.splitext(filename)[1].lower()[1:]
    if extension not in ("png", "jpg", "jpeg", "webp", "gif"):
        raise ValueError(f"File cannot be fetched: {filename}.")
    return FileResponse(filename)


def _page(name: str) -> Any:
    return next((page for page in extra_pages if page.name == name), None)


def get_metadata(page: str = "", item: str = "") -> Any:
    from starlette.responses import JSONResponse

    metadata = getattr(_page(page), "metadata", {}).get(item)
    if metadata is None:
        return JSONResponse({})
    return JSONResponse({"metadata": json.dumps(metadata, indent=4, ensure_ascii=False)})


def get_single_card(page: str = "", tabname: str = "", name: str = "") -> Any:
    from starlette.responses import JSONResponse

    found: Any = _page(page)
    try:
        item = found.create_item(name, enable_filter=False)
        found.items[name] = item
    except Exception as e:
        errors.display(e, "creating item for extra network")
        item = found.items.get(name)
    if LISTS_LATE:
        found.read_user_metadata(item, use_cache=False)
    else:
        found.read_user_metadata(item)
    return JSONResponse({"html": _cards.card(found, tabname, item)})


def add_pages_to_demo(app: Any) -> None:
    app.add_api_route("/sd_extra_networks/thumb", fetch_file, methods=["GET"])
    app.add_api_route("/sd_extra_networks/metadata", get_metadata, methods=["GET"])
    app.add_api_route("/sd_extra_networks/get-single-card", get_single_card, methods=["GET"])


class ExtraNetworksPage:
    def __init__(self, title: str) -> None:
        self.title = title
        self.name = title.lower()
        self.allow_negative_prompt = False
        self.metadata: dict[str, Any] = {}
        self.items: dict[str, Any] = {}
        if _host.at_least(7):
            self.allow_prompt = True
        if LISTS_LATE:
            self.extra_networks_tabname = self.name.replace(" ", "_")
            self.lister = _util.MassFileLister()
        else:
            self.id_page = self.name.replace(" ", "_")

    def refresh(self) -> None: ...

    def create_item(self, name: str, index: int | None = None) -> Any:
        raise NotImplementedError

    def list_items(self) -> Any:
        raise NotImplementedError

    def allowed_directories_for_previews(self) -> list[str]:
        return []

    def create_user_metadata_editor(self, ui: Any, tabname: str) -> Any:
        return ui_extra_networks_user_metadata.UserMetadataEditor(ui, tabname, self)

    if LISTS_LATE:

        def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:
            lister = self.lister if use_cache else None
            self._take_metadata(item, extra_networks.get_user_metadata(item.get("filename"), lister=lister))

        def create_html(self, tabname: str, *, empty: bool = False) -> str:
            self.lister.reset()
            return self._html(tabname, [] if empty else self.list_items())

    else:

        def read_user_metadata(self, item: dict[str, Any]) -> None:
            beside = os.path.splitext(item["filename"])[0] + ".json"
            metadata = {}
            try:
                if os.path.isfile(beside):
                    with open(beside, encoding="utf8") as file:
                        metadata = json.load(file)
            except Exception as e:
                errors.display(e, f"reading extra network user metadata from {beside}")
            self._take_metadata(item, metadata)

        def create_html(self, tabname: str) -> str:
            return self._html(tabname, self.list_items())

    def _take_metadata(self, item: dict[str, Any], metadata: dict[str, Any]) -> None:
        description = metadata.get("description")
        if description is not None:
            item["description"] = description
        item["user_metadata"] = metadata

    def _html(self, tabname: str, items: Any) -> str:
        self.metadata = {}
        self.items = {item["name"]: item for item in items}
        for item in self.items.values():
            if item.get("metadata"):
                self.metadata[item["name"]] = item["metadata"]
            if "user_metadata" not in item:
                self.read_user_metadata(item)
        return _cards.pane(self, tabname)

    def link_preview(self, filename: str) -> str:
        quoted = urllib.parse.quote(filename.replace("\\", "/"))
        mtime = self.lister.mctime(filename)[0] if LISTS_LATE else os.path.getmtime(filename)
        return f"./sd_extra_networks/thumb?filename={quoted}&mtime={mtime}"

    def _exists(self, filename: str) -> bool:
        return self.lister.exists(filename) if LISTS_LATE else os.path.isfile(filename)

    def find_preview(self, path: str) -> str | None:
        for extension in ("png", "jpg", "jpeg", "webp", *(["gif"] if _host.at_least(7) else [])):
            for file in (f"{path}.{extension}", f"{path}.preview.{extension}"):
                if self._exists(file):
                    return self.link_preview(file)
        return None

    def find_description(self, path: str) -> str | None:
        for file in (f"{path}.txt", f"{path}.description.txt"):
            if self._exists(file):
                return Path(file).read_text(encoding="utf-8", errors="replace")
        return None

    if _host.at_least(9):

        def find_embedded_preview(self, path: str, name: str, metadata: dict[str, Any]) -> str | None:
            if self._exists(f"{path}.safetensors") and any(json.loads(metadata.get("ssmd_cover_images", "[]"))):
                return f"./sd_extra_networks/cover-images?page={self.extra_networks_tabname}&item={name}"
            return None

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        stat = os.stat(path)
        keys = {
            "date_created": int(stat.st_ctime),
            "date_modified": int(stat.st_mtime),
            "name": Path(path).name.lower(),
        }
        return keys | ({"path": path.lower()} if _host.at_least(7) else {})

    def search_terms_from_path(self, filename: str, possible_directories: Any = None) -> str:
        """Below the allowed folder, with a separator in front; since 1.8 below the folder that holds that one."""
        folders = self.allowed_directories_for_previews() if possible_directories is None else possible_directories
        for folder in map(os.path.abspath, folders):
            if os.path.abspath(filename).startswith(folder):
                return os.path.relpath(filename, os.path.dirname(folder)) if LISTS_LATE else filename[len(folder) :]
        return ""


class ExtraNetworksUi:
    """The pages of one tab. ``pages_contents``: the HTML as last listed; both tabs share the page objects."""

    def __init__(self, tabname: str) -> None:
        self.tabname = tabname
        self.stored_extra_pages = _in_preferred_order(list(extra_pages))
        self.pages_contents: list[str] = []
        self.user_metadata_editors: list[Any] = []

    def pages_html(self) -> list[str]:
        """What a browser gets: listed once, then as it was."""
        if not self.pages_contents:
            self.pages_contents = [page.create_html(self.tabname) for page in self.stored_extra_pages]
        return self.pages_contents

    def refresh(self) -> list[str]:
        """The button of any page: all pages look again."""
        for page in self.stored_extra_pages:
            page.refresh()
        self.pages_contents = [page.create_html(self.tabname) for page in self.stored_extra_pages]
        return self.pages_contents


def _in_preferred_order(pages: list[Any]) -> list[Any]:
    wanted = [word.strip().lower() for word in shared.opts.ui_extra_networks_tab_reorder.split(",")]
    return sorted(pages, key=lambda page: next((n for n, word in enumerate(wanted) if word in page.name), len(pages)))


def create_ui(interface: Any, tabname: str) -> ExtraNetworksUi:
    ui = ExtraNetworksUi(tabname)
    for page in ui.stored_extra_pages:
        with gr.Tab(page.title):
            content = page.create_html(tabname, empty=True) if LISTS_LATE else "Loading..."
            gr.HTML(content, elem_id=f"{tabname}_{page.name.replace(' ', '_')}_cards_html")
            editor = page.create_user_metadata_editor(ui, tabname)
            editor.create_ui()
            ui.user_metadata_editors.append(editor)
    return ui


def setup_ui(ui: ExtraNetworksUi, gallery: Any) -> None:
    for editor in ui.user_metadata_editors:
        editor.setup_ui(gallery)


def path_is_parent(parent_path: str, child_path: str) -> bool:
    return os.path.abspath(child_path).startswith(os.path.abspath(parent_path))
