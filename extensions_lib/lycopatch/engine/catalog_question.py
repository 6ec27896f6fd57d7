"""What can be asked about the networks of a catalog, and which of them an answer consists of."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from lycopatch.engine.catalog_columns import Columns
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_shown import fit

MOST_TAGS = 200
"""Of which the counts are given; the others can be searched for."""

_SORTED_BY: Mapping[str, tuple[str, bool]] = {
    "name": ("stem", False),
    "newest": ("mtime_ns", True),
    "added": ("added", True),
    "size": ("size", True),
    "rank": ("rank", True),
    "family": ("family_title", False),
    "algorithm": ("label", False),
    "used": ("used", True),
    "last_used": ("last_used", True),
    "random": ("random", False),
}
"""Order → what is sorted by, and whether the largest comes first. What is not known is last in either direction."""

ORDERS = tuple(_SORTED_BY)


@dataclass(frozen=True, slots=True)
class Choice:
    """Values of a filter that are wanted (none: all), and those that are not."""

    include: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Filters:
    """All of them have to hold. A folder stands for all that is below it; of tags, every included one must be there."""

    kind: Choice = Choice()
    family: Choice = Choice()
    variant: Choice = Choice()
    folder: Choice = Choice()
    tag: Choice = Choice()
    fit: Choice = Choice()
    problem: Choice = Choice()
    rank_min: int | None = None
    rank_max: int | None = None
    size_min: int | None = None
    size_max: int | None = None
    favourite: bool | None = None
    used: bool | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """``words``: each has to occur, one with "-" before it must not. ``order``: one of ``ORDERS``.

    ``descending``: the other way round than the order usually goes; ``seed``: of the random order.
    """

    words: str = ""
    filters: Filters = Filters()
    order: str = "name"
    descending: bool = False
    seed: int = 0
    offset: int = 0
    limit: int = 100


class Question:
    """What is asked, as the set of networks that each part of it leaves."""

    def __init__(
        self, connection: sqlite3.Connection, columns: Columns, wanted: Query, loaded_family: str | None
    ) -> None:
        self.columns = columns
        self._connection = connection
        self._wanted = wanted
        self._sets = {**columns.sets, "fit": self._fits(loaded_family)}
        self._parts = {"words": self._words(), "tag": self._tags()}
        filters = wanted.filters
        for name in self._sets:
            self._parts[name] = self._chosen(name, getattr(filters, name))
        for name in ("rank", "size"):
            self._parts[name] = self._within(name, getattr(filters, f"{name}_min"), getattr(filters, f"{name}_max"))
        self._parts["favourite"] = self._either(filters.favourite, "SELECT identity FROM user.favourites")
        self._parts["used"] = self._either(filters.used, "SELECT identity FROM user.uses")

    def found(self, *, without: str = "") -> int:
        """The networks that are wanted, whatever one filter says."""
        return reduce(int.__and__, (part for name, part in self._parts.items() if name != without))

    def order(self) -> Sequence[int]:
        """All networks in the order that is wanted."""
        by, largest_first = _SORTED_BY[self._wanted.order]
        largest_first = largest_first != self._wanted.descending
        if by in self.columns.values:
            return self.columns.order(by, largest_first=largest_first)
        if by == "random":
            values = [hash((self._wanted.seed, id_)) for id_ in self.columns.values["id"]]
        else:
            column, otherwise = ("count", 0) if by == "used" else ("last", None)
            known = dict(self._connection.execute(f"SELECT identity, {column} FROM user.uses").fetchall())
            values = [known.get(identity, otherwise) for identity in self.columns.values["identity"]]
        return self.columns.sorted_by(values, largest_first=largest_first)

    def counts(self) -> dict[str, list[Any]]:
        """What each filter could still choose, the most frequent first; the least and the largest number."""
        counts: dict[str, list[Any]] = {}
        for name, sets in self._sets.items():
            others = self.found(without=name)
            found = ((value, (those & others).bit_count()) for value, those in sets.items() if value)
            counts[name] = [[value, count] for value, count in sorted(found, key=_frequent_first) if count]
        for name in ("rank", "size"):
            counts[name] = self.columns.ends(name, self.found(without=name))
        # All included tags have to be there, so that only what is found can have one more.
        tags = self.columns.most_frequent_tags(self._connection, self.found(), MOST_TAGS)
        counts["tag"] = [[tag, count] for tag, count in tags]
        return counts

    def _words(self) -> int:
        left = self.columns.everything
        for word in dict.fromkeys(fold(self._wanted.words).split()):
            if not left:
                break
            if len(word) > 1 and word.startswith("-"):
                left &= ~self.columns.with_word(self._connection, word[1:])
            else:
                left &= self.columns.with_word(self._connection, word)
        return left

    def _tags(self) -> int:
        left = self.columns.everything
        wanted = self._wanted.filters.tag
        for tag in wanted.include:
            left &= self.columns.with_tag(self._connection, fold(tag))
        for tag in wanted.exclude:
            left &= ~self.columns.with_tag(self._connection, fold(tag))
        return left

    def _chosen(self, name: str, wanted: Choice) -> int:
        """What a choice of values leaves."""
        left = self._with_values(name, wanted.include) if wanted.include else self.columns.everything
        return left & ~self._with_values(name, wanted.exclude)

    def _with_values(self, name: str, values: frozenset[str]) -> int:
        if name == "folder":
            below = tuple(f"{folder}/" for folder in values)
            values = frozenset(folder for folder in self._sets[name] if f"{folder}/".startswith(below))
        return reduce(int.__or__, (self._sets[name].get(value, 0) for value in values), 0)

    def _fits(self, loaded_family: str | None) -> dict[str, int]:
        sets: dict[str, int] = {}
        for (problem, family, families), those in self.columns.fitting.items():
            fits = fit(problem, family, families, loaded_family)
            sets[fits] = sets.get(fits, 0) | those
        return sets

    def _within(self, name: str, least: int | None, most: int | None) -> int:
        """What a range of numbers leaves; where the number is not known, only no range at all does."""
        if least is None and most is None:
            return self.columns.everything
        return self.columns.where(
            name, lambda value: (least is None or value >= least) and (most is None or value <= most)
        )

    def _either(self, wanted: bool | None, question: str) -> int:
        """The networks whose identities a question names, or all others."""
        if wanted is None:
            return self.columns.everything
        named = {identity for (identity,) in self._connection.execute(question).fetchall()}
        those = self.columns.where("identity", named.__contains__)
        return those if wanted else those ^ self.columns.everything


def _frequent_first(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]
