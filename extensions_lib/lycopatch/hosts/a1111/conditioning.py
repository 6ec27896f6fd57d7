"""Conditionings that the WebUI kept from an earlier picture and that are no longer true.

The WebUI looks a conditioning up by the prompt and the text of the tags. A network's file may have been replaced since,
or be found only now, or be turned off: the text is the same and the text encoder is not. Each kept conditioning is
remembered here with what the text encoder was when it was made.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from lycopatch.engine.request import TAG_KINDS

Cache = list[Any]
"""``[key, conditioning, …]``: the WebUI's own list, emptied in place because several objects hold it."""

Tags = Mapping[str, Sequence[Any]]
"""Kind of tag → its tags, as the WebUI has them."""


class ConditioningGuard:
    """Knows of each kept conditioning what the text encoder was when it was made."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Hashable]] = []

    def observe(self, caches: Sequence[Cache], state: Hashable) -> None:
        """What was added since the last call was made while the text encoder was ``state``."""
        kept = [cache[1] for cache in caches if cache[0] is not None]
        known = {id(value): made for value, made in self._made}
        self._made = [(value, known.get(id(value), state)) for value in kept]

    def drop_stale(self, caches: Sequence[Cache], tags: Tags | None, state: Hashable) -> int:
        """Empty each cache whose key can not tell that the text encoder has become ``state``; returns how many.

        ``tags``: those of the prompt to come; a cache for other tags is left alone, as the WebUI sees that itself.
        None: whatever the tags are.
        """
        made = {id(value): before for value, before in self._made}
        dropped = 0
        for cache in caches:
            if cache[0] is None or made.get(id(cache[1]), state) == state:
                continue
            if tags is None or any(isinstance(part, dict) and _same_tags(part, tags) for part in cache[0]):
                cache[:] = [None] * len(cache)
                dropped += 1
        return dropped


def _same_tags(data: dict[str, Any], tags: Tags) -> bool:
    return all(list(data.get(kind, ())) == list(tags.get(kind, ())) for kind in TAG_KINDS)
