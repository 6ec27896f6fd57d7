"""How many networks of a set have which tag. Most tags are rare, and there are many of them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from itertools import chain

_FREQUENT = 1000  # tags that are counted as sets

Counts = list[tuple[str, int]]


class Tags:
    """The tags of all networks, which have places as in ``catalog_columns``; the most frequent tag comes first."""

    def __init__(
        self, connection: sqlite3.Connection, places: Mapping[int, int], set_of: Callable[[Iterable[int]], int]
    ) -> None:
        """``places``: id → place; ``set_of``: places → their set."""
        place_of = {str(id_): place for id_, place in places.items()}
        having: list[tuple[str, list[int]]] = []
        for tag, ids in connection.execute("SELECT tag, group_concat(file_id) FROM file_tags GROUP BY tag").fetchall():
            having.append((tag, [place_of[id_] for id_ in ids.split(",") if id_ in place_of]))
        having.sort(key=lambda each: -len(each[1]))
        self._names = [tag for tag, _ in having]
        self._sets = [set_of(those) for _, those in having[:_FREQUENT]]
        self._most_of_others = max((len(those) for _, those in having[_FREQUENT:]), default=0)
        self._of_place: list[list[int]] = [[] for _ in places]
        for number, (_, those) in enumerate(having):
            for place in those:
                self._of_place[place].append(number)

    def most_frequent(self, wanted: int, places: Iterable[int], most: int) -> Counts:
        """The most frequent tags in the set ``wanted``, which are those ``places``; then in the alphabet's order."""
        found = self._sorted(enumerate((those & wanted).bit_count() for those in self._sets), most)
        if self._most_of_others and (len(found) < most or found[-1][1] <= self._most_of_others):
            # Another tag may be as frequent. Then the set is mostly small, and the tags of each network soon counted.
            counts = Counter(chain.from_iterable(map(self._of_place.__getitem__, places)))
            found = self._sorted(counts.items(), most)
        return found

    def _sorted(self, counts: Iterable[tuple[int, int]], most: int) -> Counts:
        found = nsmallest(most, ((-count, self._names[tag]) for tag, count in counts if count))
        return [(tag, -count) for count, tag in found]
