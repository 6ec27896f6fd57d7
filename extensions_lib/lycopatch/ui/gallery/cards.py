"""One network as a card: plain data for a page, with the sentence that says how it fits the loaded model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lycopatch.engine.catalog_query import Row
from lycopatch.engine.recognise import TITLES
from lycopatch.engine.wording import printable

PREFIX = "/lycopatch/ui"
"""Where the routes are."""

MOST_TAGS = 5
_NO_NAME = "No tag can name this file, because of its name or because others are called the same; rename the file."


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model that is loaded. ``family``: as the engine calls it, None when it does not know it."""

    family: str | None
    title: str


def card(row: Row, *, name: str | None, chosen: bool, loaded: Loaded | None) -> dict[str, Any]:
    """A card. ``name``: what a tag calls the network, None when no tag can; ``chosen``: the prompt names it."""
    return {
        "id": row.identity,
        "name": name,
        "why_no_name": None if name is not None else _NO_NAME,
        "stem": row.stem,
        "folder": row.folder,
        "title": row.title or row.stem,
        "label": row.label,
        "kind": row.kind,
        "rank": row.rank,
        "family": row.family,
        "family_title": row.family_title,
        "variant": row.variant,
        "size": row.size,
        "modified": row.mtime_ns / 1e9,
        "fit": row.fit,
        "reason": reason(row, loaded),
        "problem": row.problem,
        "favourite": row.favourite,
        "used": row.used,
        "tags": [tag for tag, _ in row.tags[:MOST_TAGS]],
        "trigger": row.trigger,
        "weight": row.weight,
        "preview": preview_of(row),
        "chosen": chosen,
    }


def reason(row: Row, loaded: Loaded | None) -> str:
    """Why a network fits the loaded model, or does not, in one sentence."""
    made_for = row.family_title or TITLES.get(row.family or "", row.family) or ""
    if row.fit == "damaged":
        return printable(row.error or "The file is damaged.")
    if not made_for:
        return "It does not say for which model it was made."
    if loaded is None:
        return f"Made for {made_for}; no model is loaded to compare it with."
    model = TITLES.get(loaded.family or "", loaded.family) or "of an unknown kind"
    if row.fit == "yes":
        return f"Made for {made_for}, as is the model that is loaded."
    if row.fit == "no":
        return f"Made for {made_for}, but the model that is loaded is {model}."
    return f"Made for {made_for}; whether the model that is loaded ({model}) is one is not known."


def preview_of(row: Row) -> Mapping[str, str | None]:
    """The addresses of a network's picture or video; they change when the files beside the network do."""
    if row.preview_kind is None:
        return {"kind": None, "thumb": None, "full": None}
    version = hashlib.sha256(repr((row.preview, row.beside)).encode("utf-8", "backslashreplace")).hexdigest()[:8]
    thumb = f"{PREFIX}/thumb/{row.identity}?v={version}" if row.preview_kind == "image" else None
    return {"kind": row.preview_kind, "thumb": thumb, "full": f"{PREFIX}/preview/{row.identity}?v={version}"}
