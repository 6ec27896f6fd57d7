"""One network as the catalog shows it: its row, what only the user knows about it, and how it fits the loaded model."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lycopatch.engine.catalog_schema import path_of, stored_path
from lycopatch.engine.recognise import TITLES

_MANY = 500  # values in one statement

_ROW = """
SELECT files.id, families, files.identity, path, folder, stem, relative, size, mtime_ns, beside, added, alias, sha256,
    autov3, autov1, error, problem, kind, label, rank, family, family_title, confidence, variant, parts, layers, keys,
    trigger, tags, weight, title, preview, preview_kind, favourites.identity IS NOT NULL,
    coalesce(uses.count, 0), uses.last
FROM temp.seen JOIN files ON files.id = file_id
    LEFT JOIN user.favourites ON favourites.identity = files.identity
    LEFT JOIN user.uses ON uses.identity = files.identity
WHERE
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A network as the catalog knows it. Texts are as their authors wrote them: escape them."""

    identity: str
    path: str
    folder: str
    stem: str
    relative: str
    size: int
    mtime_ns: int
    beside: str
    added: float
    alias: str | None
    sha256: str | None
    autov3: str | None
    autov1: str | None
    error: str | None
    problem: str | None
    kind: str | None
    label: str | None
    rank: int | None
    family: str | None
    family_title: str | None
    confidence: float | None
    variant: str | None
    parts: str | None
    layers: int | None
    keys: int | None
    trigger: str | None
    tags: list[tuple[str, int]]
    weight: float | None
    title: str | None
    preview: str | None
    preview_kind: str | None
    favourite: bool
    used: int
    last_used: float | None
    fit: str
    """``yes``, ``no``, ``unknown`` (whether it fits the loaded model) or ``damaged``."""


def by_identity(connection: sqlite3.Connection, identity: str, loaded_family: str | None) -> Row | None:
    """The network that is known by this outside of the engine."""
    return _one(connection, "files.identity = ?", identity, loaded_family)


def by_path(connection: sqlite3.Connection, path: str, loaded_family: str | None) -> Row | None:
    """The network in this file."""
    return _one(connection, "path = ?", stored_path(path), loaded_family)


def fit(problem: str | None, family: str | None, families: str | None, loaded: str | None) -> str:
    """How a network fits the loaded model: ``Row.fit``. ``families``: all that it fits, as ``files`` has them.

    The rule of ``recognise.Verdict.allows``; of a model whose structure has no name, nobody knows what fits it.
    """
    if problem is not None:
        return "damaged"
    if loaded is None or family is None:
        return "unknown"
    if family == loaded or f"|{loaded}|" in (families or ""):
        return "yes"
    return "no" if loaded in TITLES else "unknown"


def with_ids(connection: sqlite3.Connection, ids: Sequence[int], loaded_family: str | None) -> list[Row]:
    """The networks with these ids, in this order; those that are gone by now are left out."""
    found: dict[int, Row] = {}
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        found.update(_rows(connection, f"files.id IN ({','.join('?' * len(some))})", some, loaded_family))
    return [found[id_] for id_ in ids if id_ in found]


def _one(connection: sqlite3.Connection, condition: str, value: object, loaded_family: str | None) -> Row | None:
    return next((row for _, row in _rows(connection, condition, [value], loaded_family)), None)


def _rows(
    connection: sqlite3.Connection, condition: str, values: Sequence[object], loaded_family: str | None
) -> Iterator[tuple[int, Row]]:
    """The ids and rows of which a condition in SQL is true."""
    names = [each.name for each in fields(Row)]
    for id_, families, *columns in connection.execute(_ROW + condition, values).fetchall():
        known: dict[str, Any] = dict(zip(names, (*columns, "unknown"), strict=True))
        known["path"] = path_of(known["path"])
        known["preview"] = known["preview"] and path_of(known["preview"])
        known["tags"] = [(tag, count) for tag, count in json.loads(known["tags"])]
        known["favourite"] = bool(known["favourite"])
        known["fit"] = fit(known["problem"], known["family"], families, loaded_family)
        yield id_, Row(**known)
