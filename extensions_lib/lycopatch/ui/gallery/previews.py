"""The picture or video beside a network: opened only where it may be shown to whoever sees the page.

Strangers make these files and their names. So nothing is believed: the file has to lie beside its network (also behind
links), and its first bytes have to be those of a picture or video. It is opened once, and what was opened is checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lycopatch.engine.catalog_beside import PREVIEW_KINDS
from lycopatch.ui.sidecar import stem_path

_HEAD = 16


class NoPreview(Exception):
    """There is nothing to show; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class OpenedPreview:
    """An open file that may be shown."""

    file: BinaryIO
    path: Path
    media_type: str
    size: int
    mtime_ns: int

    @property
    def is_video(self) -> bool:
        return self.media_type.startswith("video/")


@contextmanager
def opened_preview(network: Path, preview: Path) -> Iterator[OpenedPreview]:
    """The open preview of a network. Raises NoPreview when it must not or can not be shown."""
    if preview.suffix.lower() not in PREVIEW_KINDS or not _is_beside(network, preview):
        raise NoPreview("This file is not the preview of its network.")
    try:
        real = Path(os.path.realpath(preview))
        if not _lies_beside(network, real):
            raise NoPreview("The preview is a link to a file elsewhere, and is not shown.")
        file = open(real, "rb", opener=_open_without_following)  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise NoPreview("The preview can not be read.") from error
    with file:
        status = os.fstat(file.fileno())
        media_type = media_type_of(file.read(_HEAD)) if stat.S_ISREG(status.st_mode) else None
        if media_type is None:
            raise NoPreview("The preview is no picture or video of a known format.")
        file.seek(0)
        yield OpenedPreview(file, real, media_type, status.st_size, status.st_mtime_ns)


def media_type_of(head: bytes) -> str | None:
    """What a file is by its first bytes; None for what is never shown, such as a page called .png."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return "video/mp4"
    return "video/webm" if head.startswith(b"\x1a\x45\xdf\xa3") else None


def _is_beside(network: Path, preview: Path) -> bool:
    """Whether the preview has the network's name and folder."""
    stem = os.path.basename(stem_path(network))
    return preview.parent == network.parent and preview.name.startswith(f"{stem}.")


def _lies_beside(network: Path, real: Path) -> bool:
    """Whether the file itself lies where the network does, or, as people link whole sets, where its link leads."""
    folders = {os.path.realpath(network.parent), os.path.dirname(os.path.realpath(network))}
    return str(real.parent) in folders


def _open_without_following(path: str, flags: int) -> int:
    """Not a link that took the file's place just now; and a pipe of that name keeps nobody waiting."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
