"""Where two networks change the same weights, and whether they pull the same way: cosines of their ΔW, per block.

``cos = ⟨ΔA, ΔB⟩ / (‖ΔA‖·‖ΔB‖)`` over the weights that both change, each ΔW times its multiplier: 1 = the same change,
so the effects add up; 0 = nothing in common; −1 = one takes back what the other does. Biases, some thousandth of a
model, are not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lycopatch.engine.blocks import block_of, block_order
from lycopatch.engine.delta_product import Piece, on_common_rows, product_of, rows_of, square
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.linalg import Delta
from lycopatch.engine.planning import Contribution, TensorPatch
from lycopatch.engine.writing import places

DeltaOf = Callable[[Contribution], "Delta | None"]
"""Reads ΔW at multiplier 1. Raises NotMeasured, or another AdapterError, when that is not possible."""


class NotMeasured(AdapterError):
    """A layer's ΔW can not be known here: the reason, a clause."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class BlockOverlap:
    """Two networks in one block. ``share``: how much of what they do to common weights happens here, 0 … 1."""

    block: str
    cosine: float | None
    share: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two networks (their indexes) on the weights that both change.

    ``cosine`` and the blocks' are None where one of the two changes nothing. ``share``: how much of all that the two
    do happens in common weights, 0 … 1, the mean of both; None when not everything was measured. ``measured`` of
    ``common`` tensors were looked at; ``unmeasured``: reason → tensors.
    """

    a: int
    b: int
    cosine: float | None
    share: float | None
    blocks: tuple[BlockOverlap, ...]
    measured: int
    common: int
    unmeasured: Mapping[str, int]


@dataclass(slots=True)
class _Sums:
    """⟨A, B⟩, ‖A‖² and ‖B‖² over some weights."""

    inner: float = 0.0
    a: float = 0.0
    b: float = 0.0

    def add(self, inner: float, a: float, b: float) -> None:
        self.inner += inner
        self.a += a
        self.b += b

    @property
    def cosine(self) -> float | None:
        size = math.sqrt(self.a) * math.sqrt(self.b)
        return max(-1.0, min(1.0, self.inner / size)) if size else None

    def share_of(self, a: float, b: float) -> float:
        """How much of ``a`` and ``b``, which are sums over more weights, lies in these: the mean of both."""
        return min(1.0, ((self.a / a if a else 0.0) + (self.b / b if b else 0.0)) / 2)


@dataclass(slots=True)
class _Pair:
    a: int
    b: int
    common: int = 0
    measured: int = 0
    blocks: dict[str, _Sums] = field(default_factory=dict[str, _Sums])
    unmeasured: Counter[str] = field(default_factory=Counter[str])

    def result(self, energies: Mapping[int, float | None]) -> Overlap:
        total = _Sums()
        for sums in self.blocks.values():
            total.add(sums.inner, sums.a, sums.b)
        blocks = tuple(
            BlockOverlap(block, self.blocks[block].cosine, self.blocks[block].share_of(total.a, total.b))
            for block in sorted(self.blocks, key=block_order)
        )
        a, b = energies[self.a], energies[self.b]
        share = None if a is None or b is None else total.share_of(a, b)
        return Overlap(self.a, self.b, total.cosine, share, blocks, self.measured, self.common, dict(self.unmeasured))


def overlaps(
    networks: Mapping[int, Mapping[str, TensorPatch]],
    pairs: Sequence[tuple[int, int]],
    delta_of: DeltaOf,
    go_on: Callable[[int, int], bool] = lambda done, total: True,
) -> list[Overlap]:
    """Measure some pairs of networks; each network is given by what it alone would patch, by tensor.

    ``go_on``: told after each tensor (done, total); what it raises cancels, and False ends the measuring.
    """
    found = [_Pair(a, b) for a, b in pairs]
    concerned = {network for pair in pairs for network in pair}
    blocks = {
        name: block_of(patch.contributions[0].target)
        for network in concerned
        for name, patch in networks[network].items()
        if not patch.is_bias
    }
    shared: dict[str, list[_Pair]] = {}
    for name in blocks:
        shared[name] = [pair for pair in found if name in networks[pair.a] and name in networks[pair.b]]
        for pair in shared[name]:
            pair.common += 1
    # what both change first; the rest is only needed to say how much that is of all
    order = sorted(_in_rounds(blocks), key=lambda name: not shared[name])
    energies: dict[int, float | None] = dict.fromkeys(concerned, 0.0)
    for done, name in enumerate(order, 1):
        patches = {network: networks[network][name] for network in concerned if name in networks[network]}
        _measure(blocks[name], patches, shared[name], delta_of, energies)
        if not go_on(done, len(order)) and done < len(order):
            energies = dict.fromkeys(concerned)
            break
    return [pair.result(energies) for pair in found]


def _in_rounds(blocks: Mapping[str, str]) -> list[str]:
    """The tensors, one of each block in turn: whenever the time is over, the whole model was looked at."""
    seen: Counter[str] = Counter()
    turns: dict[str, int] = {}
    for name in sorted(blocks):
        turns[name] = seen[blocks[name]]
        seen[blocks[name]] += 1
    return sorted(turns, key=turns.__getitem__)


def _measure(
    block: str,
    patches: Mapping[int, TensorPatch],
    pairs: Sequence[_Pair],
    delta_of: DeltaOf,
    energies: dict[int, float | None],
) -> None:
    """What the networks do to one tensor, added to each pair and to the networks' energies (None: not known)."""
    deltas: dict[int, list[Piece]] = {}
    squares: dict[int, float] = {}
    reasons: dict[int, str] = {}
    for network, patch in patches.items():
        known = energies[network]
        try:
            deltas[network] = [piece for each in patch.contributions for piece in _pieces(each, patch, delta_of)]
            squares[network] = square(deltas[network])
            if not math.isfinite(squares[network]):
                raise NotMeasured("its numbers are too large to be added up")
            energies[network] = None if known is None else known + squares[network]
        except AdapterError as error:
            reasons[network] = str(getattr(error, "reason", error))
            energies[network] = None
    for pair in pairs:
        if reason := reasons.get(pair.a) or reasons.get(pair.b):
            pair.unmeasured[reason] += 1
            continue
        left, right = on_common_rows(deltas[pair.a], deltas[pair.b])
        if not left or not right:
            pair.common -= 1  # other rows of one tensor
            continue
        product = sum(product_of(one, other) for one in left for other in right)
        a = squares[pair.a] if left is deltas[pair.a] else square(left)
        b = squares[pair.b] if right is deltas[pair.b] else square(right)
        pair.blocks.setdefault(block, _Sums()).add(product, a, b)
        pair.measured += 1


def _pieces(contribution: Contribution, patch: TensorPatch, delta_of: DeltaOf) -> Iterator[Piece]:
    delta = delta_of(contribution)
    if delta is not None:
        for start, stop, offset in places(contribution.target, patch):
            yield Piece(rows_of(delta, offset, offset + stop - start), contribution.multiplier, start)
