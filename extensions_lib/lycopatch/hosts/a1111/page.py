"""The extra-networks page over all network folders: the library's own gallery, or cards that the WebUI renders.

With the gallery, the WebUI is asked for a page without cards, which stays hidden: its script looks for the search
field and the list in there, empties the list when it sorts, and ignores all tabs when one has no search field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_index import hash_digits
from lycopatch.engine.catalog_scan import SAFETENSORS_SUFFIXES
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.wording import printable
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.cards import HostFacts, new_card, page_name, plain_card
from lycopatch.hosts.a1111.metadata_editor import new_editor
from lycopatch.ui.sidecar import read_sidecar, stem_path
from lycopatch.ui.spelling import spelling_of

if TYPE_CHECKING:
    from lycopatch.hosts.a1111.library import Library
    from lycopatch.hosts.a1111.settings import Settings

_MODEL_FLAGS = {"SDXL": "is_sdxl", "SD3": "is_sd3", "SD2": "is_sd2", "SD1": "is_sd1"}
"""Version → what the WebUI notes at a model of it."""


def new_page(library: Library, settings: Settings, *, title: str, gallery: Callable[[str], str] | None = None) -> Any:
    """The page, as a subclass of the WebUI's class of this moment ("Reload UI" makes a new one).

    ``gallery``: the HTML of the library for "txt2img" or "img2img", if there is one; empty for the WebUI's cards.
    """
    base = host_api.pages().ExtraNetworksPage

    class NetworksPage(base):
        def __init__(self) -> None:
            super().__init__(title)
            self.shelf = Shelf(library, settings, self)
            self.has_gallery = False

        def create_html(self, tabname: str, **more: Any) -> str:
            """Without cards there is nothing to list."""
            container = gallery(tabname) if gallery else ""
            self.has_gallery = bool(container)
            if not container:
                return super().create_html(tabname, **more)
            hidden = super().create_html(tabname, **more) if hasattr(self, "lister") else ""  # from 1.8
            return f'<div style="display: none">{hidden}</div>{container}'

        def create_tree_view_html(self, tabname: str) -> str:
            return "" if self.has_gallery else super().create_tree_view_html(tabname)

        def create_dirs_view_html(self, tabname: str) -> str:
            return "" if self.has_gallery else super().create_dirs_view_html(tabname)

        def refresh(self) -> None:
            self.shelf.refresh()

        def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> dict[str, Any] | None:
            return self.shelf.card(name, index, enable_filter=enable_filter)

        def list_items(self) -> Iterable[dict[str, Any]]:
            return [] if self.has_gallery else self.shelf.cards()

        def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:
            """Our cards hold the user's words already, read with more care."""

        def allowed_directories_for_previews(self) -> list[str]:
            return list(self.shelf.folders)

        def create_user_metadata_editor(self, ui: Any, tabname: str) -> Any:
            return new_editor(ui, tabname, self)

    return NetworksPage()


class Shelf:
    """What the page shows. One bad file gives one card that says so; nothing here raises."""

    def __init__(self, library: Library, settings: Settings, page: Any) -> None:
        self._library = library
        self._settings = settings
        self._page = page
        self._listed: dict[str, tuple[str, int]] = {}
        """Name of a card → name of its file in the catalog, and its place in the list."""
        self.folders = self._known_folders()

    def refresh(self) -> None:
        """Look at the folders again."""
        try:
            self._library.refresh()
            self.folders = self._known_folders()
        except Exception:
            host_api.report_bug("LycoPatch could not look through the network folders")

    def cards(self) -> list[dict[str, Any]]:
        """All cards that fit the loaded model, in the order of the folders."""
        try:
            return self._cards()
        except Exception:
            host_api.report_bug("LycoPatch could not list the networks")
            return [plain_card("LycoPatch", "The networks could not be listed; the reason is in the WebUI's console.")]

    def _cards(self) -> list[dict[str, Any]]:
        self.folders = self._known_folders()
        catalog, lister = self._library.catalog, getattr(self._page, "lister", None)
        exists = lister.exists if lister else os.path.exists
        is_hidden = _filter()
        listed: dict[str, tuple[str, int]] = {}
        cards: list[dict[str, Any]] = []
        for index, (name, file) in enumerate(_named(catalog)):
            listed[name] = catalog.shortest_name(file), index
            card = self._card(catalog, file, name, index, exists)
            if not is_hidden(card["sd_version"]):
                cards.append(card)
        self._listed = listed
        return cards

    def card(self, name: str, index: int | None = None, *, enable_filter: bool = True) -> dict[str, Any] | None:
        """One card, with the file and the user's words as they are now; None when the filter hides it."""
        file = self.file(name)
        if file is None:
            return plain_card(page_name(name), "There is no such network any more; refresh the page.")
        place = self._listed.get(name, (name, 0))[1] if index is None else index
        card = self._card(self._library.catalog, file, page_name(name), place, os.path.exists)
        return None if enable_filter and _filter()(card["sd_version"]) else card

    def file(self, name: str) -> AdapterFile | None:
        """The file that a card shows."""
        try:
            return self._library.catalog.find(self._listed.get(name, (name, 0))[0])
        except AdapterError:
            return None

    def preview(self, file: AdapterFile) -> str | None:
        """The address of the picture beside a file. The WebUI can not link to a name that is not valid UTF-8."""
        stem = stem_path(file.path)
        return self._page.find_preview(stem) if printable(stem) == stem else None

    def _known_folders(self) -> list[str]:
        return [str(folder) for folder in self._library.folders()]

    def _card(
        self, catalog: Catalog, file: AdapterFile, name: str, index: int, exists: Callable[[str], bool]
    ) -> dict[str, Any]:
        try:
            spelling = spelling_of(file, catalog, prefer_alias=self._settings.prefer_alias)
            facts = self._facts(file, index)
            return new_card(file, read_sidecar(file.path, exists), facts, name=name, spelling=spelling)
        except Exception:
            host_api.report_bug(f"LycoPatch could not make the card of {printable(str(file.path))}")
            return plain_card(name, "This card could not be made; the reason is in the WebUI's console.")

    def _facts(self, file: AdapterFile, index: int) -> HostFacts:
        path = str(file.path)
        as_html = host_api.option("extra_networks_card_description_is_html", None)
        return HostFacts(
            preview=self.preview(file),
            shorthash=_shorthash(file),
            search_path=self._page.search_terms_from_path(path, self.folders),
            sort_keys={"default": index, **self._page.get_sort_keys(path)},
            picture_format=host_api.option("samples_format", "png"),
            descriptions="raw" if as_html is None else "html" if as_html else "text",
        )


def _named(catalog: Catalog) -> Iterator[tuple[str, AdapterFile]]:
    """Every file with the name of its card. Names that became equal are numbered."""
    taken: set[str] = set()
    for file in catalog.files:
        plain = name = page_name(catalog.shortest_name(file))
        number = 1
        while name in taken:
            number += 1
            name = f"{plain} ({number})"
        taken.add(name)
        yield name, file


def _shorthash(file: AdapterFile) -> str:
    """The first 12 digits as infotexts have them, if the file or the WebUI knows them already; else empty."""
    stated = hash_digits(file.metadata.get("sshs_model_hash", ""))
    is_safetensors = file.path.suffix.lower() in SAFETENSORS_SUFFIXES
    known = stated or host_api.known_hash(file.path, f"lora/{file.stem}", safetensors=is_safetensors) or ""
    return (hash_digits(known) or "")[:12]


def _filter() -> Callable[[str], bool]:
    """Whether a card for some version is hidden: as the built-in networks' settings say, while those are there."""
    model = host_api.current_model()
    loaded = next((version for version, flag in _MODEL_FLAGS.items() if getattr(model, flag, False)), None)
    if loaded is None or host_api.option("lora_show_all", True):
        return lambda version: False
    hides_unknown = loaded in host_api.option("lora_hide_unknown_for_versions", ())
    return lambda version: version != loaded if version in _MODEL_FLAGS else hides_unknown
