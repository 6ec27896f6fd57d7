"""Frobenius and spectral norm of a ΔW in every form agree with torch's of the matrix that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lycopatch.engine import delta_size
from lycopatch.engine.delta_size import frobenius, spectral
from lycopatch.engine.linalg import Delta, Dense, Hadamard, Kronecker, LowRank, Sum, to_dense

WITHIN = 0.01


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def _with_values(values: Tensor) -> Tensor:
    """A square matrix of these singular values."""
    left, _ = torch.linalg.qr(_normal(len(values), len(values)))
    right, _ = torch.linalg.qr(_normal(len(values), len(values), seed=2))
    return left @ torch.diag(values) @ right


def _low(rows: int, rank: int, cols: int, scale: float = 1.0, seed: int = 1) -> LowRank:
    return LowRank(_normal(rows, rank, seed=seed), _normal(rank, cols, seed=seed), scale)


FORMS: dict[str, Delta] = {
    "low rank": _low(96, 8, 200, 0.3),
    "low rank, negative": _low(96, 8, 200, -2.0),
    "rank above the sides": _low(20, 40, 30),
    "high rank": _low(300, 280, 290),
    "one rank": _low(64, 1, 64),
    "two parallel directions": LowRank(_normal(50, 1).repeat(1, 3), _normal(1, 40).repeat(3, 1)),
    "hadamard": Hadamard(_low(64, 4, 90, 2.0), _low(64, 4, 90, 0.5, seed=2), -0.7),
    "hadamard of other ranks": Hadamard(_low(64, 3, 90), _low(64, 6, 90, seed=2)),
    "kronecker": Kronecker(_normal(6, 8), _normal(20, 27), 1.5),
    "dense": Dense(_normal(120, 300), -0.1),
    "flat spectrum": Dense(_with_values(torch.ones(100))),
    "values close together": Dense(_with_values(torch.linspace(1, 0.9, 300))),
    "one value above many equal ones": Dense(_with_values(torch.cat([torch.tensor([1.05]), torch.ones(199)]))),
    "tiny": Dense(_normal(40, 30) * 1e-30),
    "huge": Dense(_normal(40, 30) * 1e15),
    "a row": Dense(_normal(1, 50)),
    "a column": Dense(_normal(50, 1)),
    "a number": Dense(_normal(1, 1)),
    "a sum": Sum((Dense(_normal(60, 50)), _low(60, 4, 50, 3.0))),
    "a sum of a product": Sum((Kronecker(_normal(6, 5), _normal(10, 10)), _low(60, 4, 50))),
    "a sum of nothing": Sum((_low(60, 4, 50), _low(60, 4, 50, -1.0))),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_frobenius_norm_is_that_of_the_whole_matrix(name: str):
    delta = FORMS[name]
    expected = to_dense(delta).matrix.double().norm().item()
    assert frobenius(delta) == pytest.approx(expected, rel=1e-5, abs=1e-4 if name == "a sum of nothing" else 0)


@pytest.mark.parametrize("name", FORMS)
def test_the_spectral_norm_is_that_of_the_whole_matrix_to_one_percent(name: str):
    delta = FORMS[name]
    expected = torch.linalg.matrix_norm(to_dense(delta).matrix.double(), 2).item()
    assert spectral(delta) == pytest.approx(expected, rel=WITHIN, abs=1e-4 if name == "a sum of nothing" else 0)


def test_zeros_have_no_size():
    for delta in (
        LowRank(torch.zeros(8, 2), _normal(2, 6)),
        Hadamard(LowRank(torch.zeros(8, 2), _normal(2, 6)), _low(8, 2, 6)),
        Kronecker(torch.zeros(2, 2), _normal(3, 3)),
        Dense(torch.zeros(5, 4)),
        Dense(torch.zeros(0, 4)),
        Dense(torch.zeros(4, 0)),
    ):
        assert (frobenius(delta), spectral(delta)) == (0.0, 0.0)


def test_the_answer_is_the_same_every_time_and_leaves_the_random_generator_alone():
    state = torch.get_rng_state()
    dense = FORMS["values close together"]
    assert spectral(dense) == spectral(dense)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_iteration_ends_also_when_nothing_converges(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delta_size, "_STILL_STEPS", 1000)
    delta = FORMS["dense"]
    assert spectral(delta) == pytest.approx(torch.linalg.matrix_norm(to_dense(delta).matrix, 2).item(), rel=WITHIN)


@pytest.mark.parametrize("name", ["low rank", "hadamard", "kronecker", "high rank"])
def test_factors_are_not_multiplied_out(name: str, monkeypatch: pytest.MonkeyPatch):
    largest = 0
    real = torch.zeros

    def watched(*shape: int, **options: object) -> Tensor:
        nonlocal largest
        largest = max(largest, torch.Size(shape).numel())
        return real(*shape, **options)  # type: ignore[arg-type]

    def refused(delta: Delta) -> Dense:
        raise AssertionError("multiplied out")

    monkeypatch.setattr(delta_size, "to_dense", refused)
    monkeypatch.setattr(delta_size, "_BLOCK_ELEMENTS", 1000)
    monkeypatch.setattr(torch, "zeros", watched)
    frobenius(FORMS[name])
    spectral(FORMS[name])
    assert largest <= 1000  # a block of rows


def test_half_precision_factors_are_summed_in_more_digits():
    exact = FORMS["low rank"]
    assert isinstance(exact, LowRank)
    half = LowRank(exact.up.bfloat16(), exact.down.bfloat16(), exact.scale)
    expected = (half.up.double() @ half.down.double() * exact.scale).norm().item()
    assert frobenius(half) == pytest.approx(expected, rel=1e-9)
