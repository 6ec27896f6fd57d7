"""6 · From a live model's tensor names and shapes to its layers, with every path an adapter may call them by."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.families import FAMILIES, clip, mmdit, t5, unet
from lycopatch.engine.families.identity import identify
from lycopatch.engine.families.layers import BoundLayer, Part, Shapes
from lycopatch.engine.families.parts import find_parts
from lycopatch.engine.types import Component

CUSTOM = "custom"
"""The family of a model whose structure is none of the table's, or that alone does not tell (a bare CLIP-L)."""


@dataclass(frozen=True, slots=True)
class BoundModel:
    """A live model: its family, its layers, and what was found where.

    ``candidates``: the families that fit. One for a known model, none for a custom one, several when there is only a
    text encoder. ``prefixes`` and ``namings``: per component, where it hangs and in whose names. ``evidence``: the
    sentences that say why.
    """

    family: str
    candidates: tuple[str, ...]
    variant: str | None
    layers: tuple[BoundLayer, ...]
    prefixes: Mapping[Component, str]
    namings: Mapping[Component, str]
    evidence: tuple[str, ...]


def bind(shapes: Shapes) -> BoundModel:
    """Bind a model given as tensor name → shape: a checkpoint, a WebUI's modules, a pipeline, or one bare part.

    Raises ``UnknownModel`` when nothing in it is a known structure. VAE, buffers and strangers are ignored.
    """
    parts = find_parts(shapes)
    if not parts:
        raise UnknownModel(
            f"none of its {len(shapes)} tensors belongs to a U-Net, an MMDiT or a text encoder of Stable Diffusion"
        )
    identity = identify(parts, FAMILIES)
    return BoundModel(
        family=identity.candidates[0] if len(identity.candidates) == 1 else CUSTOM,
        candidates=identity.candidates,
        variant=identity.variant,
        layers=tuple(layer for part in parts for layer in _bind_part(part)),
        prefixes={part.component: part.prefix for part in parts},
        namings={part.component: part.naming for part in parts},
        evidence=identity.evidence,
    )


def _bind_part(part: Part) -> list[BoundLayer]:
    match part.structure:
        case "unet":
            return unet.bind(part)
        case "mmdit":
            return mmdit.bind(part)
        case "clip":
            return clip.bind(part)
        case "t5":
            return t5.bind(part)


@functools.cache
def references() -> Mapping[str, BoundModel]:
    """Return family name → its usual checkpoint, bound: every layer and path of every family without a live model."""
    return {family.name: bind(family.checkpoint()) for family in FAMILIES}
