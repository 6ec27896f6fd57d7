"""Small copies of previews, made once into a folder of their own that never grows beyond its bound.

Pictures are made by strangers: only known formats are read, and nothing that is too large. What can not be read gives
a picture that says why. Several processes may share the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, features

from lycopatch.engine.wording import printable
from lycopatch.ui.gallery.previews import OpenedPreview

WIDTH = 320
"""Of a thumbnail, in pixels."""

_TALLEST = 640
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_MOST_BYTES = 32 << 20
_MOST_PIXELS = 40_000_000
_AT_ONCE = 2
"""How many pictures are decoded at a time: each may need hundreds of megabytes."""

_OURS = re.compile(r"[0-9a-f]{32}\.(?:webp|png)|\.[0-9a-f]{16}\.tmp")
_ABANDONED_SECONDS = 3600
_RECIPE = "1"
"""Changes when thumbnails are made in another way, so that old ones are not used."""

_log = logging.getLogger(__name__)


class _NotShown(Exception):
    """Why a picture has no thumbnail: half a sentence."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture as a file's bytes. ``problem``: why it is not that of the preview, as a sentence."""

    data: bytes
    media_type: str
    problem: str | None = None


class Thumbnails:
    """The thumbnails in ``folder``, which is made when needed and belongs to them. Thread-safe."""

    def __init__(self, folder: Path, most_bytes: int = 512 << 20) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._used: int | None = None
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(_AT_ONCE)
        self._webp = bool(features.check("webp"))

    @property
    def media_type(self) -> str:
        return "image/webp" if self._webp else "image/png"

    def key(self, preview: OpenedPreview) -> str:
        """32 hex digits that change whenever the thumbnail may be another one."""
        seen = (_RECIPE, str(preview.path), preview.size, preview.mtime_ns, self._webp)
        return hashlib.sha256(repr(seen).encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def of(self, preview: OpenedPreview) -> Thumbnail:
        """The thumbnail of a picture. Never raises: what is wrong with the picture is drawn in place of it."""
        file = self.folder / f"{self.key(preview)}.{self.media_type.rpartition('/')[2]}"
        made = _read(file)
        if made:
            return Thumbnail(made, self.media_type)
        try:
            with self._decoding:
                made = _read(file) or self._make(preview, file)  # somebody may have made it while this one waited
        except _NotShown as reason:
            problem = f"The preview {reason}."
            _log.warning("%s has no thumbnail. %s", printable(str(preview.path)), problem)
            return Thumbnail(self._encoded(placeholder(problem)), self.media_type, problem)
        return Thumbnail(made, self.media_type)

    def _make(self, preview: OpenedPreview, file: Path) -> bytes:
        data = self._encoded(reduced(preview))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(file, data)
            self._bound(len(data))
        except OSError as error:
            _log.warning("Thumbnails can not be kept in %s: %s", printable(str(self.folder)), error.strerror or error)
        return data

    def _encoded(self, picture: Image.Image) -> bytes:
        written = BytesIO()
        if self._webp:
            picture.save(written, "WEBP", quality=82)
        else:
            picture.save(written, "PNG")
        return written.getvalue()

    def _bound(self, more: int) -> None:
        """Take away the oldest thumbnails when there are too many bytes of them."""
        with self._lock:
            if self._used is not None and self._used + more <= self._most_bytes:
                self._used += more
                return
            kept: list[tuple[float, int, Path]] = []
            for entry in os.scandir(self.folder):
                if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    kept.append((status.st_mtime, status.st_size, Path(entry.path)))
            used = sum(size for _, size, _ in kept)
            wanted = self._most_bytes if used <= self._most_bytes else self._most_bytes * 9 // 10
            abandoned = time.time() - _ABANDONED_SECONDS
            for when, size, path in sorted(kept):
                unfinished = path.suffix == ".tmp"
                if (used > wanted and not unfinished) or (unfinished and when < abandoned):
                    with contextlib.suppress(OSError):  # another process took it away, or reads it on Windows
                        path.unlink()
                        used -= size
            self._used = used


def reduced(preview: OpenedPreview) -> Image.Image:
    """A small copy of a picture, the first of an animation. Raises _NotShown."""
    if preview.size > _MOST_BYTES:
        raise _NotShown(f"has more than {_MOST_BYTES >> 20} MiB")
    try:
        with Image.open(preview.file, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise _NotShown(f"has {picture.width} × {picture.height} pixels, which is too many")
            picture.draft("RGB", (WIDTH, _TALLEST))  # lets a JPEG be read at a fraction of its size
            see_through = "A" in picture.getbands() or "transparency" in picture.info
            upright = ImageOps.exif_transpose(picture)
            return _fitted(upright.convert("RGBA" if see_through else "RGB"))
    except _NotShown:
        raise
    except Image.DecompressionBombError as error:
        raise _NotShown("has far too many pixels") from error
    except Exception as error:  # whatever a picture made to do harm brings Pillow to raise
        _log.debug("Pillow on %s", preview.path, exc_info=True)
        raise _NotShown("is damaged") from error


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture as wide as a thumbnail and at most ``_TALLEST``; a small one keeps its hard edges."""
    times = WIDTH // max(picture.size)
    if times >= 2:
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    picture.thumbnail((WIDTH, _TALLEST), Image.Resampling.LANCZOS)
    return picture


def placeholder(sentence: str) -> Image.Image:
    """A grey picture with a sentence on it. Pillow's own font has the letters of ASCII in every release."""
    lines = [""]
    for word in sentence.replace("×", "x").encode("ascii", "replace").decode().split():
        lines = [*lines, word] if len(lines[-1]) + len(word) > 20 else [*lines[:-1], f"{lines[-1]} {word}".strip()]
    small = Image.new("RGB", (WIDTH // 2, WIDTH // 2), (82, 82, 91))
    ImageDraw.Draw(small).multiline_text((12, 24), "\n".join(lines), fill=(228, 228, 231))
    return small.resize((WIDTH, WIDTH), Image.Resampling.NEAREST)


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _write(file: Path, data: bytes) -> None:
    """Others see the whole file or none."""
    temporary = file.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
