"""The files of a catalog: the folders' listing, the database's rows, and what is on the disk at this moment."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from lycopatch.engine import catalog_rows as rows
from lycopatch.engine.catalog_entry import (
    AdapterFile,
    Header,
    LazyMetadata,
    alias_of,
    fingerprint_of,
    read_header,
    stated_hashes,
)
from lycopatch.engine.catalog_facts import ReadWords, read_facts, refused
from lycopatch.engine.catalog_folders import Folders
from lycopatch.engine.catalog_index import Names
from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_structure import Structures
from lycopatch.engine.catalog_workers import in_threads
from lycopatch.engine.types import Fingerprint

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told (headers read, headers to read). What it raises ends the work and reaches the caller."""

_BATCH = 200
_BATCH_SECONDS = 1.0
_KEPT_METADATA = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the reading of headers is. ``version`` grows whenever an answer of the catalog may have changed."""

    running: bool
    done: int
    total: int
    version: int


class CatalogFiles:
    """What is known of the networks in some folders. Safe to use from several threads.

    Failures of the database are nobody's concern: a broken one is made again, and without any, headers are read.
    """

    def __init__(
        self, folders: Sequence[Path], store: CatalogStore, read_words: ReadWords | None, *, allow_pickle: bool
    ) -> None:
        self._folders = Folders(folders, allow_pickle=allow_pickle, arrived=self._publish)
        self._store = store
        self._read_words = read_words
        self._structures = Structures()
        self._lock = threading.RLock()  # never held while a disk is waited for, except for the database's
        self._scan_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._names: Names | None = None
        self._ids: list[int] = []
        self._made: dict[str, AdapterFile] = {}
        self._metadata = _LastMetadata()
        self._progress = (False, 0, 0)
        self._version = 0
        self.closed = threading.Event()

    @property
    def state(self) -> IndexState:
        running, done, total = self._progress
        return IndexState(running, done, total, self._version)

    # --- scanning ---------------------------------------------------------------------------------------------------

    def names(self) -> Names:
        """What the last scan saw; the first caller scans."""
        if self._names is None:
            with self._scan_lock:
                if self._names is None:
                    self._folders.scan(everything=True)
                    self._publish()
        names = self._names
        assert names is not None
        return names

    def scan(self, *, everything: bool) -> None:
        """Look at the folders again; without ``everything`` only at those whose time has changed."""
        with self._scan_lock:
            if self._folders.scan(everything=everything) or everything or self._names is None:
                self._publish()
            else:
                times = self._folders.times()
                known = self._names.listing.folder_times
                known.update({path: time for path, time in times.items() if path in known})

    def wait_for_slow_folders(self, seconds: float) -> bool:
        """Wait for folders that have not answered yet; whether there were any."""
        return bool(self.names().listing.silent) and self._folders.wait(seconds)

    def listed(self, places: Iterable[str]) -> list[SeenFile]:
        """The listed files and refused pickles at these paths, in the order of the listing."""
        wanted = set(places)
        listing = self.names().listing
        return [seen for seen in (*listing.files, *listing.pickles) if seen.place in wanted] if wanted else []

    def _publish(self) -> None:
        """Let everybody see what the scans have found."""
        with self._lock:
            is_first = self._names is None
            self._names = names = Names(self._folders.listing())
            self._made = {place: file for place, file in list(self._made.items()) if place in names.seen}
            if self._synchronise() or is_first:
                self._version += 1

    def _synchronise(self) -> bool:
        """Let the database follow the listing; whether anything differed."""
        with self._lock:
            if self._names is None or self.closed.is_set():
                return False
            listing, roots = self._names.listing, self._folders.paths
            found = self.write(lambda connection: rows.synchronise(connection, listing, roots))
            if found is None:
                return True
            differs = found.differs or found.ids != self._ids
            self._ids = found.ids
            self._store.show(found.ids)
            return differs

    # --- reading headers --------------------------------------------------------------------------------------------

    def require_index(self) -> None:
        """Make sure that the database knows every header."""
        self.names()
        if not self.ask(rows.is_complete, True):
            self.index(None)

    def index(self, progress: Progress | None) -> None:
        """Read the headers of new and changed files."""
        self.names()
        with self._index_lock:
            todo = self.listed(self.ask(rows.unread, []))
            if todo:
                try:
                    self._read_all(todo, progress)
                finally:
                    self._progress = (False, *self._progress[1:])

    def _read_all(self, todo: Sequence[SeenFile], progress: Progress | None) -> None:
        self._progress = (True, 0, len(todo))
        batch: list[rows.Written] = []
        written_at = time.monotonic()
        with closing(in_threads(self._facts, todo)) as results:
            try:
                for done, ready in enumerate(results, 1):
                    batch.append(ready)
                    if len(batch) >= _BATCH or time.monotonic() - written_at > _BATCH_SECONDS:
                        self._keep_facts(batch)
                        batch, written_at = [], time.monotonic()
                    self._progress = (True, done, len(todo))
                    if progress is not None:
                        progress(done, len(todo))
                    if self.closed.is_set():
                        return
            finally:
                self._keep_facts(batch)

    def read_facts(self, seen: SeenFile) -> None:
        """Read a header and the words beside it now."""
        self._keep_facts([self._facts(seen)])

    def _facts(self, seen: SeenFile) -> rows.Written:
        if seen.is_pickle and seen.place not in self.names().seen:
            return rows.written(seen, refused(seen))
        return rows.written(seen, read_facts(seen, self._structures, self._read_words))

    def _keep_facts(self, ready: Sequence[rows.Written]) -> None:
        if ready:
            listing = self.names().listing
            self.write(lambda connection: rows.write(connection, ready, listing))
            self._version += 1

    # --- single files -----------------------------------------------------------------------------------------------

    def current(self, seen: SeenFile) -> AdapterFile | None:
        """A listed file as it is on disk now, or None when it is gone. Damaged files get a new chance."""
        known = self.ask(lambda connection: rows.entry(connection, seen.place), None)
        try:
            fingerprint = fingerprint_of(seen.path)
        except (FileNotFoundError, NotADirectoryError):
            self._forget(seen)
            return None
        except OSError:
            return self._read(seen, known)  # whose error says why
        seen.size, seen.mtime_ns = fingerprint.size, fingerprint.mtime_ns
        if known and known.is_read and known.fingerprint == fingerprint and known.error is None:
            return self.file(seen, known)
        made = self._made.get(seen.place)
        if made and made.fingerprint == fingerprint and made.error is None and not (known and known.is_read):
            return made
        return self._read(seen, known)

    def file(self, seen: SeenFile, known: rows.Entry | None) -> AdapterFile:
        """A file as the database knows it, or as it is on disk where the database does not."""
        if known is None or not known.is_read:
            return self._read(seen, known)
        return self._made_of(seen, known)

    def _made_of(self, seen: SeenFile, known: rows.Entry) -> AdapterFile:
        made = self._made.get(seen.place)
        if made is None or (made.alias, made.fingerprint, made.error) != (known.alias, known.fingerprint, known.error):
            metadata = LazyMetadata(partial(self._load_metadata, seen, known.fingerprint))
            made = self._made[seen.place] = AdapterFile(
                seen.path,
                seen.relative,
                seen.stem,
                known.alias,
                known.fingerprint,
                metadata,
                known.error,
                known.stated,
            )
        return made

    def _read(self, seen: SeenFile, known: rows.Entry | None) -> AdapterFile:
        """Read a header. Not under a lock: a slow disk must not keep other threads from finding other files."""
        header = read_header(seen)
        self._metadata.keep(seen.place, seen.fingerprint, header.metadata)
        if known and (known.fingerprint, known.error) != (seen.fingerprint, header.error):
            listing = self.names().listing
            self.write(lambda connection: rows.outdate(connection, listing, seen))
            self._version += 1
        stated = tuple(stated_hashes(header.metadata))
        entry = rows.Entry(alias_of(header.metadata), stated, seen.fingerprint, header.error, is_read=True)
        return self._made_of(seen, entry)

    def _forget(self, seen: SeenFile) -> None:
        self.names().seen.pop(seen.place, None)
        self.write(lambda connection: rows.forget_file(connection, seen.place))
        self._version += 1

    def _load_metadata(self, seen: SeenFile, fingerprint: Fingerprint) -> Mapping[str, str]:
        kept = self._metadata.of(seen.place, fingerprint)
        if kept is None:
            kept = self.ask(lambda connection: rows.metadata(connection, seen.place, fingerprint), None)
            if kept is None:
                header = read_header(seen)
                kept = header.metadata if seen.fingerprint == fingerprint else Header().metadata
            self._metadata.keep(seen.place, fingerprint, kept)
        return kept

    # --- the database -----------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The database's answer, or ``otherwise`` when there is none to be had."""
        found = self._tried(lambda: question(self._store.connection()))
        return otherwise if found is None else found

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T | None:
        """Make a change in one transaction; None when it could not be made."""

        def written() -> T:
            with self._store.writing() as connection:
                return change(connection)

        return self._tried(written)

    def _tried(self, action: Callable[[], T]) -> T | None:
        """What the action returns, tried again on a new database if the old one is broken."""
        for _ in range(2):
            try:
                return action()
            except sqlite3.Error as error:
                if not self._store.recover(error):
                    if not self.closed.is_set():
                        _log.warning("The catalog's database could not be used: %s", error)
                    return None
            self._synchronise()
        return None


class _LastMetadata:
    """The metadata of the files that were looked at last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Fingerprint], Mapping[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, place: str, fingerprint: Fingerprint) -> Mapping[str, str] | None:
        return self._kept.get((place, fingerprint))

    def keep(self, place: str, fingerprint: Fingerprint, metadata: Mapping[str, str]) -> None:
        with self._lock:
            self._kept[place, fingerprint] = metadata
            while len(self._kept) > _KEPT_METADATA:
                self._kept.popitem(last=False)
