"""Favourites and uses survive what the index does not."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf, usable_user_file

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
    wanted = {f"{number:016x}" for number in range(3000)}
    filled = shelf(user)
    for identity in wanted:
        filled.set_favourite(identity, True)
    with open(user, "r+b") as file:
        file.seek(os.path.getsize(user) - 3 * 4096)
        file.write(b"\xff" * 4096)
    rescued = shelf(user).favourites()
    assert rescued < wanted
    assert len(rescued) > 100
    assert list(tmp_path.glob("*.damaged1"))


def test_a_file_that_another_program_writes_to_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "user.sqlite3"
    shelf(user).set_favourite(INK, True)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout=5.0, **rest: connect(path, 0.01, **rest))
    busy = connect(user, isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    assert usable_user_file(user) == user
    busy.close()
    assert not list(tmp_path.glob("*.damaged*"))


def test_where_nothing_can_be_written_favourites_live_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    one = shelf(tmp_path / "file" / "user.sqlite3")
    one.set_favourite(INK, True)
    assert one.favourites() == {INK}


def test_without_a_file_favourites_live_as_long_as_the_store() -> None:
    one = shelf(None)
    one.set_favourite(INK, True)
    one.record_used([INK], 1.0)
    assert (one.favourites(), one.used(INK)) == ({INK}, (1, 1.0))
    assert shelf(None).favourites() == set()
