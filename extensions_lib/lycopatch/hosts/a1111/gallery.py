"""The library in this WebUI's pages: where its prompts are, and the routes that answer its questions."""

from __future__ import annotations

from typing import Any

from lycopatch.hosts.a1111.active import ActiveNetworks
from lycopatch.hosts.a1111.library import Library
from lycopatch.hosts.a1111.loaded import LoadedModel
from lycopatch.hosts.a1111.settings import Settings
from lycopatch.ui.gallery.routes import add_gallery_routes
from lycopatch.ui.gallery.service import GalleryService
from lycopatch.ui.gallery.thumbnails import Thumbnails
from lycopatch.ui.mount import Mount, Target, new_token

TABS = ("txt2img", "img2img")


class Gallery:
    """One for each load of the extension, with a token of its own: pages are built before there is an app."""

    def __init__(self, library: Library, settings: Settings, active: ActiveNetworks) -> None:
        self._library = library
        self._settings = settings
        self._active = active
        self._loaded = LoadedModel()
        self._mount = Mount("a1111", new_token())

    def in_tab(self) -> str:
        """The library for the LycoPatch tab, as HTML."""
        return self._mount.html("tab", [_target(tabname) for tabname in TABS])

    def on_page(self, tabname: str) -> str:
        """The library for the page of networks in txt2img or img2img; empty when the user wants cards there."""
        return self._mount.html("page", [_target(tabname)]) if self._settings.gallery_on_page else ""

    def add_routes(self, app: Any) -> None:
        """Answer the questions of the pages. For each new app."""
        add_gallery_routes(app, self._service(), self._mount.token)

    def _service(self) -> GalleryService:
        return GalleryService(
            lambda: self._library.catalog,
            self._library.shelf,
            self._library.reading,
            Thumbnails(self._library.folder / "thumbs"),
            loaded=self._loaded.current,
            session=self._active.session,
            allow_pickle=lambda: self._settings.allow_pickle,
            prefer_alias=lambda: self._settings.prefer_alias,
            usual_weight=lambda: self._settings.usual_weight,
        )


def _target(tabname: str) -> Target:
    return Target(tabname, f"#{tabname}_prompt textarea", f"#{tabname}_neg_prompt textarea")
