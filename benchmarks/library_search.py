"""Searching a library of thousands of networks: how long the answers take, with and without the counts of filters.

``python -m benchmarks.library_search --count 10000`` fills the tables with made-up rows, asks what people ask (words
typed letter by letter, filters, far windows, every order) and prints one small table. No network is written.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import load_average
from lycopatch.engine.catalog_identity import identity
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_query import ORDERS, Choice, Filters, Memory, Query, query
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.catalog_user import UserShelf

FOLDERS = 60
TAGS_EACH = 20
VOCABULARY = 40_000
WORDS = "solo portrait ink wash harbour neon winter comic glass 水墨 夜景 lantern paper robot clay sketch".split()
"""The most frequent ones; the others are made up."""
SYLLABLES = "ka ri to mo sen el va dor in ash lu pe gra ny os tir be wo qu zen".split()
FAMILIES = ("sd1", "sdxl", "sdxl", "sdxl", "flux", None)
KINDS = ("lora",) * 6 + ("dora", "loha", "lokr", "ia3")
VARIANTS = ("pony", "illustrious", "noobai", None)
TYPED = ("ink wash", "portrait neon", "harbour -comic", "水墨 winter", "nothing like it", "kamosen", "a", "lora r16")


def fill(store: CatalogStore, count: int) -> None:
    """``count`` networks with texts of about 1.5 KB, frequent and rare tags, favourites and uses."""
    chance = random.Random(0)
    words = [*WORDS, *("".join(chance.choices(SYLLABLES, k=3)) for _ in range(2000))]
    tags = list(dict.fromkeys(" ".join(some_words(chance, words)) for _ in range(VOCABULARY)))
    weights = [1 / (number + 30) for number in range(len(tags))]
    with store.writing() as connection:
        for number in range(1, count + 1):
            own = list(dict.fromkeys(chance.choices(tags, weights, k=TAGS_EACH)))
            row = row_of(chance, number, words, own)
            names = ", ".join(row)
            connection.execute(f"INSERT INTO files ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
            about = " ".join(" ".join(some_words(chance, words)) for _ in range(50))
            text = fold("\n".join([row["folder"], row["stem"], row["label"], *own, about]))
            connection.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", (number, text))
            connection.executemany("INSERT INTO file_tags VALUES (?, ?)", [(fold(tag), number) for tag in own])
    store.show(range(1, count + 1))
    shelf = UserShelf(store)
    for number in range(1, count + 1, 40):
        shelf.set_favourite(identity(str(number)), True)
        shelf.record_used([identity(str(number + 1))], 1.7e9 + number)


def some_words(chance: random.Random, words: list[str]) -> list[str]:
    """One to three words. The first ones are in half of all texts, most in one of a hundred."""
    return [words[int(20 * (len(words) / 20 + 1) ** chance.random()) - 20] for _ in range(chance.randint(1, 3))]


def row_of(chance: random.Random, number: int, words: list[str], tags: list[str]) -> dict[str, Any]:
    """The columns of one network."""
    family, kind, rank = chance.choice(FAMILIES), chance.choice(KINDS), 2 ** chance.randint(2, 7)
    stem = "_".join([*some_words(chance, words), str(number)])
    folder = f"Lora/{WORDS[number % len(WORDS)]} {number % FOLDERS}"
    return {
        "id": number,
        "path": f"/networks/{folder}/{stem}.safetensors",
        "folder": folder,
        "stem": stem,
        "relative": f"{folder}/{stem}".partition("/")[2],
        "size": chance.randint(1 << 20, 1 << 28),
        "mtime_ns": chance.randint(1_600_000_000, 1_700_000_000) * 10**9,
        "beside": "",
        "added": 1.7e9 + number // 7,
        "identity": identity(str(number)),
        "listed": "",
        "read_at": 1.7e9,
        "error": "The file is cut off." if number % 100 == 0 else None,
        "problem": "truncated" if number % 100 == 0 else None,
        "kind": kind,
        "label": f"{kind} r{rank}",
        "rank": rank,
        "family": family,
        "family_title": family and family.upper(),
        "families": f"|{family}|" if family else None,
        "variant": chance.choice(VARIANTS) if family == "sdxl" else None,
        "trigger": tags[0],
        "tags": json.dumps([[tag, 9] for tag in tags], ensure_ascii=False),
    }


def questions(count: int) -> Iterator[Query]:
    """What one visitor after the other asks."""
    chance = random.Random(1)
    for text in TYPED:
        for end in range(1, len(text) + 1):
            yield Query(text[:end])
            yield Query(text[:end], some_filters(chance), order="newest")
    for order in ORDERS:
        for descending in (False, True):
            for offset in (0, count // 2, count - 100):
                yield Query(order=order, descending=descending, seed=chance.randrange(99), offset=offset)
                yield Query("", some_filters(chance), order, descending, offset=offset)


def some_filters(chance: random.Random) -> Filters:
    """One to three filters."""
    folder = f"Lora/{WORDS[3]} {chance.choice(range(3, FOLDERS, len(WORDS)))}"
    offered: dict[str, Any] = {
        "kind": Choice(frozenset({"lora", "dora"})),
        "family": Choice(exclude=frozenset({"flux"})),
        "variant": Choice(frozenset({"pony"})),
        "folder": Choice(exclude=frozenset({folder})),
        "fit": Choice(frozenset({"yes", "unknown"})),
        "rank_min": 16,
        "size_max": 1 << 27,
        "favourite": True,
        "used": False,
        "tag": Choice(frozenset({chance.choice(WORDS)})),
    }
    return Filters(**{name: offered[name] for name in chance.sample(sorted(offered), chance.randint(1, 3))})


def measure(store: CatalogStore, count: int, *, facets: bool) -> dict[str, float]:
    """Milliseconds of the first answer, which reads the tables, and of the answers to all questions."""
    memory = Memory()
    first = answer(store, Query(), memory, facets=facets)
    times = [answer(store, wanted, memory, facets=facets) for wanted in questions(count)]
    cuts = statistics.quantiles(times, n=100)
    return {"first": first, "p50": cuts[49], "p95": cuts[94], "max": max(times), "answers": len(times)}


def answer(store: CatalogStore, wanted: Query, memory: Memory, *, facets: bool) -> float:
    begun = time.perf_counter()
    query(store.connection(), wanted, "sdxl", facets=facets, memory=memory)
    return (time.perf_counter() - begun) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.library_search", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lycopatch-search-") as temporary:
        store = CatalogStore(Path(temporary) / "index.sqlite3", Path(temporary) / "user.sqlite3")
        fill(store, options.count)
        print(f"{options.count} networks, milliseconds, load {load_average()}")
        for facets in (False, True):
            found = measure(store, options.count, facets=facets)
            title = "with counts" if facets else "without counts"
            print(f"{title:<16}" + "".join(f"{name} {value:7.1f}   " for name, value in found.items()))
        store.close()


if __name__ == "__main__":
    main()
