"""The gallery of networks without its page: cards with previews, and what a click does to a prompt."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from lycopatch.engine.errors import AdapterError
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.wording import printable
from lycopatch.ui.networks import NetworkRow, Networks
from lycopatch.ui.sidecar import read_sidecar, stem_path
from lycopatch.ui.spelling import spelling_of

SIDE = 256
"""Of a card's picture, in pixels."""

MOST_CARDS = 200
_ENDINGS = (".preview.png", ".png", ".preview.jpg", ".jpg", ".preview.jpeg", ".jpeg", ".preview.webp", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_FRAME = (249, 115, 22)  # the colour of gradio's first button
_MOST_BYTES = 32 << 20
_MOST_PIXELS = 40_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addition:
    """What a card adds to a prompt: a tag, and the words that the user wants with it (often none)."""

    tag: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The cards that are shown: their networks, and for each a picture's file and a caption."""

    rows: tuple[NetworkRow, ...]
    cards: list[tuple[str, str]]
    found: int
    total: int


class Gallery:
    """Cards over networks. ``folder``: where it puts small copies of the previews."""

    def __init__(self, networks: Networks, folder: Path) -> None:
        self.networks = networks
        self.folder = folder
        self._lock = threading.Lock()

    def shelf(self, search: str, prompt: str) -> Shelf:
        """The networks in which every word of ``search`` occurs; those that ``prompt`` names have a mark."""
        page = self.networks.page(search, limit=MOST_CARDS)
        chosen = self.chosen(prompt)
        cards = [self._card(row, chosen=row.file.path in chosen) for row in page.rows]
        return Shelf(page.rows, cards, page.found, page.total)

    def chosen(self, prompt: str) -> set[Path]:
        """The files that a prompt names, by whatever name."""
        names = {request.name for request in parse_prompt(prompt).requests}
        return {path for name in names if (path := self._path_of(name))}

    def clicked(self, prompt: str, row: NetworkRow) -> str:
        """The prompt with the network, or without it if it was there. Raises ValueError when no tag can name it."""
        return toggled(prompt, self.addition(row), lambda name: self._path_of(name) == row.file.path)

    def addition(self, row: NetworkRow) -> Addition:
        """The tag with the user's preferred weight, and his activation text. Raises ValueError, see ``clicked``."""
        spelling = spelling_of(row.file, self.networks.catalog(), prefer_alias=False)
        if spelling is None:
            raise ValueError(f'No tag can name "{printable(row.file.stem)}"; rename the file.')
        words = read_sidecar(row.file.path)
        return Addition(f"<lora:{spelling}:{words.preferred_weight or 1:g}>", " ".join(words.activation_text.split()))

    def thumbnail(self, row: NetworkRow, *, chosen: bool = False) -> Path:
        """A picture of ``SIDE`` × ``SIDE`` for a card, framed when ``chosen``; made again when the preview changed."""
        preview = preview_of(row.file.path)
        state = preview.stat() if preview else None
        seen = (preview, state.st_size, state.st_mtime_ns) if state else (row.id, row.file.stem)
        made = self.folder / f"{hashlib.sha256(repr((seen, chosen)).encode()).hexdigest()[:24]}.png"
        with self._lock:
            if not made.exists():
                picture = (preview and read_preview(preview)) or placeholder(row.file.stem)
                (framed(picture) if chosen else picture).save(made)
        return made

    def _card(self, row: NetworkRow, *, chosen: bool) -> tuple[str, str]:
        return str(self.thumbnail(row, chosen=chosen)), caption(row, chosen=chosen)

    def _path_of(self, name: str) -> Path | None:
        try:
            return self.networks.catalog().find(name).path
        except AdapterError:
            return None


def toggled(prompt: str, addition: Addition, is_it: Callable[[str], bool]) -> str:
    """Put a network's tag at the end, or take every tag away for whose name ``is_it`` is true.

    Two clicks give the very same prompt. The words beside a tag go with it only if they still follow it.
    """
    tags = [request.tag for request in parse_prompt(prompt).requests if is_it(request.name)]
    if not tags:
        return " ".join(filter(None, (prompt, addition.tag, addition.words)))
    for tag in tags:
        if tag in prompt:  # else it went with the words of another
            prompt = _without(prompt, tag, addition.words)
    return prompt


def _without(prompt: str, tag: str, words: str) -> str:
    """Take out the first ``tag`` with the words behind it and the blank before it."""
    before, _, after = prompt.partition(tag)
    rest = after.removeprefix(f" {words}") if words else after
    if not rest[:1].isalnum():  # else the words are the beginning of others
        after = rest
    return before[:-1] + after if before.endswith(" ") else before + (after if before else after.removeprefix(" "))


def caption(row: NetworkRow, *, chosen: bool) -> str:
    """A card's text: the name and the algorithm, with a mark when the prompt has the network."""
    trouble = "damaged" if row.file.error else row.algorithm
    return printable(" · ".join(filter(None, (f"{'✓ ' if chosen else ''}{row.name}", trouble))))


def preview_of(network: Path) -> Path | None:
    """The picture beside a network: ``name.preview.png``, ``name.png``, or the same as JPEG or WebP."""
    stem = stem_path(network)
    return next((path for ending in _ENDINGS if (path := Path(stem + ending)).is_file()), None)


def read_preview(file: Path) -> Image.Image | None:
    """A square copy of a picture that a stranger made; None when it is damaged, too large or no picture."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
        with Image.open(file, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"it has {picture.width} × {picture.height} pixels")
            picture.draft("RGB", (SIDE, SIDE))
            return square(picture.convert("RGB"))
    except Exception as error:  # whatever a picture made to do harm brings Pillow to raise
        _log.warning("The preview %s is not shown: %s", file, error)
        return None


def square(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """The middle of a picture as a square; a small picture keeps its hard edges."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    how = Image.Resampling.NEAREST if edge < side else Image.Resampling.LANCZOS
    return picture.resize((side, side), how, (left, top, left + edge, top + edge))


def enlarged(picture: Image.Image, least: int = 384) -> Image.Image:
    """A small picture with each pixel drawn as a square, at least so large; others as they are. Keeps ``info``."""
    times = least // max(picture.size)
    if times < 2:
        return picture
    larger = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    larger.info = dict(picture.info)
    return larger


def placeholder(name: str) -> Image.Image:
    """The picture of a network without one: a colour and the first letter of its name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    background = Image.new("HSV", (16, 16), (digest[0], 70, 150)).convert("RGB")
    ImageDraw.Draw(background).text((8, 8), _letter(name), fill="white", anchor="mm")
    return background.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def framed(picture: Image.Image) -> Image.Image:
    """The picture with a frame, for what is chosen."""
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_FRAME, width=12)
    return picture


def _letter(name: str) -> str:
    """Pillow's own font has the letters of ASCII in every release."""
    return next((each.upper() for each in name if each.isascii() and each.isalnum()), "?")
