"""Which spelling means which file: pure look-up tables, no disk."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Generic, TypeVar

from lycopatch.engine.catalog_scan import Listing, SeenFile

T = TypeVar("T")

_INVISIBLE = dict.fromkeys([0x200B, 0x2060, 0xFEFF])
"""Characters without width that come along when a name is pasted from a web page."""

_HASH = re.compile(r"(?:0x)?([0-9a-f]{8,64})", re.IGNORECASE)
_SHORTEST_HASH = 8
_HASH_OF_NOTHING = "e3b0c442"
"""The legacy hash of every file below 1 MiB: it names none of them."""

_LONGEST_GUESS = 200
_SEPARATORS = re.compile(r"[\s_.\-]+")


class Spellings:
    """Files by what a tag may call them, up to a ``key``: spellings of equal key are the same.

    In tiers, of which an earlier one wins: the path below the folder, the same behind the folder's own name, the file
    name alone; each with and without extension. A pickle beside a safetensors file of its name needs its extension.
    """

    def __init__(self, files: Sequence[SeenFile], key: Callable[[str], str]) -> None:
        self._key = key
        self._by_relative: dict[str, list[SeenFile]] = {}
        self._by_stem: dict[str, list[SeenFile]] = {}
        for seen in files:
            relative = key(seen.relative)
            stem = key(seen.stem) if "/" in relative else relative
            self._by_relative.setdefault(relative, []).append(seen)
            self._by_stem.setdefault(stem, []).append(seen)
        self._labels = {label: key(f"{label}/") for label in dict.fromkeys(seen.label for seen in files)}
        has_pickles = any(seen.is_pickle for seen in files)
        safe = (seen for seen in files if has_pickles and not seen.is_pickle)
        self._safe = {(seen.label, seen.relative) for seen in safe}

    def look_up(self, name: str) -> Iterator[list[SeenFile]]:
        """The files spelled so, tier by tier; never an empty list."""
        wanted = self._key(name)
        behind_label = (
            seen
            for label, start in self._labels.items()
            if wanted.startswith(start)
            for seen in self._called(self._by_relative, wanted[len(start) :])
            if seen.label == label
        )
        tiers = (self._called(self._by_relative, wanted), list(behind_label), self._called(self._by_stem, wanted))
        return filter(None, tiers)

    def first(self, name: str) -> list[SeenFile]:
        """The files of the first tier that has this spelling, or none."""
        for files in self.look_up(name):
            return files
        return []

    def _called(self, table: Mapping[str, list[SeenFile]], name: str) -> list[SeenFile]:
        bare, extension = os.path.splitext(name)
        found = [seen for seen in table.get(self._key(name), ()) if self._needs_no_extension(seen)]
        return found + [seen for seen in table.get(self._key(bare), ()) if self._key(seen.suffix) == extension]

    def _needs_no_extension(self, seen: SeenFile) -> bool:
        return not seen.is_pickle or (seen.label, seen.relative) not in self._safe


class HashIndex(Generic[T]):
    """The first digits of a hash → the items that have it."""

    def __init__(self, hashes: Iterable[tuple[T, Iterable[str]]]) -> None:
        """``hashes``: each item with its hashes; texts that are none are left out."""
        self._items: dict[str, list[tuple[str, T]]] = {}
        for item, texts in hashes:
            for digits in dict.fromkeys(map(hash_digits, texts)):
                if digits and digits != _HASH_OF_NOTHING:
                    self._items.setdefault(digits[:_SHORTEST_HASH], []).append((digits, item))

    def look_up(self, digits: str) -> list[T]:
        """The items one of whose hashes begins so. Of several with the same hash, copies, only the first."""
        hits = [hit for hit in self._items.get(digits[:_SHORTEST_HASH], ()) if hit[0].startswith(digits)]
        return [item for _, item in (hits[:1] if len({digits for digits, _ in hits}) == 1 else hits)]


class Names:
    """The look-up tables of one scan: what can be known without opening a file."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.seen = {seen.place: seen for seen in listing.files}

    @cached_property
    def exact(self) -> Spellings:
        """The listed files by their spellings."""
        return Spellings(self.listing.files, with_slashes)

    @cached_property
    def folded(self) -> Spellings:
        """The listed files by tolerant spellings."""
        return Spellings(self.listing.files, fold)

    @cached_property
    def refused(self) -> Spellings:
        """The pickles that are not listed, by tolerant spellings."""
        return Spellings(self.listing.pickles, fold)

    def shortest(self, place: str) -> str:
        """The shortest spelling that finds this file and no other; offering any other would be a trap."""
        seen = self.seen.get(place)
        if seen is None:  # gone since
            return os.path.splitext(os.path.basename(place))[0]
        relative, labelled = seen.relative, f"{seen.label}/{seen.relative}"
        spellings = [
            seen.stem,
            relative,
            relative + seen.suffix,
            labelled,
            labelled + seen.suffix,
            seen.stem + seen.suffix,
        ]
        return next((name for name in spellings if self.exact.first(name) == [seen]), relative)


def with_slashes(name: str) -> str:
    """The key of exact spellings: paths may be written with either slash."""
    return name.replace("\\", "/")


def fold(name: str) -> str:
    """The key of tolerant spellings: no case, no blanks around, no invisible characters, one Unicode form."""
    if name.isascii():  # nearly all names, and ten times as fast
        return with_slashes(name.lower()).strip()
    return with_slashes(unicodedata.normalize("NFC", name.translate(_INVISIBLE).casefold())).strip()


def hash_digits(text: str) -> str | None:
    """At least 8 hexadecimal digits in lower case without ``0x``, or None when the text is no hash."""
    match = _HASH.fullmatch(text.strip())
    return match[1].lower() if match else None


def near_misses(name: str, spelled: Mapping[str, T], limit: int = 5) -> list[T]:
    """The items whose spellings look like the name, the best first: equal words, then parts, then similar letters."""
    wanted = _loose(name)
    if not wanted or len(wanted) > _LONGEST_GUESS:
        return []
    loose: dict[str, list[T]] = {}
    for spelling, item in spelled.items():
        loose.setdefault(_loose(spelling), []).append(item)
    keys = [wanted] if wanted in loose else []
    if len(wanted) > 2:
        keys += sorted((key for key in loose if wanted in key or (len(key) > 2 and key in wanted)), key=len)[:limit]
    if len(keys) < limit:
        keys += difflib.get_close_matches(wanted, loose, n=limit)
    found: list[T] = []
    for key in keys:
        found.extend(item for item in loose[key] if item not in found)
    return found[:limit]


def _loose(name: str) -> str:
    return _SEPARATORS.sub(" ", fold(name)).strip()
