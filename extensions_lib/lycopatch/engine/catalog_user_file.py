"""The file of ``catalog_user``: nobody can make its contents again, so they are rescued from damaged files.

A damaged file is kept beside the new one. Where no file can be used, what it says is known until the program ends.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

from lycopatch.engine.report import Issue
from lycopatch.engine.wording import printable

_COLUMNS = {"favourites": ("identity",), "uses": ("identity", "count", "last")}
_TABLES = (
    "favourites (identity TEXT PRIMARY KEY)",
    "uses (identity TEXT PRIMARY KEY, count INTEGER NOT NULL, last REAL NOT NULL)",
)
_BUSY_SECONDS = 5.0
_ENDINGS = ("-wal", "-shm", "-journal")
_PARTS = ["", *(f"{number:02x}" for number in range(256)), "\U0010ffff"]
"""Where the identities, which are hexadecimal digits, are divided: damage in one part leaves the others readable."""

_log = logging.getLogger(__name__)


def create_tables(connection: sqlite3.Connection, schema: str) -> None:
    """Make the tables that are not there yet. ``schema``: the database's name within the connection."""
    for table in _TABLES:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.{table} WITHOUT ROWID")


def open_user_file(path: Path, memory: sqlite3.Connection) -> tuple[Path | None, Issue | None]:
    """The path if the file can be used, repaired if need be; and what the user should know about it. Never raises.

    When it can not be used, what can be read of it goes into the database ``memory``.
    """
    try:
        str(path).encode()  # SQL takes no other paths
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _prove(path)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):  # by another program, which finds it good
                return path, None
            if type(error) is not sqlite3.DatabaseError:  # not the file's fault
                raise
            return path, _issue("damaged_user_file", _replace(path), path)
        return path, None
    except (OSError, sqlite3.Error, ValueError) as error:
        with suppress(sqlite3.Error, ValueError):
            _fill(memory, path)
        message = (
            f"Favourites are kept only until the program ends, because {path} can not be used ({error}). "
            "Look whether the disk is full and whether the file and its folder may be written."
        )
        return None, _issue("unusable_user_file", message, path)


def _prove(path: Path) -> None:
    """Raises sqlite3.DatabaseError for a damaged file or one of another kind; subclasses when it can not be written."""
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        create_tables(connection, "main")
        for table, columns in _COLUMNS.items():
            there = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
            if not there.issuperset(columns):
                raise sqlite3.DatabaseError(f"its table {table} is of another kind")
        connection.execute("PRAGMA user_version = 1")  # fails where nothing can be written


def _replace(path: Path) -> str:
    """Put a new file with what can be read of a damaged one into its place, and say so. Raises OSError, sqlite3.Error.

    The old one is moved only when the new one is complete.
    """
    fresh = path.with_name(f"{path.name}.new{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            create_tables(connection, "main")
            rescued = _fill(connection, path)
        aside = _free_name(path)
        os.replace(path, aside)
        for ending in _ENDINGS:
            with suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return (
        f"{path}, the file of your favourites, was damaged and is kept as {aside.name}. {rescued} entries were saved."
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    return aside


def _fill(connection: sqlite3.Connection, path: Path) -> int:
    """Take over what can be read of a file, and count it."""
    before = connection.total_changes
    connection.execute("BEGIN")
    for table, row in _readable(path):
        marks = ", ".join("?" * len(row))
        with suppress(sqlite3.Error):  # what damage made of it does not fit into the table
            connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
    connection.execute("COMMIT")
    return connection.total_changes - before


def _readable(path: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """The tables' rows that can still be read."""
    if not path.is_file():
        return
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = _text
        for table, columns in _COLUMNS.items():
            question = f"SELECT {', '.join(columns)} FROM {table} WHERE identity >= ? AND identity < ?"
            for part in pairwise(_PARTS):
                with suppress(sqlite3.Error):
                    for row in connection.execute(question, part):
                        yield table, row


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _issue(kind: str, message: str, path: Path) -> Issue:
    _log.warning("%s", printable(message))
    return Issue(kind, message, file=str(path))
