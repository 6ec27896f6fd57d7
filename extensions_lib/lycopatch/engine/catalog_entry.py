"""A listed file with what its header says about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.health import unreadable_kind
from lycopatch.engine.metadata import PICTURES
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.types import Fingerprint

_RESERVED_ALIASES = frozenset({"none", "addams"})
_STATED = ("sshs_model_hash", "sshs_legacy_hash")
_RECENT_SECONDS = 60.0

READABLE = (None, "not a network", "pickle")
"""Problems of files that can be read all the same; see the column ``problem``."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file known by name, alias, hash. What its tensors mean is not known here: it may be no network at all."""

    path: Path
    relative: str
    """Path below its folder, forward slashes, without extension."""
    stem: str
    alias: str | None
    """What its trainer called it (``ss_output_name``)."""
    fingerprint: Fingerprint
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], hash=False, repr=False)
    """The header's metadata without embedded pictures; empty for pickles, which are not opened to be listed."""
    error: str | None = None
    """The sentence that says why the file can not be read, if so."""
    stated: tuple[str, ...] | None = field(default=None, compare=False, repr=False)
    """The stated hashes, where they are known without the metadata."""

    @property
    def stated_hashes(self) -> list[str]:
        """The hashes that trainers write into the header; they may be those of an earlier state of the file."""
        return stated_hashes(self.metadata) if self.stated is None else list(self.stated)

    @property
    def usable_alias(self) -> tuple[str, ...]:
        """The alias, if a tag may use it."""
        alias = usable(self.alias)
        return (alias,) if alias else ()


class LazyMetadata(Mapping[str, str]):
    """Metadata that are loaded when somebody looks, and not kept: a catalog has thousands of files."""

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[], Mapping[str, str]]) -> None:
        self._load = load

    def __getitem__(self, key: str) -> str:
        return self._load()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


@dataclass(frozen=True, slots=True)
class Header:
    """What the catalog keeps of a header: metadata without pictures; ``error`` and its kind when it can not be read."""

    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    error: str | None = None
    problem: str | None = None


def read_header(seen: SeenFile) -> Header:
    """Open a file for its metadata; a pickle is not opened. ``seen`` gets the fingerprint that the file has now."""
    if seen.is_pickle:
        return Header()
    try:
        with open_tensor_file(seen.path) as file:
            seen.size, seen.mtime_ns = file.fingerprint.size, file.fingerprint.mtime_ns
            metadata = {key: value for key, value in file.metadata.items() if key not in PICTURES}
        return unfinished(seen) if seen.beside.downloading == "surely" else Header(metadata)
    except UnreadableAdapter as error:
        return trouble(seen, error)


def trouble(seen: SeenFile, error: UnreadableAdapter) -> Header:
    """What is wrong with a file that can not be read. One that may still be growing is not called damaged."""
    if "more than 100 MB" in error.reason:
        problem = "too large header"
    elif "it is empty" in error.reason:
        problem = "empty"
    else:
        problem = "truncated" if unreadable_kind(error) == "truncated" else "damaged"
    is_new = abs(time.time() - seen.mtime_ns / 1e9) < _RECENT_SECONDS
    if seen.beside.downloading or (is_new and problem in ("empty", "truncated")):
        reason = error.reason.removesuffix(" Download it again.")
        return _unfinished(seen, f"{reason} If it is still being downloaded, wait: it is looked at again later.")
    return Header(error=str(error), problem=problem)


def unfinished(seen: SeenFile) -> Header:
    """A file that looks whole and of which only a part is there yet."""
    return _unfinished(seen, "it is still being downloaded, and is looked at again later.")


def _unfinished(seen: SeenFile, reason: str) -> Header:
    return Header(error=str(UnreadableAdapter(seen.path, reason)), problem="downloading")


def alias_of(metadata: Mapping[str, str]) -> str | None:
    """The name that the trainer gave the network; some write "None" for none."""
    alias = metadata.get("ss_output_name", "")
    return alias if alias.strip() and alias != "None" else None


def usable(alias: str | None) -> str | None:
    """The alias, if tags may use it: hosts use "none" and "addams" for no network at all."""
    return alias if alias and alias.casefold() not in _RESERVED_ALIASES else None


def stated_hashes(metadata: Mapping[str, str]) -> list[str]:
    """The hashes in a header."""
    return [metadata[key] for key in _STATED if key in metadata]


def fingerprint_of(path: Path) -> Fingerprint:
    """The fingerprint of a file as it is now. Raises OSError."""
    status = os.stat(path)
    return Fingerprint(status.st_size, status.st_mtime_ns)
