"""What was computed before, by title and the file's time. Until 1.9 one JSON file, in 1.10 a store per subject."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

_stores: dict[str, dict[str, Any]] = {}


def cache(subsection: str) -> dict[str, Any]:
    return _stores.setdefault(subsection, {})


def dump_cache() -> None: ...


def cached_data_for_file(subsection: str, title: str, filename: str, func: Callable[[], Any]) -> Any:
    """``func()``, or what it returned when the file was last seen; None is not kept."""
    known = cache(subsection)
    written = os.path.getmtime(filename)
    entry = known.get(title)
    if entry is None or written > entry["mtime"]:
        value = func()
        if value is None:
            return None
        entry = known[title] = {"mtime": written, "value": value}
    return entry["value"]
