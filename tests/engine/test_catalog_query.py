"""Search, filters, order and counts over the catalog's tables."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_query import ORDERS, Choice, Filters, Found, Query, by_identity, by_path, query
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf

_USUAL: dict[str, Any] = {
    "folder": "Lora",
    "size": 1000,
    "mtime_ns": 10**9,
    "beside": "",
    "added": 1.0,
    "listed": "",
    "read_at": 1.0,
    "family": "sd1",
    "families": "|sd1|",
    "kind": "lora",
    "label": "LoRA r8",
    "rank": 8,
}


class Tables:
    """A store with rows that are written straight into it."""

    def __init__(self, store: CatalogStore) -> None:
        self.store = store
        self.ids: list[int] = []

    def add(self, stem: str, tags: tuple[str, ...] = (), text: str = "", **columns: Any) -> None:
        with self.store.writing() as connection:
            row = {**_USUAL, **columns, "stem": stem, "relative": stem, "path": f"/nets/{stem}.safetensors"}
            row |= {"identity": f"{len(self.ids):016x}", "tags": json.dumps([[tag, 1] for tag in tags])}
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            id_ = connection.execute(f"INSERT INTO files ({names}) VALUES ({marks})", row).lastrowid
            assert id_ is not None
            searched = fold("\n".join([stem, text, *tags]))
            connection.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", (id_, searched))
            connection.executemany("INSERT INTO file_tags VALUES (?, ?)", [(fold(tag), id_) for tag in tags])
        self.ids.append(id_)
        self.store.show(self.ids)

    def ask(self, words: str = "", loaded: str | None = None, *, facets: bool = False, **wanted: Any) -> Found:
        return query(self.store.connection(), Query(words, **wanted), loaded, facets=facets)

    def stems(self, words: str = "", loaded: str | None = None, **wanted: Any) -> list[str]:
        return [row.stem for row in self.ask(words, loaded, **wanted).rows]


@pytest.fixture(params=["with trigrams", "without full-text search"])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    if request.param == "without full-text search":
        monkeypatch.setattr(
            "lycopatch.engine.catalog_schema._SEARCH", "CREATE VIRTUAL TABLE search USING nothing (text)"
        )
    store = CatalogStore(None)
    yield Tables(store)
    store.close()


# --- words


def test_every_word_has_to_occur_anywhere(tables: Tables) -> None:
    tables.add("inkwash", ("brush strokes",))
    tables.add("ink")
    tables.add("watercolour", text="made with ink and a brush")
    assert tables.stems("ink") == ["ink", "inkwash", "watercolour"]
    assert tables.stems("brush INK") == ["inkwash", "watercolour"]
    assert tables.stems("strokes kwas") == ["inkwash"]
    assert tables.stems("  ") == tables.stems("")


@pytest.mark.parametrize("word", ["i", "nk", "墨", "水墨", "水墨画", "é", "É"])
def test_a_word_of_any_length_in_any_script_is_found(word: str, tables: Tables) -> None:
    tables.add("other")
    tables.add("ink 水墨画 café" + word)
    assert tables.stems(word) == ["ink 水墨画 café" + word]


def test_a_word_with_a_minus_is_not_wanted(tables: Tables) -> None:
    tables.add("ink old")
    tables.add("ink new")
    assert tables.stems("ink -old") == ["ink new"]
    assert tables.stems("-old") == ["ink new"]
    tables.add("a-b")
    assert tables.stems("-") == ["a-b"]


@pytest.mark.parametrize(
    "text", ['"', "ink*", "a OR b", "NEAR(", "^a", "text:a", "100%", "a_b", "'; DROP TABLE files", "\\"]
)
def test_what_is_an_operator_elsewhere_is_a_text_here(text: str, tables: Tables) -> None:
    tables.add(f"<{text}>")
    tables.add("axb ink or near( 1000 text")
    assert f"<{text}>" in tables.stems(text)
    assert tables.stems("a_b") == ([f"<{text}>"] if text == "a_b" else [])
    assert tables.stems("100%") == ([f"<{text}>"] if text == "100%" else [])


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30))
def test_any_text_can_be_searched_for(words: str) -> None:
    tables = Tables(CatalogStore(None))
    tables.add("found" + words.replace("\0", ""), text=unicodedata.normalize("NFC", words.replace("\0", "")))
    tables.ask(words, facets=True)
    tables.store.close()


# --- filters


def test_values_of_a_filter_are_alternatives_and_filters_go_together(tables: Tables) -> None:
    tables.add("a", kind="lora")
    tables.add("b", kind="loha", family="sdxl")
    tables.add("c", kind="lokr")
    tables.add("d", kind=None)
    some = Filters(kind=Choice(frozenset({"lora", "loha"})))
    assert tables.stems(filters=some) == ["a", "b"]
    assert tables.stems(filters=replace(some, family=Choice(frozenset({"sdxl"})))) == ["b"]
    assert tables.stems(filters=Filters(kind=Choice(exclude=frozenset({"lora"})))) == ["b", "c", "d"]


def test_a_folder_is_all_that_is_below_it(tables: Tables) -> None:
    for folder in ("Lora", "Lora/styles", "Lora/styles/ink", "Lora/styles2", "Lora/styles!", "LyCORIS"):
        tables.add(folder.replace("/", "-"), folder=folder)
    assert tables.stems(filters=Filters(folder=Choice(frozenset({"Lora/styles"})))) == [
        "Lora-styles",
        "Lora-styles-ink",
    ]
    below = Filters(folder=Choice(frozenset({"Lora"}), frozenset({"Lora/styles"})))
    assert tables.stems(filters=below) == ["Lora", "Lora-styles!", "Lora-styles2"]


def test_all_tags_that_are_wanted_have_to_be_there(tables: Tables) -> None:
    tables.add("both", ("ink", "tree"))
    tables.add("one", ("Ink",))
    tables.add("none")
    assert tables.stems(filters=Filters(tag=Choice(frozenset({"ink", "tree"})))) == ["both"]
    assert tables.stems(filters=Filters(tag=Choice(frozenset({"INK"})))) == ["both", "one"]
    assert tables.stems(filters=Filters(tag=Choice(exclude=frozenset({"tree"})))) == ["none", "one"]


def test_ranges_leave_out_what_is_not_known(tables: Tables) -> None:
    tables.add("small", rank=4, size=10)
    tables.add("large", rank=64, size=1000)
    tables.add("none", rank=None, size=100)
    assert tables.stems(filters=Filters(rank_min=8)) == ["large"]
    assert tables.stems(filters=Filters(rank_max=64)) == ["large", "small"]
    assert tables.stems(filters=Filters(size_min=10, size_max=100)) == ["none", "small"]


def test_favourites_and_used_ones_can_be_asked_for(tables: Tables) -> None:
    for stem in "abc":
        tables.add(stem)
    shelf, rows = UserShelf(tables.store), tables.ask().rows
    shelf.set_favourite(rows[0].identity, True)
    shelf.record_used([rows[1].identity], 5.0)
    shelf.record_used([rows[1].identity, rows[2].identity], 7.0)
    assert tables.stems(filters=Filters(favourite=True)) == ["a"]
    assert tables.stems(filters=Filters(favourite=False)) == ["b", "c"]
    assert tables.stems(filters=Filters(used=False)) == ["a"]
    assert tables.stems(order="used") == ["b", "c", "a"]
    assert [(row.favourite, row.used, row.last_used) for row in tables.ask().rows] == [
        (True, 0, None),
        (False, 2, 7.0),
        (False, 1, 7.0),
    ]


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        ("sdxl", ["no", "yes", "yes", "unknown", "damaged", "no"]),
        ("sd1", ["yes", "no", "no", "unknown", "damaged", "no"]),
        ("flux", ["unknown", "unknown", "unknown", "unknown", "damaged", "yes"]),
        (None, ["unknown"] * 4 + ["damaged", "unknown"]),
    ],
)
def test_what_fits_the_loaded_model(loaded: str | None, expected: list[str], tables: Tables) -> None:
    tables.add("1")
    tables.add("2", family="sdxl", families="|sdxl|")
    tables.add("3", family="ssd1b", families="|ssd1b|sdxl|")
    tables.add("4", family=None, families=None)
    tables.add("5", problem="truncated")
    tables.add("6", family="flux", families="|flux|")
    assert [row.fit for row in tables.ask(loaded=loaded).rows] == expected
    for fit in set(expected):
        wanted = Filters(fit=Choice(frozenset({fit})))
        assert [row.fit for row in tables.ask(loaded=loaded, filters=wanted).rows] == [fit] * expected.count(fit)


# --- order, windows, counts


def test_each_order_goes_both_ways_and_the_unknown_is_last(tables: Tables) -> None:
    tables.add("a", rank=4, mtime_ns=1, added=3.0, size=5, family_title="SDXL", label="LoRA r4")
    tables.add("B", rank=None, mtime_ns=3, added=1.0, size=4, family_title=None, label=None)
    tables.add("c", rank=8, mtime_ns=2, added=2.0, size=6, family_title="SD1", label="DoRA r8")
    expected = {
        "name": "aBc",
        "newest": "Bca",
        "added": "acB",
        "size": "caB",
        "rank": "caB",
        "family": "caB",
        "algorithm": "caB",
    }
    for order, stems in expected.items():
        assert "".join(tables.stems(order=order)) == stems, order
        known = stems[:2] if stems.endswith("B") and order not in ("added", "size") else stems
        assert "".join(tables.stems(order=order, descending=True)) == known[::-1] + stems[len(known) :], order
    assert set(expected) | {"used", "last_used", "random"} == set(ORDERS)


def test_chance_stays_the_same_for_a_seed(tables: Tables) -> None:
    for number in range(50):
        tables.add(f"{number:02d}")
    one = tables.stems(order="random", seed=1)
    paged = [
        stem for offset in range(0, 50, 7) for stem in tables.stems(order="random", seed=1, offset=offset, limit=7)
    ]
    assert paged == one
    assert sorted(one) == tables.stems()
    assert len({tuple(tables.stems(order="random", seed=seed)) for seed in range(5)}) == 5


def test_windows_say_how_many_there_are(tables: Tables) -> None:
    for number in range(10):
        tables.add(f"ink{number}" if number % 2 else f"wash{number}")
    window = tables.ask("ink", offset=2, limit=2)
    assert ([row.stem for row in window.rows], window.found, window.total) == (["ink5", "ink7"], 5, 10)
    assert tables.ask(offset=100).rows == []


def test_counts_say_what_could_still_be_chosen(tables: Tables) -> None:
    tables.add("a", ("ink",), kind="lora", rank=4)
    tables.add("b", ("ink", "tree"), kind="loha", rank=16)
    tables.add("c", ("tree",), kind="loha", family="sdxl", families="|sdxl|", rank=None)
    facets = tables.ask(loaded="sd1", facets=True, filters=Filters(kind=Choice(frozenset({"loha"})))).facets
    assert facets == {
        "kind": [["loha", 2], ["lora", 1]],
        "family": [["sd1", 1], ["sdxl", 1]],
        "variant": [],
        "folder": [["Lora", 2]],
        "fit": [["no", 1], ["yes", 1]],
        "problem": [],
        "rank": [16, 16],
        "size": [1000, 1000],
        "tag": [["tree", 2], ["ink", 1]],
    }
    assert tables.ask().facets is None


def test_only_what_is_in_the_folders_is_found(tables: Tables) -> None:
    tables.add("here")
    tables.add("elsewhere")
    tables.store.show(tables.ids[:1])
    assert (tables.stems(), tables.ask().total) == (["here"], 1)
    assert by_path(tables.store.connection(), "/nets/elsewhere.safetensors", None) is None


def test_one_network_is_found_by_its_identity_and_by_its_path(tables: Tables) -> None:
    tables.add("ink", ("a",), preview="/nets/ink.png", preview_kind="image")
    row = by_identity(tables.store.connection(), "0" * 16, "sd1")
    assert row is not None
    assert (row.path, row.preview, row.tags, row.fit) == ("/nets/ink.safetensors", "/nets/ink.png", [("a", 1)], "yes")
    assert by_path(tables.store.connection(), str(Path("/nets/ink.safetensors")), "sd1") == row
    assert by_identity(tables.store.connection(), "f" * 16, None) is None
