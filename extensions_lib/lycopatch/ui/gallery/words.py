"""What a page changes of the user's words about a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lycopatch.engine.tag import LARGEST_WEIGHT
from lycopatch.ui.gallery.asked import Asked, Refused
from lycopatch.ui.sidecar import MOST_GROUPS, Sidecar, as_groups, as_range

FIELDS = (
    "description",
    "notes",
    "activation_text",
    "negative_text",
    "sd_version",
    "preferred_weight",
    "weight_range",
    "groups",
)
_TEXTS = FIELDS[:5]
_MOST_TEXT = 1 << 16


def changed(before: Sidecar, asked: Asked) -> Sidecar:
    """The words with those fields changed that the question has; null takes a field's contents away."""
    changes: dict[str, Any] = {name: asked.text(name, "", most=_MOST_TEXT) for name in _TEXTS if asked.given(name)}
    if asked.given("preferred_weight"):
        weight = asked.number("preferred_weight", 0.0)
        if abs(weight) > LARGEST_WEIGHT:
            raise Refused("This weight is far too large and would spoil the picture.")
        changes["preferred_weight"] = float(weight)
    if asked.given("weight_range"):
        ends = asked.listed("weight_range", 2)
        changes["weight_range"] = as_range(ends)
        if ends and changes["weight_range"] is None:
            raise Refused("The range of weights must be two numbers, the smaller first.")
    if asked.given("groups"):
        groups = asked.listed("groups", MOST_GROUPS)
        changes["groups"] = as_groups(groups)
        if len(changes["groups"]) < len(groups):
            raise Refused("Each group needs a name and a list of words.")
    return replace(before, **changes)
