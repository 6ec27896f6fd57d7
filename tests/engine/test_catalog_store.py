"""The catalog's database: shared, damaged, of another version, out of reach; it is never worth an error."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lycopatch.engine import catalog_schema, catalog_store
from lycopatch.engine.catalog_schema import SCHEMA, path_of, stored_path
from lycopatch.engine.catalog_store import CatalogStore

SOURCE = Path(__file__).resolve().parents[2] / "extensions_lib"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "index.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[CatalogStore]:
    store = CatalogStore(path)
    yield store
    store.close()


def note(store: CatalogStore, value: str) -> None:
    with store.writing() as connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('note', ?)", (value,))


def noted(store: CatalogStore) -> str | None:
    row = store.connection().execute("SELECT value FROM meta WHERE key = 'note'").fetchone()
    return row and row[0]


def in_thread(action: object) -> list[object]:
    """What an action returns or raises in a thread of its own."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(action())  # type: ignore[operator]
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


def test_what_was_written_is_there_the_next_time(path: Path, store: CatalogStore) -> None:
    assert store.path == path
    note(store, "kept")
    with closing(CatalogStore(path)) as again:
        assert noted(again) == "kept"


def test_two_processes_write_into_one_database(path: Path, store: CatalogStore) -> None:
    program = """
import sys
from pathlib import Path
from lycopatch.engine.catalog_store import CatalogStore
store = CatalogStore(Path(sys.argv[1]))
for number in range(40):
    with store.writing() as connection:
        connection.execute("INSERT INTO meta VALUES (?, '')", (f"{sys.argv[2]} {number}",))
"""
    command = [sys.executable, "-c", program, str(path)]
    others = [
        subprocess.Popen([*command, name], env={"PYTHONPATH": str(SOURCE)}, stderr=subprocess.PIPE) for name in "ab"
    ]
    for number in range(40):
        note(store, str(number))
    assert [(other.communicate()[1], other.returncode) for other in others] == [(b"", 0)] * 2
    question = "SELECT count(*) FROM meta WHERE key LIKE 'a %' OR key LIKE 'b %'"
    assert store.connection().execute(question).fetchone() == (80,)


@pytest.mark.parametrize("content", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_moved_aside_and_made_again(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with closing(CatalogStore(path)) as store:
        assert store.path == path
        note(store, "works")
        assert path.with_name("index.sqlite3.damaged").read_bytes() == content


def test_a_file_that_is_damaged_while_it_is_used_is_made_again_once(path: Path, store: CatalogStore) -> None:
    note(store, "lost")
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink()
    path.write_bytes(b"garbage" * 5000)
    [error] = in_thread(store.connection)
    assert isinstance(error, sqlite3.DatabaseError)
    assert store.recover(error)
    assert store.recover(error), "who met the same error finds it mended"
    assert (store.generation, noted(store)) == (1, None)
    note(store, "works")
    assert in_thread(lambda: noted(store)) == ["works"]


def test_a_file_that_somebody_deleted_is_made_again(path: Path, store: CatalogStore) -> None:
    note(store, "lost")
    for each in path.parent.iterdir():
        each.unlink()
    [error] = in_thread(store.connection)
    assert isinstance(error, sqlite3.DatabaseError)
    assert store.recover(error)
    assert noted(store) is None
    note(store, "works")


def test_a_database_that_is_only_busy_is_not_made_again(store: CatalogStore) -> None:
    assert not store.recover(sqlite3.OperationalError("database is locked"))
    assert not store.recover(sqlite3.ProgrammingError("mistake of the caller"))
    assert store.generation == 0


def test_a_disk_that_fails_while_it_is_used_moves_the_catalog_into_memory(store: CatalogStore) -> None:
    assert store.recover(sqlite3.OperationalError("disk I/O error"))
    assert (store.path, store.generation) == (None, 1)
    note(store, "works")
    assert in_thread(lambda: noted(store)) == ["works"]


def test_an_older_database_is_made_again_in_its_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(CatalogStore(path)) as old:
        note(old, "old")
    for module in (catalog_schema, catalog_store):
        monkeypatch.setattr(module, "SCHEMA", SCHEMA + 1)
    with closing(CatalogStore(path)) as new:
        assert (new.path, noted(new)) == (path, None)
        assert new.connection().execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)


def test_a_newer_database_is_left_to_its_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalog_schema, catalog_store):
        monkeypatch.setattr(module, "SCHEMA", SCHEMA + 1)
    with closing(CatalogStore(path)) as newer:
        note(newer, "newer")
        monkeypatch.undo()
        with closing(CatalogStore(path)) as ours:
            assert ours.path == path.with_name(f"index-{SCHEMA}.sqlite3")
            assert noted(ours) is None
        assert noted(newer) == "newer"


def test_the_database_of_another_program_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as theirs, theirs:
        theirs.execute("CREATE TABLE files (mine)")
    before = path.read_bytes()
    with closing(CatalogStore(path)) as store:
        assert store.path != path
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["a file/index.sqlite3", "a folder", "x" * 300])
def test_where_nothing_can_be_written_the_catalog_is_kept_in_memory(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_bytes(b"")
    (tmp_path / "a folder").mkdir()
    with closing(CatalogStore(tmp_path / place)) as store:
        assert store.path is None
        note(store, "works")
        assert in_thread(lambda: noted(store)) == ["works"]


def test_a_database_that_must_not_be_written_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CatalogStore(path).close()
    original = sqlite3.connect

    def read_only(database: object, *args: object, **options: object) -> sqlite3.Connection:
        if database == path:
            return original(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        return original(database, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog_store.sqlite3, "connect", read_only)
    with closing(CatalogStore(path)) as store:
        assert store.path is None


def test_a_change_that_fails_is_undone_as_a_whole(store: CatalogStore) -> None:
    note(store, "before")

    def half() -> None:
        with store.writing() as connection:
            connection.execute("UPDATE meta SET value = 'half' WHERE key = 'note'")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert noted(store) == "before"


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_thread_sees_the_files_that_are_shown_last(path: Path, in_memory: bool) -> None:
    def seen() -> list[int]:
        return [row[0] for row in store.connection().execute("SELECT file_id FROM seen ORDER BY file_id")]

    with closing(CatalogStore(None if in_memory else path)) as store:
        assert seen() == []
        store.show([3, 1])
        assert (seen(), in_thread(seen)) == ([1, 3], [[1, 3]])
        store.show([2])
        assert (seen(), in_thread(seen)) == ([2], [[2]])


def test_the_connections_of_ended_threads_are_closed(store: CatalogStore) -> None:
    connections = [in_thread(store.connection)[0] for _ in range(5)]
    store.connection()
    for connection in connections:
        assert isinstance(connection, sqlite3.Connection)
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")


def test_a_closed_store_says_so(path: Path) -> None:
    store = CatalogStore(path)
    store.close()
    store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        store.connection()


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_users_do_is_kept_in_a_second_database(tmp_path: Path, in_memory: bool) -> None:
    user = None if in_memory else tmp_path / "deep" / "user.sqlite3"

    def count() -> int:
        return store.connection().execute("SELECT count(*) FROM user.shelf").fetchone()[0]

    with closing(CatalogStore(tmp_path / "index.sqlite3", user)) as store:
        with store.writing() as connection:
            connection.execute("CREATE TABLE user.shelf (identity TEXT)")
            connection.execute("INSERT INTO user.shelf VALUES ('a')")
        assert (count(), in_thread(count)) == (1, [1])
    if user is not None:
        with closing(CatalogStore(None, user)) as store:
            assert count() == 1


def test_a_second_database_that_is_damaged_is_kept_and_made_again(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    user.write_bytes(b"not a database" * 500)
    with closing(CatalogStore(tmp_path / "index.sqlite3", user)) as store:
        store.connection().execute("CREATE TABLE user.shelf (identity TEXT)")
    [kept] = tmp_path.glob("user.sqlite3.damaged*")
    assert kept.read_bytes() == b"not a database" * 500


@pytest.mark.parametrize(
    ("mounts", "kept_in"),
    [("disk / ext4 rw 0 0\n", "wal"), ("disk / ext4 rw 0 0\nnas {folder} nfs4 rw 0 0\n", "delete")],
)
def test_memory_is_shared_only_on_a_disk_of_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, kept_in: str
) -> None:
    (tmp_path / "mounts").write_text(mounts.format(folder=tmp_path), encoding="utf-8")
    monkeypatch.setattr(catalog_store, "_MOUNTS", tmp_path / "mounts")
    with closing(CatalogStore(tmp_path / "index.sqlite3")) as store:
        assert store.connection().execute("PRAGMA journal_mode").fetchone() == (kept_in,)


def test_an_sqlite_without_full_text_search_has_a_plain_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_schema, "_SEARCH", "CREATE VIRTUAL TABLE search USING missing (text)")
    with closing(CatalogStore(path)) as store:
        with store.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO search (rowid, text) VALUES (7, 'ink wash')")
        question = "SELECT rowid FROM search WHERE text LIKE '%nk%'"
        assert store.connection().execute(question).fetchall() == [(7,)]


@pytest.mark.parametrize("name", ["/a/plain.safetensors", "/a/水墨画.pt", "/a/\udcff\udc80.safetensors", "C:\\a\ud83d"])
def test_every_name_that_a_file_can_have_is_stored(store: CatalogStore, name: str) -> None:
    (stored,) = store.connection().execute("SELECT ?", (stored_path(name),)).fetchone()
    assert path_of(stored) == name
