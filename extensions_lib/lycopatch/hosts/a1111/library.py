"""The folders where the user's networks are, and the catalog of what is in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lycopatch.engine.catalog import Catalog
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.settings import Settings


class Library:
    """The networks of this WebUI. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._made_of: tuple[list[Path], bool] | None = None

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
                folders, allow_pickle = self._made_of = made_of
                self._catalog = Catalog(folders, allow_pickle=allow_pickle)
            return self._catalog

    def refresh(self) -> None:
        """Look again what is in the folders."""
        self.catalog.refresh()


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
