"""Favourites and uses survive what the index does not."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from lycopatch.engine import catalog_user_file
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.engine.catalog_user_file import open_user_file

INK, MIST = "0123456789abcdef", "fedcba9876543210"


def shelf(user: Path | None, index: Path | None = None) -> UserShelf:
    return UserShelf(CatalogStore(index, user))


def test_favourites_are_kept_and_taken_back(tmp_path: Path) -> None:
    user = tmp_path / "cache" / "user.sqlite3"
    shelf(user).set_favourite(INK, True)
    again = shelf(user)
    again.set_favourite(INK, True)
    assert again.favourites() == {INK}
    again.set_favourite(INK, False)
    again.set_favourite(MIST, False)
    assert shelf(user).favourites() == set()


def test_uses_are_counted_once_each_time(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    one = shelf(user)
    one.record_used([INK, INK, MIST], 100.0)
    one.record_used([INK], 90.0)
    assert shelf(user).used(INK) == (2, 100.0)
    assert shelf(user).used(MIST) == (1, 100.0)
    assert shelf(user).used("f" * 16) == (0, None)


def test_two_programs_share_one_file(tmp_path: Path) -> None:
    one, other = (shelf(tmp_path / "user.sqlite3", tmp_path / f"index{number}.sqlite3") for number in range(2))
    one.set_favourite(INK, True)
    other.set_favourite(MIST, True)
    assert one.favourites() == other.favourites() == {INK, MIST}


def test_a_rebuilt_index_loses_no_favourite(tmp_path: Path) -> None:
    index, user = tmp_path / "index.sqlite3", tmp_path / "user.sqlite3"
    shelf(user, index).set_favourite(INK, True)
    for file in tmp_path.glob("index*"):
        file.write_bytes(b"no database at all" * 100)
    assert shelf(user, index).favourites() == {INK}


def test_a_file_that_is_no_database_is_moved_aside(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    user.write_bytes(b"something else" * 1000)
    shelf(user).set_favourite(INK, True)
    assert shelf(user).favourites() == {INK}
    assert (tmp_path / "user.sqlite3.damaged1").read_bytes() == b"something else" * 1000


def test_what_can_be_read_of_a_damaged_file_is_taken_over(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    wanted = {f"{number:06x}{number:010x}" for number in range(0, 1 << 24, 5000)}
    filled = CatalogStore(None, user)
    with filled.writing() as connection:
        connection.executemany("INSERT INTO user.favourites VALUES (?)", [(identity,) for identity in wanted])
    UserShelf(filled).record_used([INK], 5.0)
    filled.close()
    damage(user, os.path.getsize(user) // 4096 - 4)
    with closing(CatalogStore(None, user)) as store:
        rescued = UserShelf(store).favourites()
        assert UserShelf(store).used(INK) == (1, 5.0)
        assert store.issue is not None
        assert f"{len(rescued) + 1} entries were saved" in store.issue.message
    assert rescued < wanted
    assert len(rescued) > len(wanted) * 0.8
    assert names(tmp_path) == ["user.sqlite3", "user.sqlite3.damaged1"]


def damage(file: Path, page: int) -> None:
    with open(file, "r+b") as opened:
        opened.seek(page * 4096)
        opened.write(b"\xff" * 4096)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_database_of_another_kind_is_moved_aside(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    with closing(sqlite3.connect(user)) as other:
        other.execute("CREATE TABLE favourites (name TEXT)")
    assert shelf(user).favourites() == set()
    assert names(tmp_path) == ["user.sqlite3", "user.sqlite3.damaged1"]


def test_a_file_that_can_not_be_replaced_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "user.sqlite3"
    shelf(user).record_used((f"{number:016x}" for number in range(300)), 1.0)
    damage(user, os.path.getsize(user) // 4096 - 1)

    def refuse(*_: object) -> None:
        raise PermissionError("another program has it open")

    monkeypatch.setattr(os, "replace", refuse)
    store = CatalogStore(None, user)
    assert store.issue is not None
    assert "another program has it open" in store.issue.message
    UserShelf(store).set_favourite(MIST, True)
    assert UserShelf(store).favourites() == {MIST}
    assert names(tmp_path) == ["user.sqlite3"]


def test_a_file_that_another_program_writes_to_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "user.sqlite3"
    shelf(user).set_favourite(INK, True)
    monkeypatch.setattr(catalog_user_file, "_BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(user, isolation_level=None)) as busy, closing(sqlite3.connect(":memory:")) as memory:
        busy.execute("BEGIN EXCLUSIVE")
        assert open_user_file(user, memory) == (user, None)
    assert names(tmp_path) == ["user.sqlite3"]


def test_a_file_that_can_not_be_written_is_known_until_the_program_ends(tmp_path: Path) -> None:
    user = tmp_path / "user.sqlite3"
    shelf(user).set_favourite(INK, True)
    with open(user, "r+b") as file:
        file.seek(18)
        file.write(b"\x03")  # the version of the format that is needed for writing: none that there is
    before = user.read_bytes()
    with closing(CatalogStore(tmp_path / "index.sqlite3", user)) as store:
        one = UserShelf(store)
        one.set_favourite(MIST, True)
        assert one.favourites() == {INK, MIST}
        assert store.issue is not None
        assert "kept only until the program ends" in store.issue.message
        assert str(user) in store.issue.message
        with closing(Catalog([tmp_path], store=store)) as catalog:
            catalog.index()
            assert store.issue in catalog.problems
    assert user.read_bytes() == before


def test_where_no_folder_can_be_made_favourites_live_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "user.sqlite3", tmp_path / "half\ud800" / "user.sqlite3"):
        store = CatalogStore(None, place)
        UserShelf(store).set_favourite(INK, True)
        assert UserShelf(store).favourites() == {INK}
        assert store.issue is not None


def test_without_a_file_favourites_live_as_long_as_the_store() -> None:
    one = shelf(None)
    one.set_favourite(INK, True)
    one.record_used([INK], 1.0)
    assert (one.favourites(), one.used(INK)) == ({INK}, (1, 1.0))
    assert shelf(None).favourites() == set()


@pytest.mark.parametrize("on_disk", [True, False])
def test_threads_and_programs_count_together(tmp_path: Path, on_disk: bool) -> None:
    user = tmp_path / "user.sqlite3" if on_disk else None
    shelves = [shelf(user, tmp_path / f"index{number}.sqlite3") for number in range(2 if on_disk else 1)]
    many = [f"{number:016x}" for number in range(450)]

    def work(number: int) -> None:
        own = shelves[number % len(shelves)]
        for _ in range(5):
            own.record_used(many, float(number))
            own.set_favourite(f"{number:016x}", True)
            own.favourites()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [None] * 4
    assert {shelves[0].used(identity) for identity in many} == {(20, 3.0)}
    assert len(shelves[0].favourites()) == 4
