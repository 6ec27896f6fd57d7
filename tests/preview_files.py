"""Pictures and videos as people and villains make them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image

MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00" + bytes(range(256)) * 16
WEBM = b"\x1a\x45\xdf\xa3" + bytes(2000)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


def write_picture(path: Path, size: tuple[int, int] = (640, 960), colour: str = "orange", **how: object) -> Path:
    Image.new("RGB", size, colour).save(path, **how)  # type: ignore[arg-type]
    return path


def write_animation(path: Path) -> Path:
    """Two frames: red, then blue."""
    frames = [Image.new("RGB", (400, 300), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has that many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))
