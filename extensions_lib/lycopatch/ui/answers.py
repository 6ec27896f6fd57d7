"""What an HTTP answer may say: JSON that every reader accepts, and no places on the disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lycopatch.engine.report import Issue
from lycopatch.engine.wording import printable

_DEEPEST = 20


def as_json(value: Any, depth: int = 0) -> Any:
    """The value without what JSON can not say: NaN and infinity are null, halves of characters are question marks."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (dict, list, tuple)) and depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {printable(str(key)): as_json(each, depth + 1) for key, each in value.items()}
    return [as_json(each, depth + 1) for each in value] if isinstance(value, (list, tuple)) else value


def without_place(issue: Issue) -> str:
    """The sentence, with the bare name of a file or folder where it has its whole path."""
    place = issue.file or ""
    return printable(issue.message.replace(place, Path(place).name) if Path(place).is_absolute() else issue.message)
