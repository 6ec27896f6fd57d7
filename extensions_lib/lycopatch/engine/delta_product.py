"""Scalar products of deltas, ``⟨A, B⟩ = Σ A[i, j]·B[i, j]``, without multiplying factored ones out.

``⟨U·D, V·E⟩ = tr((UᵀV)(E·Dᵀ))``: two products of the size of the ranks. A product of numbers that are too large for
their dtype is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lycopatch.engine.delta_size import wide
from lycopatch.engine.linalg import Delta, Dense, Hadamard, Kronecker, LowRank, Sum, a_tensor_of, to_dense

_BLOCK_ELEMENTS = 1 << 18
"""So much fits the processor's cache twice."""


def inner(a: Delta, b: Delta) -> float:
    """``⟨A, B⟩ = Σ A[i, j]·B[i, j]`` of two deltas with the same rows; columns that only one has count as 0."""
    cols = min(a.cols, b.cols)
    a, b = (each if each.cols == cols else each.first_columns(cols) for each in (a, b))
    match a, b:
        case Sum(parts=parts), other:
            return sum(inner(part, other) for part in parts)
        case other, Sum(parts=parts):
            return sum(inner(other, part) for part in parts)
        case LowRank(), LowRank():
            up, down = wide(a.up), wide(a.down)
            other_up, other_down = (up, down) if b is a else (wide(b.up), wide(b.down))
            return a.scale * b.scale * float(((up.T @ other_up) * (down @ other_down.T)).sum())
        case (LowRank() as low, Kronecker() as product) | (Kronecker() as product, LowRank() as low):
            return low.scale * product.scale * _low_rank_and_kronecker(low, product)
        case Kronecker(), Kronecker() if a.w1.shape == b.w1.shape and a.w2.shape == b.w2.shape:
            firsts = float((wide(a.w1) * wide(b.w1)).sum())
            return a.scale * b.scale * firsts * float((wide(a.w2) * wide(b.w2)).sum())
        case _:
            return sum(_inner_of_blocks(a, b))


def _low_rank_and_kronecker(low: LowRank, product: Kronecker) -> float:
    """``Σ_r w1ᵀ·U_r·w2 ⊙ D_r``, U_r and D_r being the r-th column and row folded as the two factors are."""
    w1, w2 = wide(product.w1), wide(product.w2)
    ups = wide(low.up).T.reshape(-1, w1.shape[0], w2.shape[0])
    downs = wide(low.down).reshape(-1, w1.shape[1], w2.shape[1])
    return float(((w1.T @ ups @ w2) * downs).sum())


def _inner_of_blocks(a: Delta, b: Delta) -> Iterator[float]:
    like = a_tensor_of(a)
    step = max(1, _BLOCK_ELEMENTS // max(a.cols, 1))
    for start in range(0, a.rows, step):
        rows = min(step, a.rows - start)
        left = torch.zeros(rows, a.cols, dtype=like.dtype, device=like.device)
        a.add_rows(left, start, 1.0)
        right = left
        if b is not a:
            right = torch.zeros_like(left)
            b.add_rows(right, start, 1.0)
        yield float(torch.dot(left.view(-1), right.view(-1)))


@dataclass(frozen=True, slots=True)
class Piece:
    """``weight · delta`` on the rows of a tensor from ``start`` on."""

    delta: Delta
    weight: float
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.delta.rows

    def between(self, start: int, stop: int) -> Piece | None:
        """The part of it on the rows ``start … stop`` of the tensor, if there is one."""
        start, stop = max(start, self.start), min(stop, self.stop)
        if start >= stop:
            return None
        return Piece(rows_of(self.delta, start - self.start, stop - self.start), self.weight, start)


def on_common_rows(left: list[Piece], right: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """The pieces of two networks on the rows that both change; the same lists where these are the same rows."""
    of_left, of_right = _covered(left), _covered(right)
    if of_left == of_right:
        return left, right
    common = _intersection(of_left, of_right)
    return _cut(left, common), _cut(right, common)


def _covered(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """The rows that some pieces cover, as ranges that do not touch."""
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted((piece.start, piece.stop) for piece in pieces):
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(stop, ranges[-1][1])
        else:
            ranges.append((start, stop))
    return ranges


def _intersection(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    pairs = ((max(a, c), min(b, d)) for a, b in some for c, d in others)
    return [(start, stop) for start, stop in pairs if start < stop]


def _cut(pieces: Sequence[Piece], ranges: Sequence[tuple[int, int]]) -> list[Piece]:
    return [part for piece in pieces for start, stop in ranges if (part := piece.between(start, stop))]


def square(pieces: Sequence[Piece]) -> float:
    """‖Σ pieces‖²; several pieces of one network may lie on the same rows."""
    return max(0.0, sum(product_of(left, right) for left in pieces for right in pieces))


def product_of(left: Piece, right: Piece) -> float:
    """⟨left, right⟩ on the rows that both have."""
    start, stop = max(left.start, right.start), min(left.stop, right.stop)
    one, other = left.between(start, stop), right.between(start, stop)
    return one.weight * other.weight * inner(one.delta, other.delta) if one and other else 0.0


def rows_of(delta: Delta, start: int, stop: int) -> Delta:
    """Some rows of a delta; it is multiplied out only where its form has no rows (Kronecker products)."""
    if (start, stop) == (0, delta.rows):
        return delta
    match delta:
        case LowRank(up=up, down=down, scale=scale):
            return LowRank(up[start:stop], down, scale)
        case Hadamard(a=a, b=b, scale=scale):
            a, b = (LowRank(each.up[start:stop], each.down, each.scale) for each in (a, b))
            return Hadamard(a, b, scale)
        case Dense(matrix=matrix, scale=scale):
            return Dense(matrix[start:stop], scale)
        case Sum(parts=parts):
            return Sum(tuple(rows_of(part, start, stop) for part in parts))
        case _:
            return Dense(to_dense(delta).matrix[start:stop])
