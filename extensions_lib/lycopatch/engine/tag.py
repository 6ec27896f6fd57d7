"""One tag as text: how it is quoted in a sentence, and how its numbers are read."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from lycopatch.engine.report import Issue

_USUAL = str.maketrans(
    {",": ".", "\u3002": ".", "\u066b": ".", "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u200b": None}
)
"""What keyboards give instead of a point (ideographic, Arabic) and a minus (real minus, dashes); pasted nothings."""

LARGEST_WEIGHT = 1e6
"""Far beyond any use, and small enough that no arithmetic overflows."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as written. Its ``str()`` is a short quotation on one line, for sentences."""

    written: str

    def __str__(self) -> str:
        return quote(self.written)

    def issue(self, kind: str, message: str) -> Issue:
        """A trouble with this tag."""
        return Issue(kind, message, self.written)

    def unclosed(self) -> Issue:
        return self.issue("unclosed", f"The tag {self} is not closed with '>', so it was left out.")

    def weight(self, what: str, text: str | None, default: float) -> float | Issue:
        """A finite multiplier (``default`` when there is no text), or the reason why the text is none."""
        if text is None:
            return default
        value = _number(text)
        if value is None:
            return self._no_number(what, text, "0.8")
        if abs(value) <= LARGEST_WEIGHT:
            return value
        size = "is not finite" if not math.isfinite(value) else "is far too large"
        reason = f"The {what} {quote(text)} in {self} {size} and would spoil the picture"
        return self.issue("bad_number", f"{reason}, so the tag was left out; write a number such as 0.8.")

    def rank(self, text: str | None) -> int | Issue | None:
        """A rank of at least 1 (None when there is no text), or the reason why the text is none."""
        if text is None:
            return None
        try:
            value = int(text)
        except ValueError:
            return self._no_number("rank (dyn)", text, "16")
        if value >= 1:
            return value
        reason = f"The rank (dyn) {quote(text)} in {self} would leave nothing of the network, so the tag was left out"
        return self.issue("bad_number", f"{reason}; write 1 or more, or leave it away for the whole rank.")

    def _no_number(self, what: str, text: str, example: str) -> Issue:
        """Say what was written instead of a number, and what to write."""
        whole = example.isdigit()
        if not text.strip():
            reason = f"The {what} in {self} is empty, so the tag was left out"
            return self.issue("bad_number", f"{reason}; write a number such as {example}.")
        if "\n" in text.strip():
            return self.unclosed()
        thing = _other_language(text)
        if thing:
            reason = f"The {what} {quote(text)} in {self} is {thing}, which is not supported yet"
            return self.issue("unsupported", f"{reason}, so the tag was left out.")
        meant = _suggest(text, whole=whole)
        advice = f"write {meant}" if meant else f"write a number such as {example}"
        reason = f"The {what} {quote(text)} in {self} is not a {'whole ' if whole else ''}number"
        return self.issue("bad_number", f"{reason}, so the tag was left out; {advice}.")


def quote(text: str, limit: int = 60) -> str:
    """A text between quotes on one line, shortened: tags can hold anything, and thousands of characters."""
    start = text[: limit * 4]
    line = " ".join("".join(char if char.isprintable() else " " for char in start).split())
    if len(line) > limit or len(text) > len(start):
        line = line[: limit - 1] + "…"
    return f'"{line}"'


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _other_language(text: str) -> str | None:
    """What other extensions write where a number belongs: keyframes, or one weight per block (12 or more)."""
    if "@" in text or "~" in text:
        return "a schedule over the steps"
    if text.count(",") >= 11:
        return "a list of block weights"
    return None


def _suggest(text: str, *, whole: bool) -> str | None:
    """The number that was probably meant: ``0,8`` → ``0.8``, ``80%`` → ``0.8``, ``(1.2)`` → ``1.2``; else None."""
    plain = unicodedata.normalize("NFKC", text).translate(_USUAL)
    plain = plain.strip(" \t\n\"'()[]{}=").rstrip(".;")
    value = _number(plain.removesuffix("%"))
    if value is None:
        return None
    if plain.endswith("%"):
        value /= 100
    if not math.isfinite(value) or (whole and (value < 1 or value != int(value))):
        return None
    return f"{value:g}"
