"""Pure tensor maths shared by the algorithms: weight deltas that stay factored, rotations, Tucker cores.

A ``Delta`` is ΔW of one layer seen as a matrix ``[rows, cols]`` (a convolution's kernel is flattened into the columns).
It is never multiplied out as a whole unless an algorithm leaves no other way: the patcher adds it, a block of rows at a
time, to an accumulator that is small enough to stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor


class Delta(Protocol):
    """ΔW of one layer, ``[rows, cols]``, before the user's multiplier."""

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        """Add ``weight ·`` rows ``start … start + len(acc)`` of ΔW to ``acc`` ``[n, cols]`` in place."""
        ...

    def first_columns(self, cols: int) -> Delta:
        """The same delta cut to its first ``cols`` columns."""
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """``scale · up @ down``: ``up`` ``[rows, r]``, ``down`` ``[r, cols]``."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def rows(self) -> int:
        return self.up.shape[0]

    @property
    def cols(self) -> int:
        return self.down.shape[1]

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        acc.addmm_(self.up[start : start + acc.shape[0]], self.down, alpha=self.scale * weight)

    def first_columns(self, cols: int) -> LowRank:
        return LowRank(self.up, self.down[:, :cols], self.scale)


@dataclass(frozen=True, slots=True)
class Hadamard:
    """``scale · (a.up @ a.down) ⊙ (b.up @ b.down)``; the two factors' own scales count as well."""

    a: LowRank
    b: LowRank
    scale: float = 1.0

    @property
    def rows(self) -> int:
        return self.a.rows

    @property
    def cols(self) -> int:
        return self.a.cols

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        stop = start + acc.shape[0]
        left = self.a.up[start:stop] @ self.a.down
        right = self.b.up[start:stop] @ self.b.down
        # measured faster than one addcmul_, which reads three operands at once
        acc.add_(left.mul_(right), alpha=self.scale * self.a.scale * self.b.scale * weight)

    def first_columns(self, cols: int) -> Hadamard:
        return Hadamard(self.a.first_columns(cols), self.b.first_columns(cols), self.scale)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """``scale · (w1 ⊗ w2)``: ``w1`` ``[l, m]``, ``w2`` ``[k, n]`` with a kernel flattened into ``n``.

    Row ``i·k + j`` is ``w1[i] ⊗ w2[j]``; nothing of size ``[l·k, m·n]`` is ever built.
    """

    w1: Tensor
    w2: Tensor
    scale: float = 1.0

    @property
    def rows(self) -> int:
        return self.w1.shape[0] * self.w2.shape[0]

    @property
    def cols(self) -> int:
        return self.w1.shape[1] * self.w2.shape[1]

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        group = self.w2.shape[0]
        weight = weight * self.scale
        row = 0
        while row < acc.shape[0]:
            outer, inner = divmod(start + row, group)
            whole = (acc.shape[0] - row) // group if inner == 0 else 0
            if whole:
                taken = whole * group
                w1, w2 = self.w1[outer : outer + whole], self.w2
            else:
                taken = min(group - inner, acc.shape[0] - row)
                w1, w2 = self.w1[outer : outer + 1], self.w2[inner : inner + taken]
            view = acc[row : row + taken].view(w1.shape[0], w2.shape[0], w1.shape[1], w2.shape[1])
            view.addcmul_(w1[:, None, :, None], w2[None, :, None, :], value=weight)
            row += taken

    def first_columns(self, cols: int) -> Dense:
        return to_dense(self).first_columns(cols)


@dataclass(frozen=True, slots=True)
class Dense:
    """``scale · matrix``, ``matrix`` ``[rows, cols]``: for deltas that have no smaller form."""

    matrix: Tensor
    scale: float = 1.0

    @property
    def rows(self) -> int:
        return self.matrix.shape[0]

    @property
    def cols(self) -> int:
        return self.matrix.shape[1]

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        acc.add_(self.matrix[start : start + acc.shape[0]], alpha=self.scale * weight)

    def first_columns(self, cols: int) -> Dense:
        return Dense(self.matrix[:, :cols], self.scale)


@dataclass(frozen=True, slots=True)
class Sum:
    """Several deltas of the same shape, added."""

    parts: tuple[Delta, ...]

    @property
    def rows(self) -> int:
        return self.parts[0].rows

    @property
    def cols(self) -> int:
        return self.parts[0].cols

    def add_rows(self, acc: Tensor, start: int, weight: float) -> None:
        for part in self.parts:
            part.add_rows(acc, start, weight)

    def first_columns(self, cols: int) -> Sum:
        return Sum(tuple(part.first_columns(cols) for part in self.parts))


def scaled(delta: Delta, factor: float) -> Delta:
    """``factor · delta`` without touching a tensor."""
    match delta:
        case LowRank() | Hadamard() | Kronecker() | Dense():
            return replace(delta, scale=delta.scale * factor)
        case Sum(parts=parts):
            return Sum(tuple(scaled(part, factor) for part in parts))
        case _:
            raise TypeError(f"unknown delta form {type(delta).__name__}")


def to_dense(delta: Delta) -> Dense:
    """The delta multiplied out, in the dtype and on the device of its tensors."""
    if isinstance(delta, Dense) and delta.scale == 1.0:
        return delta
    like = a_tensor_of(delta)
    matrix = torch.zeros(delta.rows, delta.cols, dtype=like.dtype, device=like.device)
    delta.add_rows(matrix, 0, 1.0)
    return Dense(matrix)


def a_tensor_of(delta: Delta) -> Tensor:
    """One of the delta's tensors, for the dtype and device that all of them have."""
    match delta:
        case LowRank(up=tensor) | Kronecker(w1=tensor) | Dense(matrix=tensor) | Hadamard(a=LowRank(up=tensor)):
            return tensor
        case Sum(parts=parts):
            return a_tensor_of(parts[0])
        case _:
            raise TypeError(f"unknown delta form {type(delta).__name__}")


def merge_low_rank(weighted: Sequence[tuple[Delta, float]]) -> list[tuple[Delta, float]]:
    """Deltas of one matrix with their weights, all low-rank ones joined into one product.

    ``Σ wᵢ·upᵢ@downᵢ`` is one product of rank ``Σ rᵢ``: a stack of networks then costs one pass over the weight.
    """
    low: list[tuple[LowRank, float]] = []
    rest: list[tuple[Delta, float]] = []
    for delta, weight in weighted:
        if isinstance(delta, LowRank):
            low.append((delta, weight))
        else:
            rest.append((delta, weight))
    if len(low) < 2:
        return list(weighted)
    up = torch.cat([delta.up * (delta.scale * weight) for delta, weight in low], dim=1)
    down = torch.cat([delta.down for delta, _ in low], dim=0)
    return [(LowRank(up, down), 1.0), *rest]


def flat(tensor: Tensor) -> Tensor:
    """A weight as a matrix: ``[d0, d1·d2·…]``; a vector becomes one column."""
    return tensor.reshape(tensor.shape[0] if tensor.dim() else 1, -1)


def matrix_size(tensor: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight seen as a matrix; a single number is one row."""
    rows = tensor.shape[0] if tensor.dim() else 1
    return rows, tensor.numel() // max(rows, 1)


def tucker_down(core: Tensor, down: Tensor) -> Tensor:
    """``out[p, i·x·y] = Σ_q core[p, q, x, y] · down[q, i]``: a Tucker core folded into the input factor."""
    folded = torch.einsum("pqxy,qi->pixy", core, down.reshape(down.shape[0], -1))
    return folded.reshape(core.shape[0], -1)


def norm(tensor: Tensor, axes: tuple[int, ...] | None = None, *, keep: bool = False) -> Tensor:
    """The Euclidean norm over ``axes`` (all when None)."""
    # torch ships no types for torch.linalg
    return cast(Tensor, torch.linalg.vector_norm(tensor, dim=axes, keepdim=keep))  # pyright: ignore[reportUnknownMemberType]


def skew(matrix: Tensor) -> Tensor:
    """``B − Bᵀ`` over the last two axes."""
    return matrix - matrix.transpose(-1, -2)


def skew_from_upper(values: Tensor, size: int) -> Tensor:
    """Skew-symmetric ``[…, n, n]`` whose strictly upper triangle, row by row, is ``values`` ``[…, n(n−1)/2]``."""
    rows, cols = torch.triu_indices(size, size, offset=1, device=values.device)
    upper = values.new_zeros(*values.shape[:-1], size, size)
    upper[..., rows, cols] = values
    return upper - upper.transpose(-1, -2)


def cayley(q: Tensor) -> Tensor:
    """``(I + Q)(I − Q)⁻¹`` of a batch of skew-symmetric ``[…, n, n]``: a rotation. ValueError when Q is too large."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    # (I + Q) and (I − Q)⁻¹ commute, so solving from the left gives the same product.
    rotation, info = cast("tuple[Tensor, Tensor]", torch.linalg.solve_ex(eye - q, eye + q))  # pyright: ignore[reportUnknownMemberType]
    if bool(info.any()):
        raise ValueError("its numbers are too large for a rotation")
    return rotation


def cayley_neumann(q: Tensor) -> Tensor:
    """``I + 2Q + 2Q² + 2Q³ + Q⁴``: peft's five-term series for the Cayley transform (``tuners/oft/layer.py``)."""
    eye = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    q2 = q @ q
    return eye + 2 * q + 2 * q2 + 2 * (q2 @ q) + q2 @ q2
