"""Every oracle case through the whole engine, file to live tensor: the weight is the one its trainer computes.

Each case is written as its trainer writes it, applied to a small model and compared with the float64 reference. The
model is once stored in float32, which shows the error of the arithmetic, and once in the case's own dtype, where the
result has to be the correctly rounded one.

``python -m pytest tests/engine/test_conformance.py -s -k summary`` prints the errors, algorithm by algorithm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lycopatch.engine.report import Report
from oracles import OracleCase, all_cases
from oracles.case import BF16, F16, F32
from small_model import PLACES, Bench, model_with, same_bits

MULTIPLIERS = (1.0, 0.5, -1.0)
BOUND = 1e-6
WIDER = {"peft-adalora-linear-f32": 5e-6}
"""AdaLoRA's trainer divides by the rank + 0.00001: that much the file's configuration does not say."""

ALGORITHMS = (
    "LoRA", "LoCon", "LoHa", "LoKr", "GLoRA", "IA3", "Full", "Norm", "OFT", "BOFT", "HRA", "VeRA", "Set", "T-LoRA",
)  # fmt: skip
MANTISSA_BITS = {F16: 10, BF16: 7}
SMALLEST_EXPONENT = {F16: -14, BF16: -126}


@dataclass
class Measured:
    """What came of one case: reports and live tensors by (model's dtype, multiplier)."""

    case: OracleCase
    weights: dict[tuple[torch.dtype, float], Tensor] = field(default_factory=dict)
    biases: dict[tuple[torch.dtype, float], Tensor | None] = field(default_factory=dict)
    reports: dict[tuple[torch.dtype, float], Report] = field(default_factory=dict)
    zero_changed_nothing: bool = True
    restored: bool = True

    def wanted(self, multiplier: float) -> Tensor:
        """W + m·(W' − W) in float64."""
        return self.case.weight.double() + multiplier * self.case.delta

    def wanted_bias(self, multiplier: float) -> Tensor | None:
        """b + m·(b' − b) in float64; a bias that was not there counts as 0."""
        case = self.case
        if case.reference_bias is None:
            return None
        before = torch.zeros_like(case.reference_bias) if case.bias is None else case.bias.double()
        return before + multiplier * (case.reference_bias - before)

    def error(self, multiplier: float = 1.0) -> float:
        """‖W − W_ref‖ / ‖ΔW_ref‖ in a float32 model (/ ‖W‖ where only the bias is to change)."""
        case = self.case
        size = case.delta.norm() * abs(multiplier) if case.changes_weight else case.weight.double().norm()
        return ((self.weights[F32, multiplier].double() - self.wanted(multiplier)).norm() / size).item()


def measure(case: OracleCase, folder: Path) -> Measured:
    measured = Measured(case)
    for dtype in dict.fromkeys((F32, case.weight.dtype)):
        bias = None if case.bias is None else case.bias.to(dtype)
        bench = Bench(model_with(case.layer_kind, case.weight.to(dtype), bias), folder / str(dtype))
        bench.write(*written(case))
        place = PLACES[case.layer_kind]
        for multiplier in MULTIPLIERS:
            measured.reports[dtype, multiplier] = bench.activate(multiplier)
            measured.weights[dtype, multiplier] = bench.model[f"{place}.weight"].clone()
            live = bench.model.get(f"{place}.bias")
            measured.biases[dtype, multiplier] = None if live is None else live.clone()
        bench.activate(0.0)
        measured.zero_changed_nothing &= bench.is_pristine()
        bench.activate(1.0)
        bench.loader.deactivate()
        measured.restored &= bench.is_pristine()
    return measured


def written(case: OracleCase) -> tuple[dict[str, Tensor], dict[str, object] | None]:
    """The file's tensors under the keys of the case's trainer, and peft's configuration."""
    path = PLACES[case.layer_kind]
    if not case.layer_prefix.endswith("."):
        path = path.replace(".", "_")
    return {f"{case.layer_prefix}{path}.{key}": value for key, value in case.tensors.items()} | case.shared, case.config


class Matrix:
    """All cases by algorithm, measured when first asked for."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._cases: dict[str, list[OracleCase]] = defaultdict(list)
        for case in all_cases():
            self._cases[case.algorithm].append(case)
        self._measured: dict[str, list[Measured]] = {}

    @property
    def algorithms(self) -> set[str]:
        return set(self._cases)

    def all_of(self, algorithm: str) -> list[Measured]:
        if algorithm not in self._measured:
            folder = self._folder(algorithm)
            self._measured[algorithm] = [measure(case, folder / case.id) for case in self._cases[algorithm]]
        return self._measured[algorithm]

    def answered(self, algorithm: str) -> Iterator[Measured]:
        """Without the layers that can only be recognised."""
        return (one for one in self.all_of(algorithm) if one.case.reference_weight is not None)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(tmp_path_factory.mktemp)


def test_the_list_of_algorithms_is_complete(matrix: Matrix):
    assert matrix.algorithms == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_key_is_applied_and_the_layer_is_called_by_its_name(matrix: Matrix, algorithm: str):
    wrong: list[str] = []
    for one in matrix.answered(algorithm):
        for (dtype, multiplier), report in one.reports.items():
            tag = report.tags[0]
            keys = {key for outcome, several in tag.keys.items() if outcome != "applied" for key in several}
            if (
                not report.ok
                or keys
                or tag.layers_applied != 1
                or len(tag.keys["applied"]) != len(written(one.case)[0])
            ):
                wrong.append(f"{one.case.id} in {dtype} at {multiplier}: {report.messages()} {sorted(keys)}")
    assert wrong == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_weight_is_the_one_the_trainer_computes(matrix: Matrix, algorithm: str):
    errors = {one.case.id: one.error() for one in matrix.answered(algorithm)}
    assert errors
    assert {name: error for name, error in errors.items() if not error <= WIDER.get(name, BOUND)} == {}


@pytest.mark.parametrize("multiplier", [0.5, -1.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_multiplier_scales_the_whole_change(matrix: Matrix, algorithm: str, multiplier: float):
    # The live weight is rounded to float32, and half a change is half as large against that rounding.
    errors = {one.case.id: one.error(multiplier) * abs(multiplier) for one in matrix.answered(algorithm)}
    bounds = {one.case.id: one.case.tolerance for one in matrix.answered(algorithm)}
    assert {name: error for name, error in errors.items() if not error <= bounds[name]} == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_weight_in_half_precision_is_rounded_once_and_correctly(matrix: Matrix, algorithm: str):
    wrong: list[str] = []
    numbers = correct = 0
    for one, dtype, multiplier in _in_halves(matrix, algorithm):
        wanted, live = one.wanted(multiplier), one.weights[dtype, multiplier]
        distance = (live.double() - wanted).abs()
        arithmetic = one.case.tolerance * one.case.delta.abs().max() + 2**-24 * wanted.abs()
        if bool((distance > half_unit(wanted, dtype) * 1.001 + arithmetic).any()):
            wrong.append(f"{one.case.id} at {multiplier}: {(distance / half_unit(wanted, dtype)).max():.3f} half units")
        numbers += live.numel()
        correct += int((live == wanted.to(dtype)).sum())
    assert wrong == []
    assert correct >= 0.999 * numbers


def _in_halves(matrix: Matrix, algorithm: str) -> Iterator[tuple[Measured, torch.dtype, float]]:
    for one in matrix.answered(algorithm):
        for dtype, multiplier in one.weights:
            if dtype in MANTISSA_BITS:
                yield one, dtype, multiplier


def half_unit(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit in the last place that each number has in ``dtype``, float64."""
    _, exponent = torch.frexp(numbers)  # mantissa in [0.5, 1)
    exponent = torch.where(numbers == 0, -(2**10), exponent - 1).clamp(min=SMALLEST_EXPONENT[dtype])
    return torch.ldexp(torch.full_like(numbers, 0.5), exponent - MANTISSA_BITS[dtype])


@pytest.mark.parametrize("dtype", MANTISSA_BITS)
def test_half_a_unit_in_the_last_place_is_half_the_distance_to_the_next_number(dtype: torch.dtype):
    precision = torch.finfo(dtype)
    numbers = torch.tensor([1.0, 1.999, -3.0, 0.25, precision.tiny, precision.tiny / 2, 0.0], dtype=torch.float64)
    smallest = precision.tiny * precision.eps
    gaps = torch.tensor([1.0, 1.0, 2.0, 0.25], dtype=torch.float64) * precision.eps
    assert half_unit(numbers, dtype).mul(2).tolist() == [*gaps.tolist(), smallest, smallest, smallest]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bias_is_the_one_the_trainer_computes(matrix: Matrix, algorithm: str):
    wrong: list[str] = []
    for one in matrix.answered(algorithm):
        for (dtype, multiplier), live in one.biases.items():
            wanted = one.wanted_bias(multiplier)
            if (live is None) != (wanted is None):
                wrong.append(f"{one.case.id}: the bias is {live}, it should be {wanted}")
            elif live is not None and wanted is not None:
                unit = half_unit(wanted, dtype) if dtype in MANTISSA_BITS else 0
                allowed = unit * 1.001 + 2**-23 * wanted.abs() + 1e-7
                if bool(((live.double() - wanted).abs() > allowed).any()):
                    wrong.append(f"{one.case.id} in {dtype} at {multiplier}")
    assert wrong == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_multiplier_0_and_deactivating_leave_the_original_bits(matrix: Matrix, algorithm: str):
    measured = matrix.all_of(algorithm)
    assert [one.case.id for one in measured if not one.zero_changed_nothing] == []
    assert [one.case.id for one in measured if not one.restored] == []


def test_a_layer_that_can_not_be_known_is_refused_with_a_reason_and_nothing_is_written(matrix: Matrix):
    refused = [one for one in matrix.all_of("T-LoRA") if one.case.reference_weight is None]
    assert refused
    for one in refused:
        for key, report in one.reports.items():
            assert "stores only half of its change" in report.messages()[0]
            assert len(report.tags[0].keys["skipped"]) == len(one.case.tensors)
            assert same_bits(one.weights[key], one.case.weight.to(key[0]))


PATH = PLACES["linear"]
DIALECTS = [
    f"lycoris_{PATH.replace('.', '_')}",
    f"unet.{PATH}",
    f"unet.base_model.model.{PATH}",
    f"base_model.model.{PATH}",
    f"diffusion_model.{PATH}",
    f"lora_unet.{PATH}",
    PATH,
]
RESPELT = {
    "base_model.model.": {"lora_up.weight": "lora_B.default.weight", "lora_down.weight": "lora_A.default.weight"},
    "unet.": {"lora_up.weight": "lora.up.weight", "lora_down.weight": "lora.down.weight"},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_the_same_tensors_under_another_trainers_names_give_the_same_bits(matrix: Matrix, name: str, tmp_path: Path):
    ends = next((ends for prefix, ends in RESPELT.items() if name.startswith(prefix)), {})
    kohya = [one for a in ALGORITHMS for one in matrix.answered(a) if one.case.id.startswith("lycoris-")]
    tried: set[str] = set()
    for one in kohya:
        case = one.case
        if case.layer_kind != "linear":
            continue
        bench = Bench(model_with("linear", case.weight, case.bias), tmp_path / case.id)
        bench.write({f"{name}.{ends.get(key, key)}": value for key, value in case.tensors.items()})
        assert bench.activate().ok, case.id
        assert same_bits(bench.model[f"{PATH}.weight"], one.weights[case.weight.dtype, 1.0]), case.id
        tried.add(case.algorithm)
    assert tried == {"LoRA", "LoHa", "LoKr", "GLoRA", "IA3", "Full", "OFT", "BOFT"}


def test_summary_of_the_conformance_matrix(matrix: Matrix):
    """Prints the table that the documentation quotes."""
    rows = [f"{'algorithm':<10} {'cases':>5} {'largest error':>14}   f16 and bf16: correctly rounded, of all numbers"]
    total = 0
    for algorithm in ALGORITHMS:
        answered = list(matrix.answered(algorithm))
        errors = [one.error() for one in answered if one.case.id not in WIDER]
        halves = [(one.weights[d, m] == one.wanted(m).to(d)) for one, d, m in _in_halves(matrix, algorithm)]
        share = f"{torch.cat([each.flatten() for each in halves]).double().mean().item():.3%}" if halves else ""
        rows.append(f"{algorithm:<10} {len(answered):>5} {max(errors):>14.1e}   {share}".rstrip())
        total += len(answered)
        assert max(errors) <= BOUND
    rows.append(f"{'all':<10} {total:>5}")
    rows += [f"{case} is held to {bound:.0e} instead of {BOUND:.0e}" for case, bound in WIDER.items()]
    print("\n" + "\n".join(rows))
