"""What an algorithm states about itself, and the closed-world decision which one a layer's tensors belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lycopatch.engine.linalg import Delta

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a layer's tensors by canonical suffix."""

Scalars = Mapping[str, float]
"""The values of a layer's one-element tensors by canonical suffix (``alpha``, ``on_input`` …)."""

MODIFIERS = frozenset(
    {
        "alpha",
        "scale",
        "scalar",
        "dora_scale",
        "magnitude",
        "bias",
        "bias_indices",
        "bias_values",
        "bias_size",
        "diff_b",
        "b_norm",
        "lora_bias",
    }
)
"""Suffixes that may accompany any algorithm."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The weight a layer was made for, as far as its shapes tell; ``None`` = they do not.

    ``rows`` = out features, ``cols`` = in features × kernel size, ``inputs`` = in features alone.
    """

    rows: int | None = None
    cols: int | None = None
    inputs: int | None = None

    def mismatch(self, shape: Sequence[int]) -> str | None:
        """Why a weight of ``shape`` ``[out, in, …]`` is not the one, or None when it may be."""
        rows = shape[0]
        kernel = math.prod(shape[2:])
        inputs = shape[1] if len(shape) > 1 else 1
        if self.rows is not None and self.rows != rows:
            return f"it was made for {self.rows} outputs, this model's layer has {rows}"
        if self.inputs is not None and self.inputs != inputs:
            return f"it was made for {self.inputs} inputs, this model's layer has {inputs}"
        if self.cols is not None and self.cols != inputs * kernel:
            return f"it was made for {self.cols} inputs, this model's layer has {inputs * kernel}"
        return None


@dataclass(frozen=True, slots=True)
class Context:
    """What ``delta`` needs to know besides the tensors.

    ``alpha`` is the stored number, None when there is none; ``scalars`` the layer's other one-element tensors;
    ``conventions`` names the trainer's way where tensors alone do not tell: ``kohya_oft``, ``onetrainer``,
    ``exact_cayley``, ``hra_orthogonal``.
    """

    alpha: float | None = None
    dyn_dim: int | None = None
    conventions: frozenset[str] = frozenset()
    scalars: Scalars = field(default_factory=dict[str, float])


class Base(Protocol):
    """The layer's original weight: its shape at once, its numbers only when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to compute in."""
        ...

    def weight(self) -> Tensor:
        """The untouched weight as a matrix ``[out, in·kernel]`` in the compute dtype."""
        ...


def _always(_shapes: Shapes) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Signature:
    """Which tensors make a layer of this algorithm.

    Each of ``forms`` is a sufficient set of suffixes; ``optional`` may be there as well; ``check`` says why the shapes
    can not be this algorithm's (None = they can).
    """

    forms: tuple[frozenset[str], ...]
    optional: frozenset[str] = frozenset()
    check: Callable[[Shapes], str | None] = _always

    def missing(self, suffixes: frozenset[str]) -> frozenset[str]:
        """What the nearest form lacks: the one that lacks least, then the one that has most."""
        nearest = min(self.forms, key=lambda form: (len(form - suffixes), -len(form & suffixes), sorted(form)))
        return nearest - suffixes

    @property
    def own(self) -> frozenset[str]:
        """Every suffix that is this algorithm's."""
        return self.optional.union(*self.forms)

    def unexplained(self, suffixes: frozenset[str]) -> frozenset[str]:
        """Suffixes that neither this algorithm nor a modifier accounts for."""
        return suffixes - self.own - MODIFIERS


class Algorithm:
    """One algorithm: what its tensors are, and ΔW from them. Its files are frozen dataclasses of tensors.

    A field is named as the canonical suffix of the tensor it holds. What is not overridden here is: one name, no rank,
    no refusal, the bias left alone.
    """

    TITLE: ClassVar[str]
    SIGNATURE: ClassVar[Signature]
    NEEDS_BASE: ClassVar[bool] = False  # ΔW depends on the original weight

    @classmethod
    def name(cls, shapes: Shapes) -> str:
        """What a report calls the layer."""
        return cls.TITLE

    @classmethod
    def refusal(cls, shapes: Shapes) -> str | None:
        """Why a recognised layer can not be applied (a clause); None when it can."""
        return None

    @classmethod
    def rank(cls, shapes: Shapes) -> int | None:
        """The rank that alpha is divided by; None when alpha does not scale this layer."""
        return None

    @classmethod
    def footprints(cls, shapes: Shapes, scalars: Scalars) -> tuple[Footprint, ...]:
        """The weights this layer may have been made for, most likely first."""
        return (Footprint(),)

    def delta(self, base: Base, context: Context) -> Delta | None:
        """ΔW before alpha / rank and before the user's multiplier, or None when only the bias changes.

        Raises ValueError with a clause for people when the tensors do not fit the base after all.
        """
        raise NotImplementedError(f"{self.TITLE} is recognised, not applied")

    def bias_delta(self, bias: Tensor, context: Context) -> Tensor | None:
        """Δb at multiplier 1 beyond the additive bias keys; None when the algorithm leaves the bias alone."""
        return None


def require(*suffixes: str) -> tuple[frozenset[str], ...]:
    """One form: all of these."""
    return (frozenset(suffixes),)


@dataclass(frozen=True, slots=True)
class Match:
    """The algorithm of a layer and the suffixes it does not account for."""

    algorithm: type[Algorithm]
    extra: frozenset[str]


@dataclass(frozen=True, slots=True)
class NoMatch:
    """No algorithm: the closest one and why it does not fit."""

    closest: str | None
    why: str


@cache
def _owners(table: tuple[type[Algorithm], ...]) -> Mapping[str, tuple[int, ...]]:
    """Suffix → positions in the table of the algorithms it belongs to: most layers concern one or two."""
    owners: dict[str, tuple[int, ...]] = {}
    for index, algorithm in enumerate(table):
        for suffix in algorithm.SIGNATURE.own:
            owners[suffix] = (*owners.get(suffix, ()), index)
    return owners


def identify(shapes: Shapes, table: tuple[type[Algorithm], ...]) -> Match | NoMatch:
    """The one algorithm that explains a layer, whatever the order of ``table``; or why there is none.

    An algorithm that explains every key wins; failing that, the one whose must-haves are there and that leaves the
    fewest keys over. Two equally good ones are no decision.
    """
    suffixes = frozenset(shapes)
    owners = _owners(table)
    concerned = {index for suffix in suffixes for index in owners.get(suffix, ())}
    candidates: list[tuple[int, type[Algorithm], frozenset[str]]] = []
    refused: list[tuple[int, int, str, str]] = []
    for algorithm in (table[index] for index in sorted(concerned)):
        signature = algorithm.SIGNATURE
        missing = signature.missing(suffixes)
        if missing:
            unexplained = len(signature.unexplained(suffixes))
            refused.append((unexplained, len(missing), algorithm.TITLE, "missing " + ", ".join(sorted(missing))))
            continue
        why = signature.check(shapes)
        if why is not None:
            refused.append((len(signature.unexplained(suffixes)), 0, algorithm.TITLE, why))
            continue
        extra = signature.unexplained(suffixes)
        candidates.append((len(extra), algorithm, extra))
    if not candidates:
        if not refused:
            return NoMatch(None, "its tensors " + ", ".join(sorted(suffixes)) + " belong to no algorithm")
        _, _, closest, why = min(refused)
        return NoMatch(closest, why)
    fewest = min(count for count, _, _ in candidates)
    best = [(algorithm, extra) for count, algorithm, extra in candidates if count == fewest]
    if len(best) > 1:
        titles = " and ".join(sorted(algorithm.TITLE for algorithm, _ in best))
        return NoMatch(titles, "each explains the layer as well as the other")
    return Match(*best[0])
