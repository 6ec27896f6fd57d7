"""Step 2: the name in a tag → the file it means. In memory; only headers are read, and only when they are needed.

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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lycopatch.engine.catalog_entry import AdapterFile, describe, fingerprint_of
from lycopatch.engine.catalog_index import HashIndex, Names, SpellingIndex, fold, hash_digits, near_misses, with_slashes
from lycopatch.engine.catalog_scan import SeenFile, scan_folders
from lycopatch.engine.errors import AdapterNotFound, UnreadableAdapter
from lycopatch.engine.reading import Hashes, file_hashes, open_tensor_file
from lycopatch.engine.report import Issue
from lycopatch.engine.types import Fingerprint

__all__ = ["AdapterFile", "Catalog"]

_FileState = tuple[Path, Fingerprint]

_ATTEMPTS = 3
"""How often a look-up starts again because a file changed under it."""


class Catalog:
    """All networks in some folders. Safe to use from several threads.

    The first question scans the folders. ``find`` by file name opens one header; a name that is no file name, and
    ``files``, open all headers not read yet (some milliseconds each). A header is read again when size or time of
    the file changed.
    """

    def __init__(self, folders: Sequence[Path], *, allow_pickle: bool = False) -> None:
        unique = {os.path.normcase(os.path.abspath(folder)): Path(os.path.abspath(folder)) for folder in folders}
        self._folders = tuple(unique.values())
        self._allow_pickle = allow_pickle
        self._lock = threading.RLock()
        self._names: Names | None = None
        self._headers: dict[Path, AdapterFile] = {}
        self._hashes: dict[_FileState, Hashes] = {}
        self._unhashed: dict[Path, Issue] = {}
        self._contents: _Contents | None = None
        self._version = 0

    def refresh(self) -> None:
        """Scan the folders again. Headers of unchanged files are kept; damaged files get a new chance."""
        with self._lock:
            names = Names(scan_folders(self._folders, allow_pickle=self._allow_pickle))
            states = {(seen.path, seen.fingerprint) for seen in names.seen.values()}
            self._headers = {
                path: file
                for path, file in self._headers.items()
                if (path, file.fingerprint) in states and not file.error
            }
            self._hashes = {state: hashes for state, hashes in self._hashes.items() if state in states}
            self._unhashed = {}
            self._names = names
            self._version += 1

    @property
    def files(self) -> list[AdapterFile]:
        """Every file, in the order of the folders and then of the names."""
        seen = list(self._scanned().seen.values())
        return [self._headers.get(file.path) or self._read(file, file.fingerprint) for file in seen]

    @property
    def problems(self) -> list[Issue]:
        """Folders and files that can not be read."""
        damaged = [Issue("unreadable_file", file.error, file=file.relative) for file in self.files if file.error]
        return [*self._scanned().listing.problems, *damaged, *self._unhashed.values()]

    def find(self, name: str) -> AdapterFile:
        """The file that a tag means by this name, as it is on disk now. Hashes nothing.

        Raises AdapterNotFound, ``ambiguous`` when several files fit; UnreadableAdapter when only a pickle fits and
        pickles are not allowed. A damaged file is returned, with its ``error``.
        When nothing fits and a folder has changed since the last scan, the folders are scanned again.
        """
        found = self._ask(lambda: self._candidates(name))
        if len(found) == 1:
            return found[0]
        names = self._scanned()
        if found:
            raise AdapterNotFound(name, [names.shortest(file.path) for file in found], ambiguous=True)
        for pickles in names.refused.look_up(name):
            open_tensor_file(pickles[0].path, allow_pickle=False).close()  # raises, and says what to do about it
        raise AdapterNotFound(name, self._near_misses(name))

    def shortest_name(self, file: AdapterFile) -> str:
        """The shortest name that means this file and no other; its path below the folder when none does."""
        return self._scanned().shortest(file.path)

    def find_hash(self, hexdigits: str, *, compute: bool = False) -> AdapterFile | None:
        """The file with this hash: at least 8 leading digits of any kind that sites, infotexts or trainers use.

        Looks at the hashes that files state about themselves and at those computed before. With ``compute`` it then
        hashes one file after the other until one fits, which may read every byte of the folders. Of identical copies
        the first is returned; None also when the digits fit different files.
        """
        digits = hash_digits(hexdigits)
        if digits is None:
            return None
        found = self._ask(lambda: self._by_contents(lambda contents: contents.hashes.look_up(digits)))
        if not found and compute:
            found = self._compute_until(digits)
        return found[0] if len(found) == 1 else None

    def _ask(self, look_up: Callable[[], list[AdapterFile]]) -> list[AdapterFile]:
        """What a look-up finds, after another scan if it finds nothing and a folder has changed."""
        found = look_up()
        if not found and self._scanned().listing.outdated():
            self.refresh()
            found = look_up()
        return found

    def _candidates(self, name: str) -> list[AdapterFile]:
        """All files that the best fitting kind of spelling means."""
        names = self._scanned()
        for spelling in dict.fromkeys([name, name.strip()]):
            found = self._by_name(names.exact.look_up(spelling))
            found = found or self._by_contents(lambda contents, alias=spelling: contents.exact.first(alias))
            digits = hash_digits(spelling)
            if digits and not found:
                found = self._by_contents(lambda contents, digits=digits: contents.hashes.look_up(digits))
            if found:
                return found
        found = self._by_name(names.folded.look_up(name))
        return found or self._by_contents(lambda contents: contents.folded.first(name))

    def _by_name(self, tiers: Iterator[list[SeenFile]]) -> list[AdapterFile]:
        """The files of the first tier of which any is still there."""
        for tier in tiers:
            found = [file for seen in tier if (file := self._current(seen))]
            if found:
                return found
        return []

    def _by_contents(self, look_up: Callable[[_Contents], list[AdapterFile]]) -> list[AdapterFile]:
        """What the headers say, asked again when a header proves to have changed since it was read."""
        found: list[AdapterFile] = []
        for _ in range(_ATTEMPTS):
            known = look_up(self._known_contents())
            seen = self._scanned().seen
            found = [file for old in known if old.path in seen and (file := self._current(seen[old.path]))]
            if found == known:
                break
        return found

    def _current(self, seen: SeenFile) -> AdapterFile | None:
        """A listed file as it is on disk now, or None when it is gone. Damaged files get a new chance."""
        try:
            fingerprint = fingerprint_of(seen.path)
        except (FileNotFoundError, NotADirectoryError):
            self._forget(seen.path)
            return None
        except OSError:
            return self._read(seen, seen.fingerprint)  # whose error says why
        known = self._headers.get(seen.path)
        if known and known.fingerprint == fingerprint and not known.error:
            return known
        return self._read(seen, fingerprint)

    def _read(self, seen: SeenFile, fingerprint: Fingerprint) -> AdapterFile:
        """Read a header. Not under the lock: a slow disk must not keep other threads from finding other files."""
        file = describe(seen, fingerprint)
        with self._lock:
            if self._headers.get(seen.path) != file:
                self._headers[seen.path] = file
                self._version += 1
        return file

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._scanned().seen.pop(path, None)
            self._version += 1

    def _scanned(self) -> Names:
        names = self._names
        if names is None:
            with self._lock:
                if self._names is None:
                    self.refresh()
                names = self._names
                assert names is not None
        return names

    def _known_contents(self) -> _Contents:
        """What all headers say. Reads those not read yet, which makes the result outdated, but never wrongly valid."""
        contents = self._contents
        if contents is None or contents.version != self._version:
            version = self._version
            contents = self._contents = _Contents(version, self.files, self._hashes)
        return contents

    def _compute_until(self, digits: str) -> list[AdapterFile]:
        """Hash files until one has a hash that begins so."""
        for seen in list(self._scanned().seen.values()):
            file = self._current(seen)
            if file is None or (file.path, file.fingerprint) in self._hashes:
                continue
            try:
                hashes = file_hashes(file.path)
            except UnreadableAdapter as error:
                self._unhashed[file.path] = Issue("unreadable_file", str(error), file=file.relative)
                continue
            with self._lock:
                self._hashes[file.path, file.fingerprint] = hashes
                self._version += 1
            if HashIndex([(file, _digits(hashes))]).look_up(digits):
                return [file]
        return []

    def _near_misses(self, name: str) -> list[str]:
        """Names to offer instead. Each of them finds exactly one file."""
        names, contents = self._scanned(), self._known_contents()
        if name in contents.near_misses:
            return contents.near_misses[name]
        is_path = "/" in with_slashes(name)
        offers: dict[str, str] = {}
        for file in self.files:
            offers[file.stem] = names.shortest(file.path)
            if is_path:
                offers[file.relative] = offers[file.stem]
            for alias in file.usable_alias:
                plain = not names.exact.first(alias) and len(contents.exact.first(alias)) == 1
                offers.setdefault(alias, alias if plain else offers[file.stem])
        contents.near_misses[name] = near_misses(name, offers)
        return contents.near_misses[name]


class _Contents:
    """Look-up tables of what all headers say, as of one ``version`` of the catalog."""

    def __init__(self, version: int, files: Sequence[AdapterFile], computed: Mapping[_FileState, Hashes]) -> None:
        self.version = version
        self.near_misses: dict[str, list[str]] = {}
        """Found before: a prompt with a wrong name is often used again, and the search looks at every file."""
        aliases = [(file, [file.usable_alias]) for file in files]
        self.exact = SpellingIndex(aliases, str)
        self.folded = SpellingIndex(aliases, fold)
        self.hashes = HashIndex(
            (file, [*file.stated_hashes, *_digits(computed.get((file.path, file.fingerprint)))]) for file in files
        )


def _digits(hashes: Hashes | None) -> list[str]:
    """The computed hashes that are not the beginning of another."""
    return [hashes.autov3, hashes.sha256, hashes.autov1] if hashes else []
