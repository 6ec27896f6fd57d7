"""What searches, filters, orders and counts look at, in memory: people type faster than tables can be gone through.

Networks have places: the first by name has place 0. A set of networks is a number with a bit for each, so that filters
are combined by ``&`` and counted by ``bit_count``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_tags import Counts, Tags

Value = TypeVar("Value", bound=Hashable)

FACETS = ("kind", "family", "variant", "folder", "problem")
"""Columns with few different values. Where there is none, it is the empty text."""

_COLUMNS = (
    *("id", "identity", "stem", "relative", *FACETS, "families", "rank", "size", "mtime_ns", "added"),
    *("family_title", "label"),
)
_READ = f"SELECT {', '.join(_COLUMNS)} FROM temp.seen JOIN files ON id = file_id"
_TRIGRAM = 3
_MOST_WORDS = 300  # whose sets are kept: of ten thousand networks, each takes a kilobyte
_NUMBER = re.compile("[0-9]+")


class Columns:
    """The tables as they were at one moment. Safe to use from several threads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(_READ).fetchall()
        stem, relative = _COLUMNS.index("stem"), _COLUMNS.index("relative")
        rows.sort(key=lambda row: (natural(row[stem]), row[relative], row[0]))
        columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
        self.count = len(rows)
        self.everything = (1 << self.count) - 1
        self.values: Mapping[str, Sequence[Any]] = dict(zip(_COLUMNS, columns, strict=True))
        """Column → its value at each place."""
        self.sets = {name: self._by_value(value or "" for value in self.values[name]) for name in FACETS}
        """Facet → value → the networks that have it."""
        self.fitting = self._by_value(zip(*map(self.values.get, ("problem", "family", "families")), strict=True))
        """What decides which models a network fits → the networks of which this is so."""
        self._places = {id_: place for place, id_ in enumerate(self.values["id"])}
        self._orders: dict[tuple[str, bool], Sequence[int]] = {}
        self._words: dict[str, int] = {}
        self._tags: Tags | None = None

    # --- sets -------------------------------------------------------------------------------------------------------

    def set_of(self, places: Iterable[int]) -> int:
        """The networks at these places. The first place is the highest bit, as texts of digits are read."""
        digits = bytearray(b"0") * (self.count + 1)
        for place in places:
            digits[place + 1] = 0x31
        return int(digits, 2)

    def where(self, name: str, holds: Callable[[Any], bool]) -> int:
        """The networks whose value in a column is known and of which something holds."""
        values = self.values[name]
        return self.set_of(place for place, value in enumerate(values) if value is not None and holds(value))

    def with_word(self, connection: sqlite3.Connection, word: str) -> int:
        """The networks in whose texts a folded word occurs. Kept, as people go on typing behind it."""
        found = self._words.get(word)
        if found is None:
            if any(special in word for special in "%_\0"):  # which are no characters for LIKE, twice as fast otherwise
                found = self._asked(connection, "SELECT rowid FROM search WHERE instr(text, ?)", word)
            else:
                # "+" means: not by the index of trigrams. Its list of most texts takes longer than looking at each, and
                # of words that are too short for it some releases of SQLite crash.
                in_most = self._words.get(word[:-1], 0).bit_count() * 4 > self.count
                text = "+text" if in_most or len(word) < _TRIGRAM else "text"
                found = self._asked(connection, f"SELECT rowid FROM search WHERE {text} LIKE ?", f"%{word}%")
            if len(self._words) >= _MOST_WORDS:
                self._words.clear()
            self._words[word] = found
        return found

    def with_tag(self, connection: sqlite3.Connection, tag: str) -> int:
        """The networks that have a folded tag."""
        return self._asked(connection, "SELECT file_id FROM file_tags WHERE tag = ?", tag)

    def _asked(self, connection: sqlite3.Connection, question: str, text: str) -> int:
        """The networks whose ids the database answers, of those that are in the folders."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half a character, which nothing in the database has
            return 0
        places = self._places
        return self.set_of(places[id_] for (id_,) in connection.execute(question, (text,)).fetchall() if id_ in places)

    def _by_value(self, values: Iterable[Value]) -> dict[Value, int]:
        places: dict[Value, list[int]] = {}
        for place, value in enumerate(values):
            places.setdefault(value, []).append(place)
        return {value: self.set_of(where) for value, where in places.items()}

    # --- orders -----------------------------------------------------------------------------------------------------

    def order(self, name: str, *, largest_first: bool) -> Sequence[int]:
        """All places, sorted by a column: numbers in texts by their values, what is not known last, then by name."""
        found = self._orders.get((name, largest_first))
        if found is None:
            values = self.values[name]
            if name in ("family_title", "label"):
                natural_of = {value: value and natural(value) for value in set(values)}
                values = [natural_of[value] for value in values]
            elif name == "stem":
                values = range(self.count)
            found = self._orders[name, largest_first] = self.sorted_by(values, largest_first=largest_first)
        return found

    def sorted_by(self, values: Sequence[Any], *, largest_first: bool) -> list[int]:
        """All places, sorted by a value for each."""
        known = [place for place, value in enumerate(values) if value is not None]
        known.sort(key=values.__getitem__, reverse=largest_first)
        return known + [place for place, value in enumerate(values) if value is None]

    def in_order(self, wanted: int, order: Iterable[int]) -> Iterator[int]:
        """The places of a set."""
        digits = f"{wanted:0{self.count}b}"
        return (place for place in order if digits[place] == "1")

    def ends(self, name: str, wanted: int) -> list[int]:
        """The least and the largest number that networks of a set have in a column; nothing where none has one."""
        order, values = self.order(name, largest_first=False), self.values[name]
        sides = (self.in_order(wanted, order), self.in_order(wanted, reversed(order)))
        found = (next((values[place] for place in side if values[place] is not None), None) for side in sides)
        return [value for value in found if value is not None]

    # --- tags -------------------------------------------------------------------------------------------------------

    def most_frequent_tags(self, connection: sqlite3.Connection, wanted: int, most: int) -> Counts:
        """The tags that most of the networks of a set have, and how many have them."""
        if self._tags is None:
            self._tags = Tags(connection, self._places, self.set_of)
        return self._tags.most_frequent(wanted, self.in_order(wanted, range(self.count)), most)


def natural(text: str) -> str:
    """A text to sort by: without regard to case, and 9 before 10."""
    return _NUMBER.sub(_by_size, fold(text))


def _by_size(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"{chr(0x30 + min(len(digits), 40))}{digits}"
