"""What a network is known by outside of the engine: in addresses, favourites and counts of use."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

_DIGITS = 16


def identities(files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Path → identity of each file, given with its path below its folder (with extension).

    It is made from the path below the folder, so that folders may move; from the whole path where two files share that.
    It says nothing about either.
    """
    below = dict(files)
    times = Counter(below.values())
    return {path: identity(place if times[place] == 1 else path) for path, place in below.items()}


def identity(place: str) -> str:
    """Sixteen hexadecimal digits of their own for each text."""
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
