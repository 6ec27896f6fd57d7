"""What lies beside a network in its folder: pictures, videos, words about it, and the traces of a download."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

PREVIEW_KINDS: dict[str, Literal["image", "video"]] = {
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".webp": "image",
    ".gif": "image",
    ".mp4": "video",
    ".webm": "video",
}
"""Extension of a preview → what it is; the first that is there is shown. ``.preview`` may stand in front of it."""

_WORDS = frozenset({".json", ".txt", ".info"})
_DOWNLOADS = frozenset({".part", ".crdownload", ".download", ".opdownload", ".tmp", ".aria2"})
_UNFINISHED = ".aria2"
"""aria2 gives a file its full size at once and removes this companion when all of it is there."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The companions of one network. ``state`` changes when one of them does; it is empty when there is none."""

    state: str = ""
    preview: str | None = None
    has_words: bool = False
    downloading: Literal["", "perhaps", "surely"] = ""


NOTHING = Beside()


@dataclass(slots=True)
class Neighbours:
    """The files of one folder that are no networks, sorted by the name that they begin with."""

    _by_start: dict[str, list[tuple[str, os.DirEntry[str]]]] = field(
        default_factory=dict[str, "list[tuple[str, os.DirEntry[str]]]"]
    )

    def add(self, entry: os.DirEntry[str], start: str, extension: str) -> None:
        """Remember a file, its name given as ``splitext`` cuts it."""
        extension = extension.lower()
        if extension in PREVIEW_KINDS or extension in _WORDS or extension in _DOWNLOADS:
            self._by_start.setdefault(start, []).append((extension, entry))
            shorter, middle = os.path.splitext(start)
            if middle:
                self._by_start.setdefault(shorter, []).append((middle.lower() + extension, entry))

    def of(self, stem: str, name: str) -> Beside:
        """The companions of the network ``name``, which is called ``stem`` without its extension."""
        found, behind = self._by_start.get(stem, ()), self._by_start.get(name, ())
        if not found and not behind:
            return NOTHING
        downloads = [ending for ending, _ in behind if ending in _DOWNLOADS]
        companions = {ending: entry for ending, entry in reversed(found) if _own(ending)}
        states = [_state(ending, entry) for ending, entry in sorted(companions.items(), key=lambda each: each[0])]
        choices = (each for ending in PREVIEW_KINDS for each in (f".preview{ending}", ending))
        preview = next((companions[ending].path for ending in choices if ending in companions), None)
        has_words = any(os.path.splitext(ending)[1] in _WORDS or ending in _WORDS for ending in companions)
        downloading = "surely" if _UNFINISHED in downloads else "perhaps" if downloads else ""
        return Beside("|".join([*states, *downloads]), preview, has_words, downloading)


def preview_kind(path: str | None) -> str | None:
    """``image``, ``video``, or None for no preview."""
    return PREVIEW_KINDS[os.path.splitext(path)[1].lower()] if path else None


def _own(ending: str) -> bool:
    """False for what belongs to a network of a longer name: ``.v2.png`` is the preview of ``name.v2``."""
    middle, extension = os.path.splitext(ending)
    if not extension:  # splitext takes ".png" for a name without extension
        return ending not in _DOWNLOADS
    return extension in _WORDS or middle == ".preview"


def _state(ending: str, entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat()
    except OSError:
        return f"{ending}?"
    return f"{ending}:{status.st_size}:{status.st_mtime_ns}"
