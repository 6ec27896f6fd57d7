"""The folders where the user's networks are, and the catalog of what is in them, kept in the WebUI's cache folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_query import by_path
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.settings import Settings
from lycopatch.ui.beside import read_words
from lycopatch.ui.gallery.reading import BackgroundReading


class Library:
    """The networks of this WebUI. Thread-safe. Nothing is opened before somebody asks.

    ``reading``: reads what is new in the folders, in a thread of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._store: CatalogStore | None = None
        self._catalog: Catalog | None = None
        self._made_of: tuple[list[Path], bool] | None = None
        self.reading = BackgroundReading(lambda: self.catalog)

    def folders(self) -> list[Path]:
        """Absolute folders, the built-in's first; each once, whatever it is called.

        ``models/Lora`` and ``models/LyCORIS`` are made when they are missing. Any other folder that is missing or
        unreadable is named among the catalog's ``problems``.
        """
        models = host_api.models_folder()
        defaults = [models / "Lora", models / "LyCORIS"]
        lora = list(_given("lora_dir", "lora_dirs")) or defaults[:1]
        lyco = list(_given("lyco_dir", "lyco_dir_backcompat")) or defaults[1:]
        folders = _each_once([*lora, *lyco, *self._settings.extra_folders])
        for folder in folders:
            if folder in defaults and not folder.exists():
                with suppress(OSError):  # the catalog says that it is missing
                    folder.mkdir(parents=True, exist_ok=True)
        return folders

    @property
    def catalog(self) -> Catalog:
        """The catalog of these folders: the same one until the folders or the setting for pickles change."""
        made_of = self.folders(), self._settings.allow_pickle
        with self._lock:
            if self._catalog is None or self._made_of != made_of:
                if self._catalog is not None:
                    self._catalog.close()
                folders, allow_pickle = self._made_of = made_of
                store = self._open_store()
                self._catalog = Catalog(folders, allow_pickle=allow_pickle, store=store, read_words=read_words)
            return self._catalog

    @property
    def shelf(self) -> UserShelf:
        """Favourites, and what was used when."""
        with self._lock:
            return UserShelf(self._open_store())

    @property
    def folder(self) -> Path:
        """Where the index is kept, with small copies of previews: below the WebUI's cache."""
        return host_api.cache_folder() / "lycopatch"

    def refresh(self) -> None:
        """Look again what is in the folders."""
        self.catalog.refresh()

    def count_use(self, paths: Iterable[Path], when: float) -> None:
        """Count one use of each of these files. Raises sqlite3.Error when the disk fails."""
        connection = self.catalog.store.connection()
        rows = [by_path(connection, str(path), None) for path in paths]
        self.shelf.record_used([row.identity for row in rows if row], when)

    def close(self) -> None:
        """Stop what runs in the background and let go of the files, for good."""
        self.reading.close()
        with self._lock:
            for opened in filter(None, (self._catalog, self._store)):
                opened.close()

    def _open_store(self) -> CatalogStore:
        if self._store is None:
            self._store = CatalogStore(self.folder / "index.sqlite3", self.folder / "user.sqlite3")
        return self._store


def _given(*options: str) -> Iterator[Path]:
    """The folders on the command line: options of one folder or of several, relative ones as the WebUI takes them."""
    for option in options:
        value = host_api.command_line(option)
        for text in value if isinstance(value, list | tuple) else [value]:
            if text:
                yield Path(os.path.abspath(text))


def _each_once(folders: Iterable[Path]) -> list[Path]:
    """Without those that are the same place as an earlier one."""
    places: dict[str, Path] = {}
    for folder in folders:
        places.setdefault(os.path.normcase(os.path.realpath(folder)), folder)
    return list(places.values())
