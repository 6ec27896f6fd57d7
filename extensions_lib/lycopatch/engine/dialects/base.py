"""What a dialect states: which layer names are its own, and how it spells the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lycopatch.engine.types import Component


class LayerPaths(NamedTuple):
    """A layer of a model by every name its families know: ``paths`` holds (naming, dotted path) pairs."""

    component: Component
    paths: tuple[tuple[str, str], ...]


Spell = Callable[[Sequence[LayerPaths]], Iterator[tuple[str, int]]]
"""Spells a model's layers outwards: yields (name in a file, index of the layer)."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One trainer's way to name layers.

    ``owns`` tells whether a layer name is spelled this way; the dialects exclude each other. ``spell`` yields every
    name that a trainer of this dialect may use for a layer.
    """

    name: str
    title: str
    owns: Callable[[str], bool]
    spell: Spell


_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_OLD_TEXT_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def path_variants(path: str) -> Iterator[str]:
    """A dotted path and the ways in which trainers bend it.

    diffusers' attention processors insert ``processor`` and call ``to_out.0`` ``to_out``, and its first text-encoder
    savers used the U-Net's names for the projections; one converter doubles ``text_model``.
    """
    yield path
    head, _, last = path.rpartition(".")
    if path.endswith(_PROJECTIONS):
        if last == "0":
            yield head
            head, last = head.rpartition(".")[0], "to_out"
        yield f"{head}.processor.{last}"
    elif last in _OLD_TEXT_NAMES and head.endswith("self_attn"):
        yield f"{head}.{_OLD_TEXT_NAMES[last]}"
    if path.startswith("text_model."):
        yield f"text_model.{path}"


def dotted(prefixes: Mapping[Component, Iterable[str]]) -> Spell:
    """Spells ``prefix + dotted path``."""
    return _prefixed(prefixes, "{}".format)


def underscored(prefixes: Mapping[Component, Iterable[str]]) -> Spell:
    """Spells ``prefix + path with underscores``."""
    return _prefixed(prefixes, lambda path: path.replace(".", "_"))


def _prefixed(prefixes: Mapping[Component, Iterable[str]], join: Callable[[str], str]) -> Spell:
    table = {component: tuple(several) for component, several in prefixes.items()}

    def spell(layers: Sequence[LayerPaths]) -> Iterator[tuple[str, int]]:
        for index, layer in enumerate(layers):
            bodies = {join(variant) for _, path in layer.paths for variant in path_variants(path)}
            for prefix in table.get(layer.component, ()):
                for body in bodies:
                    yield prefix + body, index

    return spell


def both(*spells: Spell) -> Spell:
    """Spells everything that any of the given ones does."""

    def spell(layers: Sequence[LayerPaths]) -> Iterator[tuple[str, int]]:
        for one in spells:
            yield from one(layers)

    return spell
