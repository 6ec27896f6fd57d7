"""The catalog's database: one SQLite file that several programs may share, and that is never worth an error.

It is a cache. A damaged file is moved aside and made again, one of an older version is made again in place, one of a
newer version is left alone and another is used beside it; where nothing can be written, the catalog lives in memory.

Every thread has a connection of its own, in autocommit mode. Whoever changes something does it in ``writing()``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lycopatch.engine import catalog_schema
from lycopatch.engine.catalog_schema import MARK, SCHEMA
from lycopatch.engine.catalog_user_file import create_tables, open_user_file
from lycopatch.engine.report import Issue
from lycopatch.engine.wording import printable

_BUSY_SECONDS = 5.0
_NETWORK_DISKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.rclone"})
_MOUNTS = Path("/proc/mounts")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Opened:
    """A connection, whose it is (None: everybody's), and which state of the store it shows."""

    connection: sqlite3.Connection
    thread: weakref.ref[threading.Thread] | None
    generation: int
    seen_version: int = 0


class CatalogStore:
    """The database of a catalog. Safe to use from several threads and by several processes."""

    def __init__(self, path: Path | None, user: Path | None = None) -> None:
        """``path``: of the database, None for one in memory; ``user``: of a second one, attached as ``user``.

        Never raises: what can not be used is replaced by a database in memory.
        """
        self._wanted = path and Path(os.path.abspath(path))
        self._lock = threading.RLock()
        self._local = threading.local()
        self._opened: list[_Opened] = []
        self._shared: _Opened | None = None  # the only connection of a database in memory
        self._closed = False
        self._seen: tuple[int, ...] = ()
        self._seen_version = 0
        self.generation = 0
        """Grows when the database was replaced by an empty one."""
        self.path: Path | None = None
        """Where the database really is; None in memory."""
        # At the very end of the program threads may still be asking: then nothing is closed.
        weakref.finalize(self, _close_all, self._opened).atexit = False
        # Lives as long as a connection to it, and all threads see the same.
        self._user_in_memory = f"file:lycopatch-user-{id(self)}?mode=memory&cache=shared"
        memory = sqlite3.connect(self._user_in_memory, isolation_level=None, check_same_thread=False, uri=True)
        self._opened.append(_Opened(memory, None, 0))
        create_tables(memory, "main")
        self._user: Path | None = None
        self.issue: Issue | None = None
        """What the user should know about the second database."""
        if user is not None:
            self._user, self.issue = open_user_file(Path(os.path.abspath(user)), memory)
        self._open()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection. Its temporary table ``seen`` is that of the last ``show``.

        Raises sqlite3.ProgrammingError when the store is closed, sqlite3.Error when the disk fails.
        """
        if self._closed:
            raise sqlite3.ProgrammingError("the catalog's database is closed")
        if self._shared is not None:
            with self._lock:
                self._refresh_seen(self._shared)
            return self._shared.connection
        opened: _Opened | None = getattr(self._local, "opened", None)
        if opened is None or opened.generation != self.generation:
            opened = self._local.opened = self._open_for_thread()
        self._refresh_seen(opened)
        return opened.connection

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: kept when the block ends well, else undone. Others wait for it. Raises sqlite3.Error."""
        with self._lock:
            connection = self.connection()
            if connection.in_transaction:  # within another one, which decides
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                before = connection.total_changes
                yield connection
                if connection.total_changes != before:  # for all programs that keep what they have read
                    connection.execute("INSERT OR REPLACE INTO meta VALUES ('changed', hex(randomblob(8)))")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def show(self, ids: Iterable[int]) -> None:
        """Say which files are in the catalog's folders: what ``seen`` holds from now on, in every thread."""
        with self._lock:
            self._seen = tuple(ids)
            self._seen_version += 1

    def recover(self, error: sqlite3.Error) -> bool:
        """Begin again with an empty database after an error; False when that would not help."""
        passing = isinstance(error, sqlite3.ProgrammingError) or "locked" in str(error)
        opened: _Opened | None = getattr(self._local, "opened", None)
        with self._lock:
            if passing or self._closed or self._shared is not None:
                return False
            if opened is not None and opened.generation != self.generation:
                return True  # another thread has met the same error
            _log.warning("The catalog's database %s failed (%s); it is made again.", _text(self.path), error)
            if _is_damage(error) and self.path is not None and _move_aside(self.path):
                self._open()
            else:
                self._open_in_memory()
            self.generation += 1
            return True

    def close(self) -> None:
        """Let nobody begin anything. What other threads are at ends by itself, and their connections with the store."""
        with self._lock:
            self._closed = True
            self._close_unused()
            opened: _Opened | None = getattr(self._local, "opened", None)
            if opened is not None and opened in self._opened:
                self._opened.remove(opened)
                opened.connection.close()

    def _open(self) -> None:
        """Find or make a database with our tables."""
        for path in _candidates(self._wanted):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    ours = _prepare(path)
                except sqlite3.DatabaseError as error:
                    if not (_is_damage(error) and _move_aside(path)):
                        raise
                    ours = _prepare(path)
            except (sqlite3.Error, OSError, ValueError) as error:
                _log.warning("The catalog is kept in memory: %s can not be used (%s).", _text(path), error)
                break
            if ours:
                self.path = path
                return
        self._open_in_memory()

    def _open_in_memory(self) -> None:
        # SQLite itself makes threads take turns, as long as no two of them share a prepared statement.
        connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, uri=True, cached_statements=0
        )
        self._opened.append(_Opened(connection, None, 0))
        self._set_up(connection)
        catalog_schema.create(connection)
        self._shared = self._opened[-1]
        self.path = None

    def _open_for_thread(self) -> _Opened:
        assert self.path is not None
        with self._lock:
            self._close_unused()
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
            )
            opened = _Opened(connection, weakref.ref(threading.current_thread()), self.generation)
            self._opened.append(opened)
            if _version(connection) != SCHEMA:  # somebody deleted the file, or took its place
                raise sqlite3.DatabaseError("the database is not the one that was opened")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._set_up(connection)
        return opened

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -4000")
        connection.execute("PRAGMA read_uncommitted = 1")  # concerns only ``user`` in memory, which threads share
        connection.execute("CREATE TEMP TABLE seen (file_id INTEGER PRIMARY KEY)")
        try:
            connection.execute("ATTACH DATABASE ? AS user", (str(self._user or self._user_in_memory),))
            create_tables(connection, "user")
        except sqlite3.Error as error:
            _log.warning("Favourites are kept in memory: %s can not be used (%s).", _text(self._user), error)
            with contextlib.suppress(sqlite3.Error):
                connection.execute("DETACH DATABASE user")
            connection.execute("ATTACH DATABASE ? AS user", (self._user_in_memory,))

    def _refresh_seen(self, opened: _Opened) -> None:
        """Let a connection's temporary table follow the last ``show``."""
        version = self._seen_version
        if opened.seen_version == version:
            return
        opened.connection.execute("SAVEPOINT seen")
        opened.connection.execute("DELETE FROM temp.seen")
        rows = ((each,) for each in self._seen)
        opened.connection.executemany("INSERT OR IGNORE INTO temp.seen VALUES (?)", rows)
        opened.connection.execute("RELEASE seen")
        opened.connection.execute(f"PRAGMA temp.user_version = {version}")
        opened.seen_version = version

    def _close_unused(self) -> None:
        """Close the connections of threads that have ended."""
        for opened in list(self._opened):
            thread = opened.thread() if opened.thread is not None else threading.main_thread()
            if thread is None or not thread.is_alive():
                self._opened.remove(opened)
                opened.connection.close()


def _candidates(wanted: Path | None) -> Iterator[Path]:
    """Where to look for the database: the second place is for when the first belongs to a newer version of us."""
    if wanted is not None:
        yield wanted
        yield wanted.with_name(f"{wanted.stem}-{SCHEMA}{wanted.suffix}")


def _prepare(path: Path) -> bool:
    """Make sure that the database at ``path`` can be written and has our tables; False when it is somebody else's."""
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (tables and mark != MARK) or _version(connection) > SCHEMA:
            return False
        if not _on_network(path):  # where programs on two computers can not share memory
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) != SCHEMA:
            catalog_schema.drop_all(connection)
            catalog_schema.create(connection)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('opened', ?)", (str(time.time()),))
        connection.execute("COMMIT")
    return True


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _is_damage(error: sqlite3.Error) -> bool:
    """True for a file that is no database or a broken one; the errors of disks and rights have classes of their own."""
    return type(error) is sqlite3.DatabaseError


def _move_aside(path: Path) -> bool:
    """Rename a database that can not be used, so that a new one can be made in its place."""
    try:
        os.replace(path, path.with_name(path.name + ".damaged"))
        for ending in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    except OSError:
        return False
    _log.warning("The catalog's database was damaged. It was kept as %s.damaged and is made again.", _text(path))
    return True


def _on_network(path: Path) -> bool:
    """Whether the disk is another computer's, as far as the system tells."""
    real = os.path.realpath(path)
    if real.startswith(("\\\\", "//")):
        return True
    try:
        mounts = [line.split()[1:3] for line in _MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return False
    holding = [(place, kind) for place, kind in mounts if real.startswith(place.rstrip("/") + "/")]
    return bool(holding) and max(holding, key=lambda mount: len(mount[0]))[1] in _NETWORK_DISKS


def _close_all(opened: list[_Opened]) -> None:
    for each in opened:
        each.connection.close()
    opened.clear()


def _text(path: Path | None) -> str:
    """A path for the log, which may go into a file: without halves of characters."""
    return printable(str(path))
