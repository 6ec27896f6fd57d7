"""A comparison to look at: the labelled grid of pictures, and the table as rows of text, as CSV and as Markdown."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lycopatch.demo.comparison import Cell, Comparison
from lycopatch.engine.wording import plain, printable, size_text
from lycopatch.ui.markup import first

JUDGE_NOTE = (
    "Stripes, shapes and colours were judged by a small classifier that was trained on this demo's own drawings: "
    "a fair judge of this tiny model, and of nothing else."
)
BASELINE = "no network"

_MOST_TROUBLES = 3
_SIDES = (192, 128, 64)
"""A picture's side in the grid: whole multiples of the embedded model's 64 pixels."""
_MOST_PIXELS = 6_000_000
_MOST_LABEL = 300
_MARGIN = 8
_TITLE, _SMALL = 16, 13  # font sizes
_HEAD = 3 * _MARGIN + _TITLE + _SMALL + 4
_WITHOUT_PICTURES = 3 * _MARGIN + _TITLE + _SMALL
_INK, _PALE, _LINE = (30, 30, 30), (110, 110, 110), (215, 215, 215)


# --- the table


@dataclass(frozen=True)
class _Column:
    """One fact of each cell: as a value (None: unknown), and as the text of it. ``unit``: of the bare value."""

    title: str
    unit: str
    value: Callable[[Cell], Any]
    text: Callable[[Any], str]
    number: bool = True


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The titles, then a row for the pictures without a network and one for each cell. Not escaped for any page."""
    columns = _columns(comparison)
    cells = (comparison.baseline, *comparison.cells)
    texts = [[_text(column, cell) for column in columns] for cell in cells]
    return [[column.title for column in columns], *texts]


def csv_text(comparison: Comparison) -> str:
    """The table with bare numbers. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    columns = _columns(comparison)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([f"{column.title}, {column.unit}" if column.unit else column.title for column in columns])
    for cell in (comparison.baseline, *comparison.cells):
        writer.writerow([_bare(column.value(cell)) for column in columns])
    return written.getvalue()


def markdown(comparison: Comparison) -> str:
    """The table for a page of documentation, and what the judge is if there was one."""
    columns = _columns(comparison)
    head, *rows = [[_escaped(text) for text in row] for row in table_rows(comparison)]
    rule = ["---:" if column.number else "---" for column in columns]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    note = ["", JUDGE_NOTE] if comparison.judged else []
    return "\n".join([*lines, *note, ""])


def _columns(comparison: Comparison) -> list[_Column]:
    """Those that say something about this comparison."""
    judged = [
        _Column("Stripes found", "0 to 1", lambda cell: cell.measures.striped, _percent),
        _Column("Shape and colour kept", "0 to 1", lambda cell: cell.measures.kept, _percent),
    ]
    troubles = _Column("Troubles", "", _troubles, str, number=False)
    return [
        _Column("Network", "", _network, str, number=False),
        _Column("Weight", "", lambda cell: cell.weight if cell.network else None, "{:g}".format),
        _Column("Algorithm", "", lambda cell: plain(cell.file.algorithm) or None, str, number=False),
        _Column("Rank", "", lambda cell: cell.file.rank or None, str),
        _Column("File size", "bytes", lambda cell: cell.file.size, size_text),
        _Column("Layers", "", _layers, str),
        _Column("Apply time", "s", lambda cell: cell.seconds, "{:.3f} s".format),
        _Column("Change of the picture", "0 to 255", lambda cell: cell.measures.change, "{:.1f} / 255".format),
        *(judged if comparison.judged else []),
        _Column("Diversity", "1 without a network", lambda cell: cell.measures.diversity, "{:.2f}".format),
        *([troubles] if any(each.troubles for each in (comparison.baseline, *comparison.cells)) else []),
    ]


def _network(cell: Cell) -> str:
    return plain(cell.network) if cell.network else BASELINE


def _layers(cell: Cell) -> str | None:
    return f"{cell.layers_applied} of {cell.layers_total}" if cell.layers_total else None


def _troubles(cell: Cell) -> str | None:
    return printable(" ".join(first(cell.troubles, _MOST_TROUBLES))) or None


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _text(column: _Column, cell: Cell) -> str:
    value = column.value(cell)
    return "" if value is None else column.text(value)


def _bare(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    begins = unicodedata.normalize("NFKC", value).lstrip()[:1]
    return f"'{value}" if begins in tuple("=+-@") else value


def _escaped(text: str) -> str:
    """One line in which Markdown and HTML see nothing of theirs."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


# --- the grid


@dataclass(frozen=True)
class _Row:
    title: str
    under: str
    pictures: Sequence[Image.Image]
    reason: str = ""
    """Instead of pictures."""


def grid(comparison: Comparison) -> Image.Image:
    """Rows are networks at a weight, columns are seeds, the first row is without a network.

    With one seed and several weights: rows are networks, columns are weights.
    """
    titles, rows = _layout(comparison)
    side = next((each for each in _SIDES if each * each * len(titles) * len(rows) <= _MOST_PIXELS), _SIDES[-1])
    font, small = ImageFont.load_default(size=_TITLE), ImageFont.load_default(size=_SMALL)
    widest = max(max(font.getlength(plain(row.title)), small.getlength(row.under)) for row in rows)
    left = min(int(widest) + 1, _MOST_LABEL) + 2 * _MARGIN
    step = side + _MARGIN
    tops = [_HEAD]
    for row in rows:
        tops.append(tops[-1] + (step if row.pictures else _WITHOUT_PICTURES))
    sheet = Image.new("RGB", (left + step * len(titles), tops[-1]), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), _cut(comparison.prompts[0], font, sheet.width - 2 * _MARGIN), _INK, font)
    for column, title in enumerate(titles):
        middle = left + column * step + side // 2
        pen.text((middle, _HEAD - _MARGIN), _cut(title, small, side), _PALE, small, anchor="ms")
    for row, y in zip(rows, tops, strict=False):
        pen.line((0, y - _MARGIN // 2, sheet.width, y - _MARGIN // 2), _LINE)
        pen.text((_MARGIN, y + _MARGIN), _cut(row.title, font, left - 2 * _MARGIN), _INK, font)
        pen.text((_MARGIN, y + 2 * _MARGIN + _TITLE), row.under, _PALE, small)
        pen.text((left, y + _MARGIN), _cut(row.reason, small, step * len(titles) - _MARGIN), _INK, small)
        for column, picture in enumerate(row.pictures):
            sheet.paste(_fitted(picture, side), (left + column * step, y))
    return sheet


def _layout(comparison: Comparison) -> tuple[list[str], list[_Row]]:
    """The titles of the columns, and the rows."""
    base, weights = comparison.baseline, comparison.weights
    if comparison.settings.batch > 1 or len(weights) == 1:
        first_seed = comparison.settings.seed
        titles = [f"seed {first_seed + number}" for number in range(comparison.settings.batch)]
        rows = [_row(cell, f"weight {cell.weight:g}", cell.pictures) for cell in comparison.cells]
        return titles, [_Row(BASELINE, "", base.pictures), *rows]
    rows = [_Row(BASELINE, "", base.pictures * len(weights))]
    for at in range(0, len(comparison.cells), len(weights)):
        cells = comparison.cells[at : at + len(weights)]
        failed = next((cell for cell in cells if not cell.pictures), None)
        pictures = [] if failed else [picture for cell in cells for picture in cell.pictures]
        rows.append(_row(failed or cells[0], "", pictures))
    return [f"weight {weight:g}" for weight in weights], rows


def _row(cell: Cell, under: str, pictures: Sequence[Image.Image]) -> _Row:
    return _Row(cell.network, under, pictures, "" if pictures else " ".join(cell.troubles))


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """A square of a picture and white; a small picture keeps its hard edges."""
    longest = max(picture.size)
    how = Image.Resampling.NEAREST if side % longest == 0 else Image.Resampling.LANCZOS
    return ImageOps.pad(picture, (side, side), how, "white")


def _cut(text: str, font: Any, width: float) -> str:
    """The text on one line that is no wider, with … where it was cut."""
    line = plain(text)
    if font.getlength(line) <= width:
        return line
    return next((f"{line[:end]}…" for end in range(len(line), 0, -1) if font.getlength(f"{line[:end]}…") <= width), "…")
