"""Questions to the catalog: which networks, in which order, and what one could still choose.

Every value goes to SQLite as a parameter; texts of the user are never part of a statement, and never a pattern of his.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lycopatch.engine.catalog_columns import Columns
from lycopatch.engine.catalog_question import ORDERS, Choice, Filters, Query, Question
from lycopatch.engine.catalog_shown import Row, by_identity, by_path, with_ids

__all__ = ["ORDERS", "Choice", "Filters", "Found", "Memory", "Query", "Row", "by_identity", "by_path", "query"]


@dataclass(frozen=True, slots=True)
class Found:
    """A window of the networks that were ``found`` among ``total``."""

    rows: list[Row]
    found: int
    total: int
    facets: dict[str, list[Any]] | None
    """Filter → ``[value, count]`` …, the most frequent first; ``rank`` and ``size`` → ``[least, most]``, or nothing."""


class Memory:
    """Keeps what was read for one question for those that follow. Belongs to one store; may be shared by threads."""

    def __init__(self) -> None:
        self._kept: tuple[object, Columns] | None = None

    def columns(self, connection: sqlite3.Connection) -> Columns:
        """What the tables hold now; read again only after they have changed, here or in another program."""
        version = _version(connection)
        kept = self._kept
        if kept is None or kept[0] != version:
            kept = self._kept = version, Columns(connection)
        return kept[1]


def query(
    connection: sqlite3.Connection,
    wanted: Query,
    loaded_family: str | None,
    *,
    facets: bool = False,
    memory: Memory | None = None,
) -> Found:
    """The networks of the store's folders that were asked for.

    ``facets``: also count what each filter could still choose, with all the other filters as they are. ``memory``: the
    same one for each question makes answers fast. Raises KeyError for an unknown order, sqlite3.Error.
    """
    columns = (memory or Memory()).columns(connection)
    asked = Question(connection, columns, wanted, loaded_family)
    found = asked.found()
    window = islice(columns.in_order(found, asked.order()), wanted.offset, wanted.offset + wanted.limit)
    return Found(
        rows=with_ids(connection, [columns.values["id"][place] for place in window], loaded_family),
        found=found.bit_count(),
        total=columns.count,
        facets=asked.counts() if facets else None,
    )


def _version(connection: sqlite3.Connection) -> object:
    """Differs after every change of what ``Columns`` reads."""
    shown = connection.execute("PRAGMA temp.user_version").fetchone()
    return shown, connection.execute("SELECT value FROM meta WHERE key = 'changed'").fetchone()
