"""What reaches the terminal: text made safe, colours where they are wanted, columns, JSON, progress bars.

Names, keys and metadata come from strangers. A control character among them could rewrite the screen or the clipboard,
so nothing is printed that did not go through ``safe`` (for people) or JSON escapes (for programs).
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Refused(Exception):
    """What was asked for can not be done; the text is the reason as a sentence."""


def safe(text: str, limit: int = 1000) -> str:
    """The text on one line with every control and formatting character spelled out, shortened to ``limit``."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[:limit]
    )
    return shown + "…" if len(text) > limit else shown


def paint(text: str, *colours: str) -> str:
    """The text in colour, if the terminal shows colours and the user did not ask for none (NO_COLOR)."""
    if not _wants_colour():
        return text
    return f"\x1b[{';'.join(_COLOURS[colour] for colour in colours)}m{text}\x1b[0m"


def say(line: str = "") -> None:
    """Print a line. Text of others in it went through ``safe`` before."""
    _write(sys.stdout, line + "\n")


def trouble(sentence: str) -> None:
    """Print a sentence about what went wrong to stderr."""
    _write(sys.stderr, safe(sentence) + "\n")


def say_json(value: Any) -> None:
    """Print a value as JSON in ASCII, which is valid everywhere and holds no control character."""
    _write(
        sys.stdout, json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f") + "\n"
    )


def fields(rows: Sequence[tuple[str, str]], indent: str = "  ") -> None:
    """Print names and texts in two columns; a row with an empty name goes on with the one before."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        say(f"{indent}{paint(name.ljust(width), 'dim')}  {text}")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines with aligned columns. Wide characters (Chinese, Japanese, Korean) count as two."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to tell (done, total), drawn as a bar on stderr if that is a terminal and tqdm is installed."""
    bar: Any = None

    def tell(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = _bar(what, total)
        bar.update(done - bar.n)

    try:
        yield tell if sys.stderr.isatty() and _bar("", 0) is not None else _silent
    finally:
        if bar is not None:
            bar.close()


def _silent(done: int, total: int) -> None:
    pass


def _bar(what: str, total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    unit = {"unit": "B", "unit_scale": True} if total > 1_000_000 else {}
    return tqdm(desc=safe(what, 40), total=total, file=sys.stderr, leave=False, delay=0.3, disable=not total, **unit)


def _wants_colour() -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return False
    return os.name != "nt" or "WT_SESSION" in os.environ


def _write(stream: TextIO, text: str) -> None:
    """Also where the terminal's encoding lacks a character, and where a file's name holds bytes that are no text."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
