"""Reading what a page asks: every field is checked, and what is wrong is refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from lycopatch.engine.wording import shown

LONGEST_TEXT = 200_000
"""Of one field, in characters. A question as a whole is bounded where it is read."""


class Refused(Exception):
    """A question that gets no answer but a sentence. ``status``: of HTTP."""

    def __init__(self, sentence: str, status: int = 422) -> None:
        super().__init__(sentence)
        self.status = status


class Asked:
    """The fields of a question, or of a part of it. ``known``: all names that may occur; anything else is refused."""

    def __init__(self, given: object, *known: str, of: str = "the question") -> None:
        if not isinstance(given, Mapping):
            raise Refused(f"In {of}, an object with named values was expected.")
        unknown = [str(name) for name in given if name not in known]
        if unknown:
            raise Refused(f"In {of}, {shown(unknown[0])} is not known; known are: {', '.join(known) or 'none'}.")
        self._given: Mapping[str, Any] = given
        self._of = of

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._given.get(name) is not None

    def given(self, name: str) -> bool:
        """Whether the field is there at all, also as null."""
        return name in self._given

    def text(self, name: str, default: str | None = None, most: int = LONGEST_TEXT) -> str:
        """A text of at most so many characters; without a ``default`` it is required. Null is as if it were missing."""
        value = self._value(name, default)
        if not isinstance(value, str):
            self._refuse(name, "a text")
        if len(value) > most:
            raise Refused(f"In {self._of}, {shown(name)} has more than {most:,} characters.")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; a text of one, too, because addresses have nothing but texts."""
        value = self._value(name, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                self._refuse(name, "a number")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(name, "a number")
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            self._refuse(name, "a number")
        return value

    def whole(self, name: str, default: int | None = None, *, least: int = 0, most: int = 2**53) -> int:
        """A whole number within bounds."""
        value = self.number(name, default)
        if value != int(value) or not least <= value <= most:
            self._refuse(name, f"a whole number from {least} to {most}")
        return int(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Yes or no; in an address 1 or 0."""
        value = self._value(name, default)
        value = {"1": True, "true": True, "0": False, "false": False, 1: True, 0: False}.get(
            value if isinstance(value, (str, int)) else "", value
        )
        if not isinstance(value, bool):
            self._refuse(name, "true or false")
        return value

    def choice(self, name: str, choices: Iterable[str], default: str | None = None) -> str:
        """One of some words."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in choices:
            self._refuse(name, f"one of: {', '.join(choices)}")
        return value

    def texts(self, name: str, most: int, longest: int) -> list[str]:
        """A list of texts; empty when it is missing."""
        value = self.listed(name, most)
        if not all(isinstance(each, str) and len(each) <= longest for each in value):
            self._refuse(name, f"a list of texts of at most {longest} characters")
        return value

    def part(self, name: str, *known: str) -> Asked:
        """The fields of a part; without any when it is missing. In an address it is written as JSON."""
        value = self._value(name, {})
        if isinstance(value, str):
            with contextlib.suppress(Refused):
                value = parsed_json(value)
        if not isinstance(value, Mapping):
            self._refuse(name, "an object with named values")
        return Asked(value, *known, of=shown(name))

    def listed(self, name: str, most: int) -> list[Any]:
        """A list of anything; empty when it is missing."""
        value = self._value(name, [])
        if not isinstance(value, list) or len(value) > most:
            self._refuse(name, f"a list of at most {most} entries")
        return value

    def _value(self, name: str, default: object) -> Any:
        value = self._given.get(name)
        if value is not None:
            return value
        if default is None:
            raise Refused(f"In {self._of}, {shown(name)} is missing.")
        return default

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise Refused(f"In {self._of}, {shown(name)} must be {expected}.")


def parsed_json(text: str | bytes) -> Any:
    """The value that a JSON text says. Raises Refused."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("The question can not be read: it is no valid JSON.", 400) from None
