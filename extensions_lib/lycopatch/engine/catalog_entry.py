"""A listed file with what its header says about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.types import Fingerprint

_RESERVED_ALIASES = frozenset({"none", "addams"})
_PICTURES = frozenset({"ssmd_cover_images", "modelspec.thumbnail", "thumbnail"})
"""Metadata of up to megabytes a file; who wants to show it reads the file."""

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


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

    @property
    def stated_hashes(self) -> list[str]:
        """The hashes that trainers write into the header; they may be those of an earlier state of the file."""
        return [self.metadata[key] for key in ("sshs_model_hash", "sshs_legacy_hash") if key in self.metadata]

    @property
    def usable_alias(self) -> tuple[str, ...]:
        """The alias, if a tag may use it: hosts use "none" and "addams" for no network at all."""
        return (self.alias,) if self.alias and self.alias.casefold() not in _RESERVED_ALIASES else ()


def describe(seen: SeenFile, fingerprint: Fingerprint) -> AdapterFile:
    """Read the header of a file that has this fingerprint. A damaged file is described by its ``error``."""
    metadata = _NO_METADATA
    error = None
    if not seen.is_pickle:
        try:
            with open_tensor_file(seen.path) as opened:
                kept = {key: value for key, value in opened.metadata.items() if key not in _PICTURES}
                metadata, fingerprint = MappingProxyType(kept), opened.fingerprint
        except UnreadableAdapter as unreadable:
            error = str(unreadable)
    alias = metadata.get("ss_output_name", "")
    has_alias = alias.strip() and alias != "None"  # how trainers write that there is none
    return AdapterFile(
        path=seen.path,
        relative=seen.relative,
        stem=seen.stem,
        alias=alias if has_alias else None,
        fingerprint=fingerprint,
        metadata=metadata,
        error=error,
    )


def fingerprint_of(path: Path) -> Fingerprint:
    """The fingerprint of a file as it is now. Raises OSError."""
    status = os.stat(path)
    return Fingerprint(status.st_size, status.st_mtime_ns)
