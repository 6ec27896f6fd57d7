"""What a page can ask: which fields each question has, and who answers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lycopatch.engine.catalog_query import ORDERS, Choice, Filters, Query
from lycopatch.engine.patching import Progress
from lycopatch.ui.gallery import words as words_module
from lycopatch.ui.gallery.asked import Asked
from lycopatch.ui.gallery.insertion import Addition
from lycopatch.ui.gallery.lookup import unknown_network
from lycopatch.ui.gallery.service import GalleryService

Answer = Callable[[Mapping[str, Any], str, Progress], Any]
"""The fields of a question, the id in its address, whom to tell the progress → the answer."""

MOST_ROWS = 500
_LONGEST_WORDS = 500
_MOST_CHOICES = 200
_LONGEST_CHOICE = 1000
ID = re.compile(r"[0-9a-f]{16}")
"""Of a network."""

_CHOICES = ("kind", "family", "variant", "folder", "tag", "fit", "problem")
_RANGES = ("rank", "size")
_FLAGS = ("favourite", "used")
_NETWORKS = ("q", "filters", "sort", "descending", "seed", "offset", "limit", "facets", "prompt")


def questions(service: GalleryService) -> list[tuple[str, str, Answer]]:
    """Method and address of each question, and what answers it."""

    def networks(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, *_NETWORKS)
        prompt = asked.text("prompt", "")
        return service.networks(wanted_query(asked), prompt, facets=asked.flag("facets", False))

    def details(given: Mapping[str, Any], identity: str, _progress: Progress) -> Any:
        Asked(given)
        return service.details(identity)

    def influence(given: Mapping[str, Any], identity: str, progress: Progress) -> Any:
        Asked(given)
        return service.influence(identity, progress)

    def health(given: Mapping[str, Any], identity: str, progress: Progress) -> Any:
        Asked(given)
        return service.health(identity, progress)

    def words(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, "id", *words_module.FIELDS)
        return service.write_words(_identity_in(asked), asked)

    def toggle(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, "id", "prompt", "negative", "undo")
        undo = None
        if "undo" in asked:
            part = asked.part("undo", "tag", "words", "negative")
            undo = Addition(part.text("tag"), part.text("words", ""), part.text("negative", ""))
        return service.toggle(_identity_in(asked), asked.text("prompt", ""), asked.text("negative", ""), undo)

    def favourite(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, "id", "on")
        return service.set_favourite(_identity_in(asked), on=asked.flag("on"))

    def stack(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, "prompt", "negative")
        return service.stack(asked.text("prompt", ""), asked.text("negative", ""))

    def edit(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        asked = Asked(given, "prompt", "index", "action", "value")
        value = asked.number("value") if "value" in asked else None
        return service.edit_stack(asked.text("prompt"), asked.whole("index"), asked.text("action", most=20), value)

    def dry_run(given: Mapping[str, Any], _identity: str, progress: Progress) -> Any:
        asked = Asked(given, "prompt", "negative")
        return service.dry_run(asked.text("prompt", ""), asked.text("negative", ""), progress)

    def refresh(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        Asked(given)
        return service.refresh()

    def scan(given: Mapping[str, Any], _identity: str, _progress: Progress) -> Any:
        Asked(given)
        return service.scan()

    return [
        ("GET", "/networks", networks),
        ("POST", "/networks", networks),
        ("GET", "/networks/{id}", details),
        ("GET", "/influence/{id}", influence),
        ("GET", "/health/{id}", health),
        ("POST", "/words", words),
        ("POST", "/toggle", toggle),
        ("POST", "/favourite", favourite),
        ("POST", "/stack", stack),
        ("POST", "/stack/edit", edit),
        ("POST", "/dry-run", dry_run),
        ("POST", "/refresh", refresh),
        ("GET", "/scan", scan),
    ]


def wanted_query(asked: Asked) -> Query:
    """Which networks are asked for, in which order."""
    return Query(
        words=asked.text("q", "", most=_LONGEST_WORDS),
        filters=_filters(asked.part("filters", *_CHOICES, *_RANGES, *_FLAGS)),
        order=asked.choice("sort", ORDERS, "name"),
        descending=asked.flag("descending", False),
        seed=asked.whole("seed", 0, most=2**32),
        offset=asked.whole("offset", 0, most=10**9),
        limit=asked.whole("limit", 100, least=1, most=MOST_ROWS),
    )


def _filters(asked: Asked) -> Filters:
    ranges: dict[str, Any] = {}
    for name in _RANGES:
        ends = asked.part(name, "min", "max")
        for end in ("min", "max"):
            ranges[f"{name}_{end}"] = ends.whole(end) if end in ends else None
    flags: dict[str, Any] = {name: asked.flag(name) if name in asked else None for name in _FLAGS}
    choices: dict[str, Any] = {name: _choice(asked.part(name, "include", "exclude")) for name in _CHOICES}
    return Filters(**choices, **ranges, **flags)


def _choice(asked: Asked) -> Choice:
    include, exclude = (asked.texts(name, _MOST_CHOICES, _LONGEST_CHOICE) for name in ("include", "exclude"))
    return Choice(frozenset(include), frozenset(exclude))


def _identity_in(asked: Asked) -> str:
    identity = asked.text("id")
    if not ID.fullmatch(identity):
        raise unknown_network()
    return identity
