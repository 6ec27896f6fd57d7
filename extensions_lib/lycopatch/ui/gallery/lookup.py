"""Networks as pages ask for them: by id, by the names in a prompt, as cards. Everything comes from the catalog."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_entry import LazyMetadata
from lycopatch.engine.catalog_query import Row, by_identity, by_path
from lycopatch.engine.errors import AdapterError, AdapterNotFound
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.types import Fingerprint
from lycopatch.ui.answers import without_place
from lycopatch.ui.gallery.asked import Refused
from lycopatch.ui.gallery.cards import Loaded, card
from lycopatch.ui.gallery.reading import BackgroundReading
from lycopatch.ui.sidecar import read_sidecar
from lycopatch.ui.spelling import spelling_of

T = TypeVar("T")

MOST_PROBLEMS = 50
_LOOK_AGAIN_SECONDS = 3.0


@dataclass
class _Known:
    """What was worked out of one state of the catalog, because pages ask for the same again and again.

    Only where it is ``complete``, all headers being read, does anybody know what aliases and hashes mean.
    """

    catalog: Catalog
    version: int
    complete: bool
    prefer_alias: bool
    problems: list[str] | None = None
    meanings: dict[str, Path | None] = field(default_factory=dict[str, "Path | None"])
    spellings: dict[str, str | None] = field(default_factory=dict[str, "str | None"])


class Lookup:
    """Answers from the catalog and its database. Thread-safe."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        reading: BackgroundReading,
        loaded: Callable[[], Loaded | None],
        prefer_alias: Callable[[], bool],
    ) -> None:
        self.catalog = catalog
        self._reading = reading
        self._loaded = loaded
        self._prefer_alias = prefer_alias
        self._looked = 0.0
        self._last_known: _Known | None = None

    def look_for_changes(self) -> None:
        """Notice new and changed files. Cheap, and not with every question: people scroll."""
        self._reading.hurry()
        now = time.monotonic()
        if now - self._looked > _LOOK_AGAIN_SECONDS:
            self._looked = now
            if self.catalog().refresh_changed():
                self._reading.start()

    def scanning(self) -> dict[str, Any]:
        """How far the reading of headers is."""
        state = self.catalog().state
        return {"running": state.running or self._reading.running, "done": state.done, "total": state.total}

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """The database's answer; that of a new one, which fills again in the background, if the old one is broken."""
        catalog = self.catalog()
        try:
            return question(catalog.store.connection())
        except sqlite3.Error as error:
            if not catalog.store.recover(error):
                raise
        catalog.refresh()
        self._reading.start()
        return question(catalog.store.connection())

    def row(self, identity: str) -> Row:
        """The network with this id, as the catalog lists it."""
        row = self.ask(lambda connection: by_identity(connection, identity, self.family()))
        if row is None:
            raise unknown_network()
        return row

    def family(self) -> str | None:
        """Of the loaded model, as networks' families are called."""
        loaded = self._loaded()
        return loaded.family if loaded else None

    def file(self, row: Row) -> AdapterFile:
        """The file as it is on disk now."""
        file = self.catalog().at(Path(row.path))
        if file is None:
            raise unknown_network()
        return file

    def cards(self, rows: Iterable[Row], chosen: Container[Path] = ()) -> list[dict[str, Any]]:
        """Networks as cards. ``chosen``: the files that the prompt names."""
        known, loaded = self._known_now(), self._loaded()
        return [card(row, name=self._name(row, known), chosen=Path(row.path) in chosen, loaded=loaded) for row in rows]

    def _name(self, row: Row, known: _Known) -> str | None:
        """What a tag calls a network."""
        names = known.spellings
        if row.path not in names:
            file = self._as_listed(row, with_contents=known.complete)
            names[row.path] = spelling_of(file, known.catalog, prefer_alias=known.prefer_alias)
        return names[row.path]

    def _as_listed(self, row: Row, *, with_contents: bool) -> AdapterFile:
        """The file as the catalog lists it, or by its name alone: the disk is not asked for each card."""
        path = Path(row.path)

        def metadata() -> Mapping[str, str]:
            file = self.catalog().at(path) if with_contents else None
            return file.metadata if file else {}

        alias = row.alias if with_contents else None
        fingerprint = Fingerprint(row.size, row.mtime_ns)
        return AdapterFile(path, row.relative, path.stem, alias, fingerprint, LazyMetadata(metadata), row.error)

    def named_in(self, prompt: str) -> set[Path]:
        """The files that a prompt names, by whatever names; none while headers are being read: see ``problems``."""
        known = self._known_now()
        names = {request.name for request in parse_prompt(prompt).requests} if known.complete else set()
        for name in names - known.meanings.keys():
            file = self.means(name)
            known.meanings[name] = file.path if file else None
        return {path for name in names if (path := known.meanings[name])}

    def problems(self) -> list[str]:
        """What can not be read, in sentences. Nobody waits for thousands of headers: the page asks again after that."""
        known = self._known_now()
        if known.problems is None:
            issues = known.catalog.problems if known.complete else []
            known.problems = [without_place(issue) for issue in issues[:MOST_PROBLEMS]]
        return known.problems

    def _known_now(self) -> _Known:
        catalog, known = self.catalog(), self._last_known
        state = catalog, catalog.state.version, not self.scanning()["running"], self._prefer_alias()
        if known is None or (known.catalog, known.version, known.complete, known.prefer_alias) != state:
            known = self._last_known = _Known(*state)
        return known

    def means(self, name: str) -> AdapterFile | None:
        """The file that a tag means by this name, if there is exactly one."""
        try:
            return self.catalog().find(name)
        except AdapterError:
            return None

    def found_by_tag(self, name: str) -> Mapping[str, Any]:
        """The card that a tag means, with the range of its weights. Raises AdapterError."""
        file = self.catalog().find(name)
        row = self.ask(lambda connection: by_path(connection, str(file.path), self.family()))
        if row is None:
            raise AdapterNotFound(name)
        [found] = self.cards([row], {file.path})
        return {**found, "weight_range": read_sidecar(file.path).weight_range}


def unknown_network() -> Refused:
    return Refused("There is no network with this id; it may have been renamed or removed.", 404)
