"""Pictures and videos as HTTP answers: bytes that a browser may keep, ask for again, or want a part of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from starlette.responses import Response, StreamingResponse

from lycopatch.ui.gallery.previews import NoPreview, OpenedPreview
from lycopatch.ui.gallery.thumbnails import Thumbnails

Open = Callable[[], AbstractContextManager[OpenedPreview]]
"""Opens a preview after all checks. Raises NoPreview."""

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; media-src 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""For whatever a stranger made: a browser must not take it for a page, and pages of others must not show it."""

_A_WEEK = 7 * 24 * 3600
_PIECE = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def thumbnail_answer(
    open_preview: Open, thumbnails: Thumbnails, headers: Mapping[str, str], *, stated: bool
) -> Response:
    """The thumbnail of a picture. ``stated``: its address changes with the preview, so that a browser may keep it."""
    with open_preview() as preview:
        if preview.is_video:
            raise NoPreview("A video has no thumbnail.")
        kept = _kept(f'"{thumbnails.key(preview)}"', _A_WEEK if stated else 0)
        if _is_known(headers, kept["ETag"]):
            return Response(status_code=304, headers=kept)
        made = thumbnails.of(preview)
    more = {**SAFE, **kept}
    if made.problem:
        more["X-LycoPatch-Problem"] = made.problem.encode("ascii", "replace").decode()
    return Response(made.data, media_type=made.media_type, headers=more)


def preview_answer(open_preview: Open, headers: Mapping[str, str]) -> Response:
    """The file itself, or the part of it that was asked for."""
    with open_preview() as preview:
        size, media_type, tag = preview.size, preview.media_type, f'"{preview.size:x}-{preview.mtime_ns:x}"'
    kept = _kept(tag, 0)
    if _is_known(headers, tag):
        return Response(status_code=304, headers=kept)
    start, end, status = 0, size, 200
    more = {**SAFE, **kept, "Accept-Ranges": "bytes"}
    if headers.get("if-range", tag) == tag and (wanted := _RANGE.fullmatch(headers.get("range", "").strip())):
        start, end, status = _part(wanted[1], wanted[2], size)
        if status == 416:
            return Response(status_code=416, headers={**more, "Content-Range": f"bytes */{size}"})
        if status == 206:
            more["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    more["Content-Length"] = str(end - start)
    pieces = _pieces(open_preview, tag, start, end)
    return StreamingResponse(pieces, status, headers=more, media_type=media_type)


def _part(first: str, last: str, size: int) -> tuple[int, int, int]:
    """From where to where (exclusive), and the status: 206, 416 for nothing, 200 for a question that means nothing."""
    if not first and not last:
        return 0, size, 200
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return 0, size, 200
    return (start, end, 206) if start < end else (0, 0, 416)


def _pieces(open_preview: Open, tag: str, start: int, end: int) -> Iterator[bytes]:
    """The bytes, opened when the first are wanted, so that an answer nobody reads holds no file open."""
    with open_preview() as preview:
        if f'"{preview.size:x}-{preview.mtime_ns:x}"' != tag:
            return  # another file by now: an answer that is too short is noticed
        preview.file.seek(start)
        while start < end and (piece := preview.file.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece


def _kept(tag: str, seconds: int) -> dict[str, str]:
    how = f"max-age={seconds}" if seconds else "no-cache"
    return {"ETag": tag, "Cache-Control": f"private, {how}"}


def _is_known(headers: Mapping[str, str], tag: str) -> bool:
    known = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
    return tag in known or "*" in known
