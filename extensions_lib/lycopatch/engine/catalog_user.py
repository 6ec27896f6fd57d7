"""What only the user knows: favourites, and how often and when networks were used. Kept apart from the catalog.

The catalog can be read again from the networks; this can not: ``catalog_user_file`` takes care of the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from typing import Any, Protocol

_MANY = 200  # rows in one statement


class Connected(Protocol):
    """A store whose connections have the user's database attached as ``user``."""

    def connection(self) -> sqlite3.Connection: ...


class UserShelf:
    """Favourites and uses of networks, by their identities. Thread-safe; other programs may share the file.

    Each change is kept as a whole or not at all. All methods raise sqlite3.Error when the disk fails.
    """

    def __init__(self, store: Connected) -> None:
        self._store = store
        self._lock = threading.Lock()  # in memory, threads that write at once would get errors instead of waiting

    def favourites(self) -> set[str]:
        return {identity for (identity,) in self._ask("SELECT identity FROM user.favourites")}

    def set_favourite(self, identity: str, on: bool) -> None:
        if on:
            self._write("INSERT OR IGNORE INTO user.favourites VALUES (?)", [identity])
        else:
            self._write("DELETE FROM user.favourites WHERE identity = ?", [identity])

    def record_used(self, identities: Iterable[str], when: float) -> None:
        """Count one use of each. ``when``: Unix seconds."""
        each_once = list(dict.fromkeys(identities))
        for start in range(0, len(each_once), _MANY):
            some = each_once[start : start + _MANY]
            self._write(
                f"INSERT INTO user.uses VALUES {', '.join(['(?, 1, ?)'] * len(some))} "
                "ON CONFLICT (identity) DO UPDATE SET count = count + 1, last = max(last, excluded.last)",
                [value for identity in some for value in (identity, when)],
            )

    def used(self, identity: str) -> tuple[int, float | None]:
        """How often, and when last."""
        for count, last in self._ask("SELECT count, last FROM user.uses WHERE identity = ?", identity):
            return count, last
        return 0, None

    def _ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        return self._store.connection().execute(question, values).fetchall()

    def _write(self, statement: str, values: list[object]) -> None:
        with self._lock:
            self._store.connection().execute(statement, values)
