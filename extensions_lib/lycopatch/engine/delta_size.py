"""How large a ΔW is, without multiplying it out where its form allows: its Frobenius norm and its spectral norm.

Both work on whatever device and in whatever dtype the factors are; sums are made in float64 where the device has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from lycopatch.engine.linalg import Delta, Dense, Hadamard, Kronecker, LowRank, Sum, a_tensor_of, to_dense

_BLOCK_ELEMENTS = 1 << 20
_MOST_STEPS = 100
_STILL_STEPS = 3
_STILL = 1e-5
"""The iteration ends after so many steps that each add less than this share."""

_ROUNDING = 1e-5
"""What is left of a vector below this share of it is rounding."""


def frobenius(delta: Delta) -> float:
    """‖ΔW‖, the root of the sum of all squares."""
    match delta:
        case LowRank(scale=scale):
            # ‖U·D‖² = tr(UᵀU · D·Dᵀ), two products of the size of the rank
            up, down = wide(delta.up), wide(delta.down)
            return abs(scale) * math.sqrt(max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0))
        case Kronecker(w1=w1, w2=w2, scale=scale):
            return abs(scale) * length(w1) * length(w2)
        case Dense(matrix=matrix, scale=scale):
            return abs(scale) * length(matrix)
        case _:
            return math.sqrt(sum(_squares(delta)))


def spectral(delta: Delta) -> float:
    """σmax(ΔW), the most by which ΔW can lengthen a vector, to 1 %; the same each time."""
    match delta:
        case Kronecker(w1=w1, w2=w2, scale=scale):
            return abs(scale) * spectral(Dense(w1)) * spectral(Dense(w2))
        case _:
            return _iterated(delta)


def length(tensor: Tensor) -> float:
    """The root of the sum of squares of a tensor of any shape."""
    flat = tensor.reshape(-1)
    # by parts, which in more digits are no large copy
    parts = (flat[start : start + _BLOCK_ELEMENTS] for start in range(0, flat.numel(), _BLOCK_ELEMENTS))
    return math.sqrt(sum(float(wide(part).square().sum()) for part in parts))


def wide(tensor: Tensor) -> Tensor:
    """A tensor in the widest dtype that its device has, for sums."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _squares(delta: Delta) -> Iterator[float]:
    """The sum of squares of each block of rows."""
    like = a_tensor_of(delta)
    step = max(1, _BLOCK_ELEMENTS // max(delta.cols, 1))
    for start in range(0, delta.rows, step):
        block = torch.zeros(min(step, delta.rows - start), delta.cols, dtype=like.dtype, device=like.device)
        delta.add_rows(block, start, 1.0)
        yield float(wide(block).square().sum())


def _iterated(delta: Delta) -> float:
    """Power iteration that keeps all its directions (Golub and Kahan 1965): the largest stretch of any mix of them."""
    if not delta.rows or not delta.cols:
        return 0.0
    like = a_tensor_of(delta)
    start = torch.randn(delta.cols, generator=torch.Generator().manual_seed(0)).to(like)
    right = start / length(start)
    lefts, rights = start.new_empty(delta.rows, 0), right[:, None]
    # ΔW times the right directions is the left ones times a matrix with two diagonals
    diagonal: list[float] = []
    above: list[float] = []
    largest, still = 0.0, 0
    while still < _STILL_STEPS and len(diagonal) < min(_MOST_STEPS, delta.rows, delta.cols):
        left, size = _new_direction(_times(delta, right), lefts)
        right, next_size = _new_direction(_transposed_times(delta, left), rights)
        if not math.isfinite(size + next_size):
            return math.inf
        diagonal.append(size)
        above.append(next_size)
        lefts, rights = torch.column_stack([lefts, left]), torch.column_stack([rights, right])
        small = torch.zeros(len(diagonal), len(diagonal) + 1, dtype=torch.float64)
        small.diagonal().copy_(torch.tensor(diagonal))
        small.diagonal(1).copy_(torch.tensor(above))
        # torch ships no types for torch.linalg
        reached = float(cast(Tensor, torch.linalg.matrix_norm(small, 2)))  # pyright: ignore[reportUnknownMemberType]
        still = still + 1 if reached <= largest * (1 + _STILL) else 0
        largest = max(largest, reached)
        if not next_size:
            break  # there are no other directions
    return largest


def _new_direction(vector: Tensor, known: Tensor) -> tuple[Tensor, float]:
    """What of a vector lies in none of the known directions, as a unit vector, and how long it was; 0 for nothing."""
    rest = vector
    for _ in range(2):  # the first time leaves some of them, through rounding
        rest = rest - known @ (known.T @ rest)
    size = length(rest)
    if size <= _ROUNDING * length(vector):
        return torch.zeros_like(rest), 0.0
    return rest / size, size


def _times(delta: Delta, x: Tensor) -> Tensor:
    """``ΔW · x`` for a vector ``x`` ``[cols]``."""
    match delta:
        case LowRank(up=up, down=down, scale=scale):
            return scale * (up @ (down @ x))
        case Hadamard():
            return _hadamard(delta, delta.a.up, delta.a.down.T, delta.b.up, delta.b.down.T, x)
        case Dense(matrix=matrix, scale=scale):
            return scale * (matrix @ x)
        case Sum(parts=parts):
            return torch.stack([_times(part, x) for part in parts]).sum(dim=0)
        case _:
            return _times(to_dense(delta), x)


def _transposed_times(delta: Delta, y: Tensor) -> Tensor:
    """``ΔWᵀ · y`` for a vector ``y`` ``[rows]``."""
    match delta:
        case LowRank(up=up, down=down, scale=scale):
            return scale * (down.T @ (up.T @ y))
        case Hadamard():
            return _hadamard(delta, delta.a.down.T, delta.a.up, delta.b.down.T, delta.b.up, y)
        case Dense(matrix=matrix, scale=scale):
            return scale * (matrix.T @ y)
        case Sum(parts=parts):
            return torch.stack([_transposed_times(part, y) for part in parts]).sum(dim=0)
        case _:
            return _transposed_times(to_dense(delta), y)


def _hadamard(delta: Hadamard, left_a: Tensor, right_a: Tensor, left_b: Tensor, right_b: Tensor, x: Tensor) -> Tensor:
    """``(A ⊙ B)·x`` with ``A = left_a·right_aᵀ``: row i is ``left_a[i]·(right_aᵀ·diag(x)·right_b)·left_b[i]ᵀ``."""
    scale = delta.scale * delta.a.scale * delta.b.scale
    middle = right_a.T @ (right_b * x[:, None])  # [r, r]
    return scale * ((left_a @ middle) * left_b).sum(dim=1)
