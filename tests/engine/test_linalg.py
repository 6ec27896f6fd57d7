"""Factored deltas: any block of rows is the same block of the product that is multiplied out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lycopatch.engine.linalg import (
    Delta,
    Dense,
    Hadamard,
    Kronecker,
    LowRank,
    Sum,
    cayley,
    cayley_neumann,
    flat,
    merge_low_rank,
    scaled,
    skew,
    skew_from_upper,
    to_dense,
    tucker_down,
)

ROWS, COLS = 24, 15


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def low_rank() -> tuple[Delta, Tensor]:
    up, down = numbers(ROWS, 3), numbers(3, COLS)
    return LowRank(up, down, 0.5), 0.5 * up @ down


def hadamard() -> tuple[Delta, Tensor]:
    (a, first), (b, second) = low_rank(), low_rank()
    assert isinstance(a, LowRank)
    assert isinstance(b, LowRank)
    return Hadamard(a, b, 3.0), 3.0 * first * second


def kronecker() -> tuple[Delta, Tensor]:
    w1, w2 = numbers(4, 3), numbers(6, 5)
    return Kronecker(w1, w2, -2.0), -2.0 * torch.kron(w1, w2)


def dense() -> tuple[Delta, Tensor]:
    matrix = numbers(ROWS, COLS)
    return Dense(matrix, 0.25), 0.25 * matrix


def sum_of_all() -> tuple[Delta, Tensor]:
    parts = [make() for make in (low_rank, hadamard, kronecker, dense)]
    return Sum(tuple(delta for delta, _ in parts)), sum((matrix for _, matrix in parts), torch.zeros(ROWS, COLS))


FORMS = [low_rank, hadamard, kronecker, dense, sum_of_all]
Make = Callable[[], "tuple[Delta, Tensor]"]


@pytest.mark.parametrize("make", FORMS)
def test_a_delta_knows_its_size_and_multiplies_out(make: Make):
    delta, matrix = make()
    assert (delta.rows, delta.cols) == (ROWS, COLS)
    torch.testing.assert_close(to_dense(delta).matrix, matrix)


@pytest.mark.parametrize("make", FORMS)
def test_every_block_of_rows_is_that_block_of_the_matrix(make: Make):
    delta, matrix = make()
    for start in range(ROWS):
        for stop in range(start + 1, ROWS + 1):
            before = numbers(stop - start, COLS)
            block = before.clone()
            delta.add_rows(block, start, 0.75)
            torch.testing.assert_close(block, before + 0.75 * matrix[start:stop])


@given(rows=st.integers(1, 5), inner=st.integers(1, 7), cols=st.integers(1, 4), n=st.integers(1, 4), data=st.data())
def test_a_kronecker_product_may_be_cut_anywhere(rows: int, inner: int, cols: int, n: int, data: st.DataObject):
    w1, w2 = numbers(rows, cols), numbers(inner, n)
    start = data.draw(st.integers(0, rows * inner - 1))
    stop = data.draw(st.integers(start + 1, rows * inner))
    block = torch.zeros(stop - start, cols * n, dtype=torch.float64)
    Kronecker(w1, w2).add_rows(block, start, 1.0)
    torch.testing.assert_close(block, torch.kron(w1, w2)[start:stop])


@pytest.mark.parametrize("make", FORMS)
def test_the_first_columns_are_those_of_the_matrix(make: Make):
    delta, matrix = make()
    torch.testing.assert_close(to_dense(delta.first_columns(7)).matrix, matrix[:, :7])


@pytest.mark.parametrize("make", FORMS)
def test_scaling_touches_no_tensor(make: Make):
    delta, matrix = make()
    torch.testing.assert_close(to_dense(scaled(delta, -1.5)).matrix, -1.5 * matrix)
    torch.testing.assert_close(to_dense(delta).matrix, matrix)


def test_what_is_no_delta_can_not_be_scaled_or_multiplied_out():
    with pytest.raises(TypeError, match="unknown delta form str"):
        scaled("delta", 2.0)  # type: ignore[arg-type]


def test_low_rank_deltas_are_joined_and_the_others_left():
    made = [make() for make in (low_rank, dense, low_rank, kronecker, low_rank)]
    weights = [0.5, 2.0, -1.0, 1.0, 0.25]
    merged = merge_low_rank([(delta, weight) for (delta, _), weight in zip(made, weights, strict=True)])
    assert [type(delta).__name__ for delta, _ in merged] == ["LowRank", "Dense", "Kronecker"]
    total = torch.zeros(ROWS, COLS, dtype=torch.float64)
    for delta, weight in merged:
        delta.add_rows(total, 0, weight)
    wanted = sum((weight * matrix for (_, matrix), weight in zip(made, weights, strict=True)), torch.zeros(1))
    torch.testing.assert_close(total, wanted)


def test_one_low_rank_delta_is_left_as_it_is():
    (delta, _), (other, _) = low_rank(), dense()
    assert merge_low_rank([(delta, 0.5), (other, 1.0)]) == [(delta, 0.5), (other, 1.0)]


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 4, 3, 3)])
def test_a_weight_is_seen_as_a_matrix(shape: tuple[int, ...]):
    assert flat(numbers(*shape)).shape == (6, max(1, torch.Size(shape).numel() // 6))


def test_a_tucker_core_folds_into_the_input_factor():
    core, down = numbers(3, 5, 2, 4), numbers(5, 7)
    wanted = torch.einsum("pqxy,qi->pixy", core, down).reshape(3, -1)
    torch.testing.assert_close(tucker_down(core, down), wanted)
    torch.testing.assert_close(tucker_down(core, down[:, :, None, None]), wanted)


def test_a_triangle_of_numbers_fills_row_by_row():
    q = skew_from_upper(torch.tensor([[1.0, 2.0, 3.0]]), 3)[0]
    assert q.tolist() == [[0, 1, 2], [-1, 0, 3], [-2, -3, 0]]


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_cayleys_transform_of_a_skew_matrix_is_a_rotation(size: int):
    q = skew(numbers(3, size, size))
    rotation = cayley(q)
    identity = torch.eye(size, dtype=q.dtype).expand(3, -1, -1)
    torch.testing.assert_close(rotation @ rotation.mT, identity)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3, dtype=q.dtype))
    torch.testing.assert_close(rotation @ (identity - q), identity + q)


def test_the_series_agrees_with_the_transform_up_to_its_last_term():
    """Five terms, the last with half its factor: what is missing is of the order of Q⁴."""
    q = skew(numbers(1, 6, 6))
    errors = [(cayley_neumann(q * size) - cayley(q * size)).norm().item() for size in (1e-2, 1e-3)]
    assert errors[0] > 0
    assert 0.5e4 < errors[0] / errors[1] < 2e4
