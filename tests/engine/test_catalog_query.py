"""Search, filters, order and counts over the catalog's tables."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lycopatch.engine import catalog_query, catalog_tags
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_query import (
    ORDERS,
    Choice,
    Filters,
    Found,
    Memory,
    Query,
    Row,
    by_identity,
    by_path,
    query,
)
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
        self.memory = Memory()
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
        return query(self.store.connection(), Query(words, **wanted), loaded, facets=facets, memory=self.memory)

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
@given(st.text(st.characters(), max_size=30))
def test_any_text_can_be_searched_for(words: str) -> None:
    tables = Tables(CatalogStore(None))
    known = words.replace("\0", "").encode(errors="replace").decode()
    tables.add("found", text=unicodedata.normalize("NFC", known))
    some = Choice(frozenset({words}), frozenset({words + "x"}))
    tables.ask(words, facets=True)
    tables.ask(facets=True, filters=Filters(some, some, some, some, some, some, some))
    tables.store.close()


@pytest.mark.parametrize("word", ["\ud800", "ink\ud800", "ink\0", "\0"])
def test_what_no_text_can_hold_is_nowhere(word: str, tables: Tables) -> None:
    tables.add("ink")
    assert tables.stems(word) == tables.stems(filters=Filters(tag=Choice(frozenset({word})))) == []
    assert tables.stems(f"-{word}") == ["ink"]


def test_typing_letter_by_letter_finds_what_asking_at_once_finds(tables: Tables) -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices("ab_%c ", k=30)) for _ in range(40)]
    for number, text in enumerate(texts):
        tables.add(f"{number:02}", text=text)
    for _ in range(40):
        words = "".join(chance.choices("ab_%c", k=4)) + " " + "".join(chance.choices("-abc", k=3))
        for end in range(len(words)):
            typed = words[: end + 1]
            parts = typed.split()
            expected = [
                f"{number:02}"
                for number, text in enumerate(texts)
                if all(_holds(part, f"{number:02}\n{text}") for part in parts)
            ]
            assert tables.stems(typed) == expected, typed


def _holds(part: str, text: str) -> bool:
    return part[1:] not in text if part.startswith("-") and len(part) > 1 else part in text


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


_CHOICES: dict[str, Callable[[Row], set[str]]] = {
    "kind": lambda row: {row.kind or ""},
    "family": lambda row: {row.family or ""},
    "folder": lambda row: {row.folder, row.folder.partition("/")[0]},
    "fit": lambda row: {row.fit},
    "problem": lambda row: {row.problem or ""},
}


def test_filters_and_counts_are_those_of_going_through_all_networks(tables: Tables) -> None:
    chance = random.Random(5)
    for number in range(30):
        family = chance.choice([None, "sd1", "sdxl"])
        tables.add(
            f"{number:02}",
            tuple(chance.sample(["ink", "wash", "tree", "cat"], chance.randint(0, 3))),
            kind=chance.choice([None, "lora", "loha"]),
            family=family,
            families=family and f"|{family}|",
            folder=chance.choice(["A", "A/b", "A/c", "D"]),
            problem=chance.choice([None, None, None, "empty"]),
            rank=chance.choice([None, 4, 8, 16]),
        )
    every = tables.ask(loaded="sd1", limit=99).rows
    values = {name: sorted({value for row in every for value in of(row)}) for name, of in _CHOICES.items()}
    for _ in range(60):
        names = chance.sample(sorted(_CHOICES), 2)
        chosen = {name: _some(chance, values[name]) for name in names}
        ranks = chance.choice([{}, {"rank_min": 5, "rank_max": 99}, {"rank_min": 4, "rank_max": 8}])
        tag = Choice(frozenset(chance.sample(["ink", "wash"], chance.randint(0, 2))))
        found = tables.ask(loaded="sd1", facets=True, filters=Filters(**chosen, **ranks, tag=tag))

        rules: dict[str, Callable[[Row], bool]] = {
            name: lambda row, name=name, choice=choice: _is_chosen(_CHOICES[name](row), choice)
            for name, choice in chosen.items()
        }
        rules["tag"] = lambda row, wanted=tag.include: wanted <= {tag for tag, _ in row.tags}
        if ranks:
            rules["rank"] = lambda row, least=ranks["rank_min"], most=ranks["rank_max"]: (
                least <= (row.rank or 0) <= most
            )
        left = {
            without: [row for row in every if all(rule(row) for name, rule in rules.items() if name != without)]
            for without in ("", "rank", *_CHOICES)
        }
        assert found.rows == left[""]
        assert found.facets is not None
        for name in _CHOICES:
            assert dict(found.facets[name]) == Counter(each for row in left[name] if (each := getattr(row, name)))
        known = [row.rank for row in left["rank"] if row.rank]
        assert found.facets["rank"] == ([min(known), max(known)] if known else [])
        assert dict(found.facets["tag"]) == Counter(tag for row in left[""] for tag, _ in row.tags)


def _some(chance: random.Random, values: list[str]) -> Choice:
    include, exclude = (frozenset(chance.sample(values, chance.randint(0, 2))) for _ in range(2))
    return Choice(include, exclude)


def _is_chosen(values: set[str], choice: Choice) -> bool:
    return (not choice.include or bool(values & choice.include)) and not values & choice.exclude


@pytest.mark.parametrize("frequent", [0, 5, 220, 1000])
def test_only_the_most_frequent_tags_are_counted(
    frequent: int, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_tags, "_FREQUENT", frequent)
    for number in range(6):
        tags = tuple(f"tag {n:03}" for n in range(number, 300, number + 1))
        tables.add(str(number), tags, kind="abcdef"[number])
    chosen = ((Choice(), range(6)), (Choice(exclude=frozenset("a")), range(1, 6)), (Choice(frozenset("f")), [5]))
    for kind, numbers in chosen:
        facets = tables.ask(facets=True, filters=Filters(kind)).facets
        assert facets is not None
        counts = Counter(f"tag {n:03}" for number in numbers for n in range(number, 300, number + 1))
        expected = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:200]
        assert [(tag, count) for tag, count in facets["tag"]] == expected


def test_numbers_in_names_are_numbers_and_case_does_not_count(tables: Tables) -> None:
    for stem in ("ink10", "Ink9", "ink 2", "ÉTÉ", "été1", "ink010b", "zebra"):
        tables.add(stem)
    assert tables.stems() == ["ink 2", "Ink9", "ink10", "ink010b", "zebra", "ÉTÉ", "été1"]
    tables.add("a", label="LoRA r16")
    assert tables.stems(order="algorithm")[-1] == "a"


def test_an_empty_library_has_nothing_to_choose_from(tables: Tables) -> None:
    found = tables.ask("ink -wash", facets=True, filters=Filters(used=False, rank_min=3))
    assert (found.rows, found.found, found.total) == ([], 0, 0)
    assert found.facets is not None
    assert not any(found.facets.values())


def test_a_window_may_be_large(tables: Tables) -> None:
    for number in range(1100):
        tables.add(str(number))
    assert tables.stems(limit=2000) == [str(number) for number in range(1100)]


# --- what is kept in memory


def test_nothing_is_read_again_while_nothing_changes(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.add("ink")
    assert tables.stems("ink") == ["ink"]
    monkeypatch.delattr(catalog_query, "Columns")
    assert tables.stems("in") == ["ink"]
    UserShelf(tables.store).set_favourite("0" * 16, True)
    assert tables.stems(filters=Filters(favourite=True)) == ["ink"]


def test_what_another_program_changes_is_seen_at_once(tmp_path: Path) -> None:
    places = tmp_path / "index.sqlite3", tmp_path / "user.sqlite3"
    with closing(CatalogStore(*places)) as mine, closing(CatalogStore(*places)) as others:
        tables = Tables(mine)
        tables.add("ink")
        tables.add("wash")
        assert tables.stems() == ["ink", "wash"]
        with others.writing() as connection:
            connection.execute("UPDATE files SET stem = 'zebra', kind = 'loha' WHERE stem = 'ink'")
            connection.execute("UPDATE search SET text = 'zebra' WHERE text = 'ink'")
        assert tables.stems() == ["wash", "zebra"]
        assert tables.stems("zeb", filters=Filters(kind=Choice(frozenset({"loha"})))) == ["zebra"]
        with others.writing() as connection:
            connection.execute("DELETE FROM files WHERE stem = 'wash'")
        assert (tables.stems(), tables.ask().total) == (["zebra"], 1)
        UserShelf(others).record_used([tables.ask().rows[0].identity], 3.0)
        assert tables.ask(order="last_used").rows[0].last_used == 3.0


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
