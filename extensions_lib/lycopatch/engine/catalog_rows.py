"""Between the folders' listing and the database's rows: what is new, what changed, what is gone, and what was read."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lycopatch.engine.catalog_beside import preview_kind
from lycopatch.engine.catalog_entry import READABLE, usable
from lycopatch.engine.catalog_facts import Facts
from lycopatch.engine.catalog_identity import identity
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_scan import Listing, SeenFile
from lycopatch.engine.catalog_schema import OF_ONE_FILE, path_of, stored_path
from lycopatch.engine.reading import Hashes
from lycopatch.engine.types import Fingerprint
from lycopatch.engine.wording import printable

_NOT_ALLOWED = "|not allowed"
_LARGEST_METADATA = 1 << 24  # characters; what is larger is read from the file when it is wanted
_MANY = 500  # values in one statement

_INSERT = """
INSERT INTO files (path, listed, folder, stem, relative, size, mtime_ns, beside, identity, preview, preview_kind, added)
VALUES (:path, :listed, :folder, :stem, :relative, :size, :mtime_ns, :beside, :identity, :preview, :preview_kind, :now)
"""
_UPDATE = """
UPDATE files SET listed = :listed, folder = :folder, stem = :stem, relative = :relative, size = :size,
    mtime_ns = :mtime_ns, beside = :beside, identity = :identity, preview = :preview, preview_kind = :preview_kind,
    read_at = CASE WHEN size = :size AND mtime_ns = :mtime_ns AND beside = :beside THEN read_at END,
    sha256 = CASE WHEN size = :size AND mtime_ns = :mtime_ns THEN sha256 END,
    autov3 = CASE WHEN size = :size AND mtime_ns = :mtime_ns THEN autov3 END,
    autov1 = CASE WHEN size = :size AND mtime_ns = :mtime_ns THEN autov1 END
WHERE path = :path
"""
_READ = """
UPDATE files SET read_at = :now, alias = :alias, alias_folded = :alias_folded, stated_hashes = :stated_hashes,
    error = :error, problem = :problem, kind = :kind, label = :label, rank = :rank, family = :family,
    family_title = :family_title, confidence = :confidence, families = :families, variant = :variant, parts = :parts,
    layers = :layers, keys = :keys, trigger = :trigger, tags = :tags, weight = :weight, title = :title
WHERE id = :id
"""


_ENTRY = "alias, stated_hashes, size, mtime_ns, error, problem, read_at"


class Entry(NamedTuple):
    """What the database knows of a listed file. ``error``: why it can not be read."""

    alias: str | None
    stated: tuple[str, ...]
    fingerprint: Fingerprint
    error: str | None
    is_read: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A file's facts, made ready for the database by the thread that read them."""

    seen: SeenFile
    values: dict[str, Any]
    searched: str
    tags: Sequence[str]
    metadata: bytes | None


# --- the listing ------------------------------------------------------------------------------------------------------


class Followed(NamedTuple):
    """The ids of the listed files, and whether a row had to be changed."""

    ids: list[int]
    differs: bool


def synchronise(connection: sqlite3.Connection, listing: Listing, roots: Sequence[str]) -> Followed:
    """Let the rows follow a listing, within the caller's transaction.

    Rows of files that are gone from ``roots`` are deleted, except where a folder can not be read at the moment.
    """
    known_ids, known_lists = _known(connection)
    lists = _Lists(listing)
    now = time.time()
    added: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    ids: list[int] = []
    for seen in lists.every:
        listed = lists.listed(seen)
        id_, before = known_ids.pop(seen.place, None), known_lists.get(seen.place)
        if id_ is not None:
            ids.append(id_)
        if listed != before:
            (added if id_ is None else changed).append({**lists.row(seen), "listed": listed, "now": now})
    if added or changed:
        connection.executemany(_UPDATE, changed)
        connection.executemany(_INSERT, added)
        if added:
            found, _ = _known(connection)
            ids.extend(found[path_of(row["path"])] for row in added)
    inside = tuple(os.path.join(root, "") for root in roots)
    unknown = tuple(os.path.join(folder, "") for folder in listing.unreadable)
    gone = [id_ for path, id_ in known_ids.items() if path.startswith(inside) and not path.startswith(unknown)]
    _forget(connection, gone)
    return Followed(ids, bool(added or changed or gone))


def outdate(connection: sqlite3.Connection, listing: Listing, seen: SeenFile) -> None:
    """Let one file's row follow what was seen of it now, and its header be read again."""
    lists = _Lists(listing)
    connection.execute(_UPDATE, {**lists.row(seen), "listed": lists.listed(seen)})
    question = "UPDATE files SET read_at = NULL, problem = NULL, error = NULL WHERE path = ?"
    connection.execute(question, (stored_path(seen.place),))


def forget_file(connection: sqlite3.Connection, place: str) -> None:
    """Delete what is known of a file that is gone."""
    _forget(
        connection, [id_ for (id_,) in connection.execute("SELECT id FROM files WHERE path = ?", (stored_path(place),))]
    )


def _forget(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        marks = ",".join("?" * len(some))
        for table, column in OF_ONE_FILE:
            connection.execute(f"DELETE FROM {table} WHERE {column} IN ({marks})", some)


def unread(connection: sqlite3.Connection) -> list[str]:
    """The paths of the files whose headers are still to be read."""
    question = "SELECT path FROM files JOIN seen ON file_id = id WHERE read_at IS NULL ORDER BY id"
    return [path_of(path) for (path,) in connection.execute(question)]


def is_complete(connection: sqlite3.Connection) -> bool:
    """Whether every header was read, except those of files that are still being written."""
    question = "SELECT 1 FROM files JOIN seen ON file_id = id WHERE read_at IS NULL AND problem IS NOT 'downloading'"
    return connection.execute(question + " LIMIT 1").fetchone() is None


def unfinished(connection: sqlite3.Connection) -> list[str]:
    """The paths of the files that are still being written."""
    question = "SELECT path FROM files JOIN seen ON file_id = id WHERE problem = 'downloading'"
    return [path_of(path) for (path,) in connection.execute(question)]


def doubt(connection: sqlite3.Connection) -> None:
    """Let the damaged files be read again."""
    marks = ",".join("?" * len(READABLE[1:]))
    question = f"problem IS NOT NULL AND problem NOT IN ({marks}) AND id IN (SELECT file_id FROM seen)"
    connection.execute(f"UPDATE files SET read_at = NULL WHERE {question}", READABLE[1:])


class _Lists:
    """The rows that a listing asks for."""

    def __init__(self, listing: Listing) -> None:
        self.every = [*listing.files, *listing.pickles]
        self._refused = {seen.place for seen in listing.pickles}
        self._times = Counter(seen.relative + seen.suffix for seen in self.every)

    def listed(self, seen: SeenFile) -> str | bytes:
        """All of it in one text, to compare with the row's."""
        shared = self._times[seen.relative + seen.suffix] > 1
        refused = seen.place in self._refused
        text = (
            f"{seen.size}\t{seen.mtime_ns}\t{seen.label}\t{seen.relative}\t{shared}\t{refused}\t"
            f"{seen.beside.preview}\t{seen.beside.state}"
        )
        return text if text.isascii() else stored_path(text)

    def row(self, seen: SeenFile) -> dict[str, Any]:
        below = seen.relative + seen.suffix
        preview = seen.beside.preview
        return {
            "path": stored_path(seen.place),
            "folder": seen.folder,
            "stem": printable(seen.stem),
            "relative": printable(seen.relative),
            "size": seen.size,
            "mtime_ns": seen.mtime_ns,
            "beside": printable(seen.beside.state) + (_NOT_ALLOWED if seen.place in self._refused else ""),
            "identity": identity(below if self._times[below] == 1 else seen.place),
            "preview": stored_path(preview) if preview else None,
            "preview_kind": preview_kind(preview),
        }


def _known(connection: sqlite3.Connection) -> tuple[dict[str, int], dict[str, str | bytes]]:
    """Path → id, and path → what was listed. Two tables, because thousands of pairs would keep the collector busy."""
    ids: dict[str, int] = {}
    lists: dict[str, str | bytes] = {}
    for stored, id_, listed in connection.execute("SELECT path, id, listed FROM files"):
        path = path_of(stored)
        ids[path] = id_
        lists[path] = listed
    return ids, lists


# --- the facts --------------------------------------------------------------------------------------------------------


def written(seen: SeenFile, facts: Facts) -> Written:
    """Make facts ready for the database."""
    structure = facts.structure
    encoded = json.dumps(dict(facts.metadata))
    values: dict[str, Any] = {
        "alias": facts.alias,
        "alias_folded": fold(facts.alias) if usable(facts.alias) and facts.alias else None,
        "stated_hashes": json.dumps(facts.stated_hashes),
        "error": facts.error and printable(facts.error),
        "problem": facts.problem,
        "kind": facts.kind,
        "label": facts.label,
        "rank": structure and structure.rank,
        "family": facts.family,
        "family_title": facts.family_title,
        "confidence": structure.confidence if structure else None,
        "families": f"|{'|'.join(structure.families)}|" if structure and structure.families else None,
        "variant": facts.variant,
        "parts": structure.parts if structure else None,
        "layers": structure.layers if structure else None,
        "keys": structure.keys if structure else None,
        "trigger": facts.trigger and printable(facts.trigger),
        "tags": json.dumps([[tag, count] for tag, count in facts.tags], ensure_ascii=False),
        "weight": facts.weight,
        "title": facts.title and printable(facts.title),
        # A file that is still being written is read again whenever somebody looks.
        "now": None if facts.problem == "downloading" else time.time(),
    }
    tags = list(dict.fromkeys(fold(printable(tag)) for tag in (*(tag for tag, _ in facts.tags), *facts.own_tags)))
    compressed = zlib.compress(encoded.encode(), 1) if len(encoded) <= _LARGEST_METADATA else None
    return Written(seen, values, facts.searched, tags, compressed)


def write(connection: sqlite3.Connection, ready: Iterable[Written], listing: Listing) -> None:
    """Put facts into the rows of their files, within the caller's transaction. Files without a row are left out."""
    for each in ready:
        place = stored_path(each.seen.place)
        row = connection.execute("SELECT id, size, mtime_ns FROM files WHERE path = ?", (place,)).fetchone()
        if row is None:
            continue
        id_, *state = row
        if state != [each.seen.size, each.seen.mtime_ns]:  # it changed between the scan and the reading
            outdate(connection, listing, each.seen)
        connection.execute(_READ, {**each.values, "id": id_})
        connection.execute("INSERT OR REPLACE INTO search (rowid, text) VALUES (?, ?)", (id_, each.searched))
        connection.execute("DELETE FROM file_tags WHERE file_id = ?", (id_,))
        connection.executemany("INSERT OR IGNORE INTO file_tags VALUES (?, ?)", ((tag, id_) for tag in each.tags))
        connection.execute("DELETE FROM details WHERE file_id = ?", (id_,))
        if each.metadata is not None:
            connection.execute("INSERT INTO details VALUES (?, ?)", (id_, each.metadata))


def write_hashes(connection: sqlite3.Connection, place: str, fingerprint: Fingerprint, hashes: Hashes) -> None:
    """Keep the hashes of a file, if it is still the one that was hashed."""
    connection.execute(
        "UPDATE files SET sha256 = ?, autov3 = ?, autov1 = ? WHERE path = ? AND size = ? AND mtime_ns = ?",
        (hashes.sha256, hashes.autov3, hashes.autov1, stored_path(place), fingerprint.size, fingerprint.mtime_ns),
    )


# --- questions --------------------------------------------------------------------------------------------------------


def entry(connection: sqlite3.Connection, place: str) -> Entry | None:
    """One file's row."""
    row = connection.execute(f"SELECT {_ENTRY} FROM files WHERE path = ?", (stored_path(place),)).fetchone()
    return _entry(row) if row else None


def entries(connection: sqlite3.Connection, where: str = "TRUE") -> dict[str, Entry]:
    """Path → row of every file, or of those ``where`` a condition in SQL is true."""
    question = f"SELECT path, {_ENTRY} FROM files JOIN seen ON file_id = id WHERE {where}"
    return {path_of(row[0]): _entry(row[1:]) for row in connection.execute(question)}


def errors(connection: sqlite3.Connection) -> dict[str, str]:
    """Path → why the file can not be read, of those of which that is so."""
    return {place: known.error for place, known in entries(connection, "error IS NOT NULL").items() if known.error}


def with_alias(connection: sqlite3.Connection, alias: str, *, folded: bool = False) -> list[str]:
    """The paths of the files that their trainers called so, of those that tags may call so."""
    column = "alias_folded" if folded else "alias"
    question = f"SELECT path FROM files JOIN seen ON file_id = id WHERE {column} = ? AND alias_folded IS NOT NULL"
    return [path_of(path) for (path,) in connection.execute(question, (fold(alias) if folded else alias,))]


def with_hash(connection: sqlite3.Connection, digits: str) -> list[tuple[str, list[str]]]:
    """The files that may have a hash that begins so, with all their hashes."""
    question = """
        SELECT path, sha256, autov3, autov1, stated_hashes FROM files JOIN seen ON file_id = id
        WHERE sha256 LIKE :start OR autov3 LIKE :start OR autov1 LIKE :start OR stated_hashes LIKE :within
    """
    found = connection.execute(question, {"start": f"{digits}%", "within": f"%{digits}%"})
    return [(path_of(path), [*json.loads(stated), *filter(None, computed)]) for path, *computed, stated in found]


def unhashed(connection: sqlite3.Connection) -> list[str]:
    """The paths of the files whose hashes were not computed yet."""
    question = "SELECT path FROM files JOIN seen ON file_id = id WHERE sha256 IS NULL"
    return [path_of(path) for (path,) in connection.execute(question)]


def aliases(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Path and alias of every file that tags may call by one."""
    question = "SELECT path, alias FROM files JOIN seen ON file_id = id WHERE alias_folded IS NOT NULL"
    return [(path_of(path), alias) for path, alias in connection.execute(question)]


def metadata(connection: sqlite3.Connection, place: str, fingerprint: Fingerprint) -> Mapping[str, str] | None:
    """The metadata of a file in this state, or None when they are not known."""
    question = """
        SELECT metadata FROM files JOIN details ON file_id = id
        WHERE path = ? AND size = ? AND mtime_ns = ? AND read_at IS NOT NULL
    """
    asked = (stored_path(place), fingerprint.size, fingerprint.mtime_ns)
    row = connection.execute(question, asked).fetchone()
    return json.loads(zlib.decompress(row[0])) if row else None


def _entry(row: Sequence[Any]) -> Entry:
    alias, stated, size, mtime_ns, error, problem, read_at = row
    hashes = () if stated == "[]" else tuple(json.loads(stated))
    error = None if problem in READABLE else error
    return Entry(alias, hashes, Fingerprint(size, mtime_ns), error, read_at is not None)
