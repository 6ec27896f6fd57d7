"""Step 2: the name in a tag → the file it means. Headers are read once and kept in a database; see ``catalog_store``.

A name is tried in this order, and the first kind of spelling that fits decides:

1. the path below its folder (``styles/inkwash``), then the same behind the folder's own name (``Lora/styles/inkwash``);
   with or without extension, with either slash;
2. the file name alone;
3. the name its trainer gave it (``ss_output_name``), unless that is "none" or "addams", which hosts use otherwise;
4. a hash of at least 8 digits that the file states, or that was computed before;
5. 1 to 4 without the blanks around the name;
6. 1 to 3 without regard to case, invisible characters and the way accents are encoded.

When a spelling fits several files, none is taken and all are offered. Of ``a.safetensors`` and ``a.pt`` side by side,
"a" is the former. Names are only compared with the names of listed files, so no name can lead out of the folders.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from lycopatch.engine import catalog_rows as rows
from lycopatch.engine.catalog_entry import AdapterFile
from lycopatch.engine.catalog_facts import ReadWords
from lycopatch.engine.catalog_files import CatalogFiles, IndexState, Progress
from lycopatch.engine.catalog_index import HashIndex, hash_digits, near_misses, with_slashes
from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.errors import AdapterNotFound, UnreadableAdapter
from lycopatch.engine.reading import file_hashes, open_tensor_file
from lycopatch.engine.report import Issue

__all__ = ["AdapterFile", "Catalog", "IndexState"]

T = TypeVar("T")

_ATTEMPTS = 3
"""How often a look-up starts again because a file changed under it."""

_SLOW_FOLDER_SECONDS = 20.0
"""How long a name that was not found waits for folders that have not answered yet."""


class Catalog:
    """All networks in some folders. Safe to use from several threads.

    The first question scans the folders. ``find`` by file name opens at most one header; a name that is no file name,
    and ``files``, need those of all files: ``index`` reads the ones that the database does not know in this state.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        allow_pickle: bool = False,
        store: CatalogStore | None = None,
        read_words: ReadWords | None = None,
    ) -> None:
        """``store``: None for one in memory. ``read_words``: what people wrote beside a network, for searches."""
        unique = {os.path.normcase(os.path.abspath(folder)): Path(os.path.abspath(folder)) for folder in folders}
        self.store = CatalogStore(None) if store is None else store
        self._owns_store = store is None
        self._files = CatalogFiles(list(unique.values()), self.store, read_words, allow_pickle=allow_pickle)
        self._unhashed: dict[str, Issue] = {}
        self._near_misses: tuple[int, dict[str, list[str]]] = (0, {})
        self._lock = threading.Lock()
        self._hashing: threading.Thread | None = None

    # --- what is there ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Scan the folders again. Headers of unchanged files are kept; damaged files get a new chance."""
        self._unhashed = {}
        self._files.scan(everything=True)
        self._files.write(rows.doubt)

    def refresh_changed(self) -> bool:
        """Look at the folders whose time has changed, and at files that were being written; whether anything differs.

        Also true when headers wait for ``index``. A file that was changed in its place is noticed when it is used.
        """
        version = self._files.state.version
        self._files.scan(everything=False)
        for seen in self._files.listed(self._files.ask(rows.unfinished, [])):
            self._files.current(seen)
        return self._files.state.version != version or not self._files.ask(rows.is_complete, True)

    def index(self, progress: Progress | None = None) -> None:
        """Read the headers of new and changed files. What ``progress`` raises ends it; what was read is kept."""
        self._files.index(progress)

    @property
    def state(self) -> IndexState:
        """How far ``index`` is, and the version of what the catalog knows."""
        return self._files.state

    @property
    def files(self) -> list[AdapterFile]:
        """Every file, in the order of the folders and then of the names."""
        self._files.require_index()
        entries = self._files.ask(rows.entries, {})
        return [self._files.file(seen, entries.get(place)) for place, seen in list(self._files.names().seen.items())]

    @property
    def problems(self) -> list[Issue]:
        """Folders and files that can not be read, and what is wrong with the files of the catalog itself."""
        self._files.require_index()
        names = self._files.names()
        found = self._files.ask(rows.errors, {})
        damaged = [
            Issue("unreadable_file", found[place], file=seen.relative)
            for place, seen in list(names.seen.items())
            if place in found
        ]
        return [*filter(None, [self.store.issue]), *names.listing.problems, *damaged, *self._unhashed.values()]

    def at(self, path: Path) -> AdapterFile | None:
        """The listed file at this path as it is on disk now, or None."""
        seen = self._files.names().seen.get(str(path))
        return self._files.current(seen) if seen else None

    def read_again(self, path: Path) -> None:
        """Read a listed file's header and the words beside it now, because somebody has just changed them."""
        for seen in self._files.listed([str(path)]):
            self._files.read_facts(seen)

    def ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What the database answers, asked again on a new one if it proves to be broken; ``otherwise`` without any."""
        self._files.names()
        return self._files.ask(question, otherwise)

    def close(self) -> None:
        """Stop what works in the background, and close the database if it is the catalog's own."""
        self._files.closed.set()
        if self._owns_store:
            self.store.close()

    # --- what a name means ------------------------------------------------------------------------------------------

    def find(self, name: str) -> AdapterFile:
        """The file that a tag means by this name, as it is on disk now. Hashes nothing.

        Raises AdapterNotFound, ``ambiguous`` when several files fit; UnreadableAdapter when only a pickle fits and
        pickles are not allowed. A damaged file is returned, with its ``error``.
        When nothing fits and a folder has changed since the last scan, the folders are scanned again.
        """
        found = self._ask(lambda: self._candidates(name))
        if len(found) == 1:
            return found[0]
        names = self._files.names()
        if found:
            raise AdapterNotFound(name, [names.shortest(str(file.path)) for file in found], ambiguous=True)
        for pickles in names.refused.look_up(name):
            open_tensor_file(pickles[0].path, allow_pickle=False).close()  # raises, and says what to do about it
        raise AdapterNotFound(name, self._offers(name))

    def shortest_name(self, file: AdapterFile) -> str:
        """The shortest name that means this file and no other; its path below the folder when none does."""
        return self._files.names().shortest(str(file.path))

    def find_hash(self, hexdigits: str, *, compute: bool = False) -> AdapterFile | None:
        """The file with this hash: at least 8 leading digits of any kind that sites, infotexts or trainers use.

        Looks at the hashes that files state about themselves and at those computed before. With ``compute`` it then
        hashes one file after the other until one fits, which may read every byte of the folders. Of identical copies
        the first is returned; None also when the digits fit different files.
        """
        digits = hash_digits(hexdigits)
        if digits is None:
            return None
        found = self._ask(lambda: self._by_hash(digits))
        if not found and compute:
            for seen in self._files.listed(self._files.ask(rows.unhashed, [])):
                if any(each.startswith(digits) for each in self._hash(seen)):
                    found = self._by_hash(digits)
                    break
        return found[0] if len(found) == 1 else None

    def hash_in_background(self) -> None:
        """Compute the hashes that are not known yet, one file after the other, gently, until ``close``."""
        with self._lock:
            if self._hashing is None or not self._hashing.is_alive():
                self._hashing = threading.Thread(target=self._hash_all, name="lycopatch-hashes", daemon=True)
                self._hashing.start()

    def _ask(self, look_up: Callable[[], list[AdapterFile]]) -> list[AdapterFile]:
        """What a look-up finds, after another scan if it finds nothing and a folder has changed or is slow."""
        found = look_up()
        if not found and self._files.wait_for_slow_folders(_SLOW_FOLDER_SECONDS):
            found = look_up()
        if not found and self._files.names().listing.outdated():
            self._files.scan(everything=False)
            found = look_up()
        return found

    def _candidates(self, name: str) -> list[AdapterFile]:
        """All files that the best fitting kind of spelling means."""
        names = self._files.names()
        for spelling in dict.fromkeys([name, name.strip()]):
            found = self._by_name(names.exact.look_up(spelling)) or self._by_alias(spelling)
            digits = hash_digits(spelling)
            if digits and not found:
                found = self._by_hash(digits)
            if found:
                return found
        return self._by_name(names.folded.look_up(name)) or self._by_alias(name, folded=True)

    def _by_name(self, tiers: Iterator[list[SeenFile]]) -> list[AdapterFile]:
        """The files of the first tier of which any is still there."""
        for tier in tiers:
            found = [file for seen in tier if (file := self._files.current(seen))]
            if found:
                return found
        return []

    def _by_alias(self, alias: str, *, folded: bool = False) -> list[AdapterFile]:
        return self._by_contents(lambda connection: rows.with_alias(connection, alias, folded=folded))

    def _by_hash(self, digits: str) -> list[AdapterFile]:
        def fitting(connection: sqlite3.Connection) -> list[str]:
            hashes = dict(rows.with_hash(connection, digits))
            ordered = [(seen.place, hashes[seen.place]) for seen in self._files.listed(hashes)]
            return HashIndex(ordered).look_up(digits)

        return self._by_contents(fitting)

    def _by_contents(self, question: Callable[[sqlite3.Connection], list[str]]) -> list[AdapterFile]:
        """The files that the headers name, asked again when a header proves to have changed since it was read."""
        found: list[AdapterFile] = []
        for _ in range(_ATTEMPTS):
            self._files.require_index()
            known = self._files.listed(self._files.ask(question, []))
            found = [file for seen in known if (file := self._files.current(seen))]
            if len(found) == len(known) and self._files.ask(rows.is_complete, True):
                break
        return found

    def _offers(self, name: str) -> list[str]:
        """Names to offer instead. Each of them finds exactly one file."""
        names, version = self._files.names(), self._files.state.version
        if self._near_misses[0] != version:
            self._near_misses = (version, {})
        known = self._near_misses[1]
        if name not in known:  # a prompt with a wrong name is often used again, and the search looks at every file
            spelled: dict[str, tuple[str, str | None]] = {}
            for place, seen in list(names.seen.items()):
                spelled[seen.stem] = (place, None)
                if "/" in with_slashes(name):
                    spelled[seen.relative] = (place, None)
            aliases = self._files.ask(rows.aliases, [])
            for place, alias in aliases:
                spelled.setdefault(alias, (place, alias))
            offers: dict[str, None] = {}
            for place, alias in near_misses(name, spelled):
                is_alias = alias is not None and not names.exact.first(alias) and len(self._by_alias(alias)) == 1
                offers[alias if alias is not None and is_alias else names.shortest(place)] = None
            known[name] = list(offers)
        return known[name]

    # --- hashes -----------------------------------------------------------------------------------------------------

    def _hash(self, seen: SeenFile, pause: Progress | None = None) -> list[str]:
        """Hash a file as it is now and keep the result; nothing when it is gone or can not be read."""
        file = self._files.current(seen)
        if file is None:
            return []
        try:
            found = file_hashes(file.path) if pause is None else file_hashes(file.path, pause)
        except UnreadableAdapter as error:
            self._unhashed[seen.place] = Issue("unreadable_file", str(error), file=file.relative)
            return []
        self._files.write(lambda connection: rows.write_hashes(connection, seen.place, file.fingerprint, found))
        return [found.autov3, found.sha256, found.autov1]

    def _hash_all(self) -> None:
        """Hash everything with pauses as long as the work, so that the disk and the processor stay free for others."""
        begun = time.monotonic()

        def pause(done: int, total: int) -> None:
            nonlocal begun
            if self._files.closed.wait(time.monotonic() - begun):
                raise _Closed
            begun = time.monotonic()

        try:
            for seen in self._files.listed(self._files.ask(rows.unhashed, [])):
                begun = time.monotonic()
                self._hash(seen, pause)
                if self._files.closed.is_set():
                    return
        except _Closed:
            return


class _Closed(Exception):
    """The catalog was closed while a file was hashed."""
