"""The demo's library: the same gallery as in the WebUI, over the networks of the page's model."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from lycopatch.demo.txt2img import TextToImage
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.engine.families.binding import CUSTOM
from lycopatch.ui.gallery.cards import Loaded
from lycopatch.ui.gallery.reading import BackgroundReading
from lycopatch.ui.gallery.routes import add_gallery_routes
from lycopatch.ui.gallery.service import GalleryService
from lycopatch.ui.gallery.thumbnails import Thumbnails
from lycopatch.ui.mount import Mount, new_token
from lycopatch.ui.networks import Networks

FAMILY = "lycopatch_demo"
"""The base model that the demo's networks name: the model's structure alone has no name."""


class Library:
    """``folder``: for what is made on the way, such as small copies of previews.

    Favourites last as long as the demo.
    """

    def __init__(self, studio: TextToImage, folder: Path) -> None:
        self.folder = folder
        self.mount = Mount("demo", new_token())
        self.networks = Networks(lambda: studio.loader.catalog)
        self._studio = studio
        self._reading = BackgroundReading(lambda: studio.loader.catalog)
        self._service = GalleryService(
            lambda: studio.loader.catalog,
            UserShelf(studio.loader.catalog.store),
            self._reading,
            Thumbnails(folder / "thumbs"),
            loaded=self._loaded,
            session=studio.loader.current_session,
        )

    def add_routes(self, app: Any) -> None:
        """Answer the questions of the page."""
        add_gallery_routes(app, self._service, self.mount.token)

    def _loaded(self) -> Loaded:
        family = self._studio.loader.session.index.model.family
        return Loaded(FAMILY if family == CUSTOM else family, self._studio.model)

    def __enter__(self) -> Library:
        self._reading.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.close()
