"""Which spelling means which file: pure look-up tables, no disk."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
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


class SpellingIndex(Generic[T]):
    """Spellings → items, in tiers: a spelling of an earlier tier wins. Several items may share a spelling."""

    def __init__(self, spelled: Iterable[tuple[T, Sequence[Sequence[str]]]], key: Callable[[str], str]) -> None:
        """``spelled``: each item with its spellings, tier by tier. Spellings of equal ``key`` are the same."""
        self._key = key
        self._tiers: list[dict[str, list[T]]] = []
        for item, tiers in spelled:
            for depth, spellings in enumerate(tiers):
                if depth == len(self._tiers):
                    self._tiers.append({})
                for spelling in dict.fromkeys(map(key, spellings)):
                    self._tiers[depth].setdefault(spelling, []).append(item)

    def look_up(self, name: str) -> Iterator[list[T]]:
        """The items spelled so, tier by tier; never an empty list."""
        key = self._key(name)
        return (tier[key] for tier in self._tiers if key in tier)

    def first(self, name: str) -> list[T]:
        """The items of the first tier that has this spelling, or none."""
        for items in self.look_up(name):
            return items
        return []


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
        self.seen = {seen.path: seen for seen in listing.files}
        self.exact = SpellingIndex(_spell(listing.files), with_slashes)

    @cached_property
    def folded(self) -> SpellingIndex[SeenFile]:
        """The listed files by tolerant spellings."""
        return SpellingIndex(_spell(self.listing.files), fold)

    @cached_property
    def refused(self) -> SpellingIndex[SeenFile]:
        """The pickles that are not listed, by tolerant spellings."""
        return SpellingIndex(_spell(self.listing.pickles), fold)

    def shortest(self, path: Path) -> str:
        """The shortest spelling that finds this file and no other; offering any other would be a trap."""
        seen = self.seen.get(path)
        if seen is None:  # gone since
            return path.stem
        spellings = (seen.stem, *(spelling for tier in _tiers(seen, bare=True) for spelling in tier))
        return next((name for name in spellings if self.exact.first(name) == [seen]), seen.relative)


def _spell(files: Sequence[SeenFile]) -> list[tuple[SeenFile, list[list[str]]]]:
    """Each file with its spellings. A pickle beside a safetensors file of its name needs its extension."""
    safe = {(seen.label, seen.relative) for seen in files if not seen.is_pickle}
    return [(seen, _tiers(seen, bare=not seen.is_pickle or (seen.label, seen.relative) not in safe)) for seen in files]


def _tiers(seen: SeenFile, *, bare: bool) -> list[list[str]]:
    """What a file may be called, from the most to the least exact; ``bare``: also without its extension."""
    tiers: list[list[str]] = []
    for name in (seen.relative, f"{seen.label}/{seen.relative}", seen.stem):
        tiers.append([name, name + seen.path.suffix] if bare else [name + seen.path.suffix])
    return tiers


def with_slashes(name: str) -> str:
    """The key of exact spellings: paths may be written with either slash."""
    return name.replace("\\", "/")


def fold(name: str) -> str:
    """The key of tolerant spellings: no case, no blanks around, no invisible characters, one Unicode form."""
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
