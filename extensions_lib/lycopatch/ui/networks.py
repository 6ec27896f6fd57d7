"""The networks of a catalog as rows to show, to search and to sort. No file is opened beyond its header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_identity import identities
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.recognise import TITLES, family_in_metadata
from lycopatch.engine.training import training_facts

MOST_ROWS = 500
_MOST_TAGS = 5


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """One file. Texts are as its author wrote them: escape them."""

    file: AdapterFile
    id: str
    """Opaque; the same for as long as the file keeps its name and place below its folder."""
    name: str
    """What a tag calls it."""
    trigger_words: tuple[str, ...]
    """The trainer's trigger phrase, else the most frequent tags of the training pictures."""
    base_model: str
    algorithm: str
    searched: str

    @property
    def modified(self) -> float:
        """Unix seconds."""
        return self.file.fingerprint.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of those that were ``found`` among ``total`` networks."""

    rows: tuple[NetworkRow, ...]
    offset: int
    found: int
    total: int


ORDERS: Mapping[str, Callable[[NetworkRow], Any]] = {
    "name": lambda row: fold(row.name),
    "newest": lambda row: -row.modified,
    "largest": lambda row: -row.file.fingerprint.size,
    "base model": lambda row: (row.base_model == "", fold(row.base_model), fold(row.name)),
    "algorithm": lambda row: (row.algorithm == "", fold(row.algorithm), fold(row.name)),
    "damaged first": lambda row: (row.file.error is None, fold(row.name)),
}
"""How rows can be sorted."""


class Networks:
    """The rows of the current catalog. A row is made again only when its file has changed. Thread-safe."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self.catalog = catalog
        self._rows: list[NetworkRow] = []

    def rows(self) -> list[NetworkRow]:
        """Every network, in the order of the catalog."""
        catalog = self.catalog()
        files = catalog.files
        known = {row.file.path: row for row in self._rows}
        ids = identities((str(file.path), file.relative + file.path.suffix) for file in files)
        rows: list[NetworkRow] = []
        for file in files:
            name, row = catalog.shortest_name(file), known.get(file.path)
            if row is None or row.file is not file or (row.name, row.id) != (name, ids[str(file.path)]):
                row = _row(file, ids[str(file.path)], name)
            rows.append(row)
        self._rows = rows
        return rows

    def page(self, search: str = "", order: str = "name", offset: int = 0, limit: int = 200) -> Page:
        """The networks in which every word of ``search`` occurs. ``limit`` is at most ``MOST_ROWS``."""
        rows = self.rows()
        words = fold(search).split()
        found = [row for row in rows if all(word in row.searched for word in words)]
        found.sort(key=ORDERS[order])
        shown = found[offset : offset + min(limit, MOST_ROWS)]
        return Page(tuple(shown), offset, len(found), len(rows))

    def by_id(self, wanted: str) -> NetworkRow | None:
        return next((row for row in self.rows() if row.id == wanted), None)

    def find(self, name: str) -> NetworkRow:
        """The network that a tag means by this name. Raises AdapterNotFound and UnreadableAdapter."""
        file = self.catalog().find(name)
        known = [row for row in self.rows() if row.file.path == file.path]
        return known[0] if known else _row(file, "", name)


def _row(file: AdapterFile, identity: str, name: str) -> NetworkRow:
    facts = training_facts(file.metadata)
    words = _trigger_words(facts)
    family = family_in_metadata(file.metadata)
    base_model = TITLES.get(family, family) if family else str(facts.get("base_model_version", ""))
    algorithm = _algorithm(facts.get("network", {}))
    searched = fold("\n".join([file.relative, file.alias or "", name, *words, base_model, algorithm]))
    return NetworkRow(file, identity, name, words, base_model, algorithm, searched)


def _trigger_words(facts: Mapping[str, Any]) -> tuple[str, ...]:
    if phrase := facts.get("trigger_phrase"):
        return (str(phrase),)
    return tuple(each["tag"] for each in facts.get("tags", ())[:_MOST_TAGS])


def _algorithm(network: Mapping[str, Any]) -> str:
    """What the trainer was told to train: ``loha`` (LyCORIS), ``lora`` (networks.lora); empty when nobody says."""
    named = network.get("args", {}).get("algo")
    if named is None:
        package, _, named = str(network.get("module", "")).rpartition(".")
        if package == "lycoris":
            return package
    return str(named).lower()
