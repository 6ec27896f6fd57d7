"""The values of a file's metadata: texts that may be numbers, JSON, pictures or nonsense, of any length.

Everything in there was written by strangers. What can not be understood is None or empty; nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, cast

from lycopatch.engine.wording import printable

LONGEST_TEXT = 2000
LONGEST_KEY = 200
MOST_SHOWN = 1000
_LONGEST_JSON = 1 << 24  # characters; the tag counts of a large training set are some hundred thousand
_LONGEST_NUMBER = 40
_LARGEST_COUNT = 2**53

PICTURES = frozenset({"ssmd_cover_images", "modelspec.thumbnail", "thumbnail"})
"""Entries of up to megabytes; who wants to show them reads the file."""

_PRIVATE = frozenset({"ot_config"})
_LOCAL_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/]")


def presentable(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without pictures and private paths, long values cut: some hundred kilobytes at most."""
    shown: dict[str, str] = {}
    for number, (key, value) in enumerate(metadata.items()):
        if number == MOST_SHOWN:
            shown["…"] = f"{len(metadata) - number} more entries"
            break
        if key in PICTURES or value.startswith("data:image/"):
            value = f"(a picture, {len(value)} characters)"
        elif key in _PRIVATE:
            value = f"(the trainer's whole configuration, {len(value)} characters)"
        elif len(value) > LONGEST_TEXT:
            value = f"{cut(value)} ({len(value)} characters)"
        shown[cut(key, LONGEST_KEY)] = value
    return shown


def json_value(text: object) -> object:
    if not isinstance(text, str) or not 1 < len(text) <= _LONGEST_JSON:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return None


def json_object(text: object) -> dict[str, Any]:
    return as_dict(json_value(text))


def as_dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def as_text(value: object) -> str | None:
    """A text that says something; trainers write the word None where there is nothing."""
    if not isinstance(value, str) or value.strip() in ("", "None", "null"):
        return None
    return cut(value.strip())


def as_number(value: object) -> int | float | None:
    """A finite number, also one written as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < _LARGEST_COUNT else number


def as_plain(value: object) -> str | int | float | bool | None:
    """A single value as it is: a truth, a number, or a text that is neither."""
    if isinstance(value, bool):
        return value
    number = as_number(value)
    return as_text(value) if number is None else number


def as_count(value: object) -> int:
    """A whole number above 0, or 0 for anything else."""
    if type(value) is int and 0 < value < _LARGEST_COUNT:  # nearly always, and thousands of times a file
        return value
    number = as_number(value)
    return number if isinstance(number, int) and number > 0 else 0


def as_moment(value: object) -> str | None:
    """Unix seconds as a date and time in UTC."""
    seconds = as_number(value)
    if seconds is None or seconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def without_folder(path: str) -> str:
    """The last part of what is a path on somebody's computer; names with a slash (``author/model``) stay."""
    if _LOCAL_PATH.match(path) or "\\" in path:
        return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return path


def cut(text: str, limit: int = LONGEST_TEXT) -> str:
    """The start of a text, without the halves of characters that JSON may hold and no file can."""
    start = printable(text[:limit])
    return start + "…" if len(text) > limit else start
