"""The oracle itself: it covers what it should, repeats itself to the bit, and agrees with formulas worked by hand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
import torch
from torch import Tensor, nn

from oracles import OracleCase, all_cases, origins
from oracles.case import BF16, F16, F32, Numbers, relative
from oracles.layers import LAYERS, effective_parameters, make_layer


@pytest.fixture(scope="module")
def cases() -> list[OracleCase]:
    return all_cases()


@pytest.fixture(scope="module")
def answered(cases: list[OracleCase]) -> list[OracleCase]:
    return [case for case in cases if case.reference_weight is not None]


# --- the whole list ---------------------------------------------------------------------------------------------------


def test_every_case_has_an_id_of_its_own(cases: list[OracleCase]):
    assert [name for name, count in Counter(case.id for case in cases).items() if count > 1] == []


def test_every_reference_is_finite_float64_of_the_shape_of_its_weight(answered: list[OracleCase]):
    for case in answered:
        for original, reference in ((case.weight, case.reference_weight), (case.bias, case.reference_bias)):
            if reference is not None:
                assert reference.dtype == torch.float64, case.id
                assert reference.isfinite().all(), case.id
                assert original is None or reference.shape == original.shape, case.id


def test_every_case_changes_its_weight_unless_it_says_that_it_does_not(answered: list[OracleCase]):
    sizes = {case.id: relative(case.delta, case.weight.double()) for case in answered}
    for case in answered:
        if case.changes_weight:
            assert 0.05 < sizes[case.id] < 3, (case.id, sizes[case.id])
        else:
            assert sizes[case.id] < case.tolerance, case.id


def test_a_bias_is_there_after_when_it_was_there_before(answered: list[OracleCase]):
    for case in answered:
        assert case.bias is None or case.reference_bias is not None, case.id
    grown = [case.id for case in answered if case.bias is None and case.reference_bias is not None]
    assert grown == ["formula-diff-b-linear-f32"]


def test_only_tlora_without_its_base_has_no_answer(cases: list[OracleCase]):
    unanswered = [case for case in cases if case.reference_weight is None]
    assert unanswered
    assert all(case.algorithm == "T-LoRA" and "base_lambda" not in case.tensors for case in unanswered)


def test_every_algorithm_comes_in_three_dtypes(cases: list[OracleCase]):
    seen: dict[str, set[torch.dtype]] = defaultdict(set)
    for case in cases:
        seen[case.algorithm].add(case.weight.dtype)
    short = {name for name, dtypes in seen.items() if not {F32, F16, BF16} <= dtypes}
    # A replacement has no arithmetic to lose bits in.
    assert short <= {"Set"}, short
    expected = {"LoRA", "LoCon", "LoHa", "LoKr", "GLoRA", "IA3", "Full", "Norm", "OFT", "BOFT", "T-LoRA", "Set"}
    assert set(seen) == expected | {"HRA", "VeRA"}


def test_every_layer_kind_is_used_and_dora_comes_on_both_axes(cases: list[OracleCase]):
    assert {case.layer_kind for case in cases} == set(LAYERS)
    for algorithm in ("LoRA", "LoCon", "LoHa", "LoKr"):
        shapes = [case.tensors["dora_scale"].shape for case in cases if {algorithm, "dora_scale"} <= _words(case)]
        axes = {"in" if shape[0] == 1 else "out" for shape in shapes}
        assert axes == {"in", "out"}, algorithm


def _words(case: OracleCase) -> set[str]:
    return {case.algorithm, *case.tensors}


def test_the_file_is_in_the_dtype_of_the_model_but_for_whole_numbers_and_odd_alphas(cases: list[OracleCase]):
    for case in cases:
        for key, tensor in case.tensors.items():
            special = not tensor.is_floating_point() or key == "alpha" or tensor.element_size() == 1
            assert special or tensor.dtype == case.weight.dtype, (case.id, key)


def test_alpha_seldom_equals_the_rank_since_that_would_hide_a_wrong_scale(cases: list[OracleCase]):
    ranks = [
        (case, case.tensors[key].shape[0])
        for case in cases
        for key in ("lora_down.weight", "hada_w1_b", "a2.weight")
        if {key, "alpha"} <= _words(case)
    ]
    plain = [case.id for case, rank in ranks if _alpha(case) == rank]
    assert len(ranks) > 80
    assert plain == ["lycoris-lora-alpha-is-rank-linear-f32"]


def test_the_cases_are_the_same_every_time_and_leave_the_random_generator_alone(cases: list[OracleCase]):
    before = torch.get_rng_state()
    again = [case for make in origins() for case in make.__wrapped__()]
    assert torch.equal(before, torch.get_rng_state())
    for first, second in zip(cases, again, strict=True):
        assert first.id == second.id
        assert first.tensors.keys() == second.tensors.keys()
        assert all(_same(tensor, second.tensors[key]) for key, tensor in first.tensors.items()), first.id
        assert first.reference_weight is None or _same(first.reference_weight, second.reference_weight), first.id


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))


# --- reading a weight out of a forward pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_an_untouched_layer_is_read_as_what_it_is(kind: str):
    layer = make_layer(kind, Numbers(kind), F32)
    weight, bias = effective_parameters(layer, layer)
    torch.testing.assert_close(weight, layer.weight.data, rtol=0, atol=1e-14)
    if getattr(layer, "bias", None) is not None:
        torch.testing.assert_close(bias, layer.bias.data, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["linear", "conv3x3"])
def test_a_forward_pass_that_no_weight_explains_is_refused(kind: str):
    layer = make_layer(kind, Numbers(kind), F32)
    with pytest.raises(AssertionError, match="is not the operation of a"):
        effective_parameters(lambda x: layer(x).relu(), layer)


def test_a_convolution_that_wraps_around_its_borders_is_refused():
    layer = make_layer("conv3x3", Numbers("border"), F32)
    wrapping = nn.Conv2d(10, 24, 3, padding=1, padding_mode="circular", dtype=torch.float64).requires_grad_(False)
    with pytest.raises(AssertionError, match="is not the operation of a Conv2d"):
        effective_parameters(wrapping, layer)


# --- formulas by hand -------------------------------------------------------------------------------------------------


def _case(cases: list[OracleCase], name: str) -> tuple[OracleCase, dict[str, Tensor]]:
    case = next(case for case in cases if case.id == name)
    return case, {key: tensor.double() for key, tensor in case.tensors.items()}


def _alpha(case: OracleCase) -> float:
    return case.tensors["alpha"].double().item()


def _agree(case: OracleCase, delta: Tensor, tolerance: float = 1e-12) -> None:
    error = relative(case.delta - delta.reshape(case.delta.shape), case.delta)
    assert error < tolerance, f"{case.id}: {error:.1e}"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_lora_is_alpha_over_rank_times_up_down(cases: list[OracleCase], dtype: str):
    case, t = _case(cases, f"lycoris-lora-conv3x3-{dtype}")
    _agree(case, 3 / 4 * t["lora_up.weight"].flatten(1) @ t["lora_down.weight"].flatten(1))


def test_tucker_gives_the_cores_first_index_to_up(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-locon-tucker-conv3x3_stride2-f32")
    up, down, mid = (t[f"lora_{part}.weight"] for part in ("up", "down", "mid"))
    _agree(case, 3 / 4 * torch.einsum("pqxy,op,qi->oixy", mid, up.flatten(1), down.flatten(1)))


def test_lycoris_stores_the_root_of_the_rank_in_alpha_and_peft_in_its_config(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-lora-rs-rank6-linear_square-f32")
    assert _alpha(case) == pytest.approx(3 * math.sqrt(6), rel=1e-6)
    _agree(case, 3 / math.sqrt(6) * t["lora_up.weight"] @ t["lora_down.weight"])
    case, t = _case(cases, "peft-lora-rs-rank6-conv3x3-f32")
    assert case.config is not None
    assert (case.config["use_rslora"], case.config["lora_alpha"], case.config["r"]) == (True, 6, 6)
    _agree(case, 6 / math.sqrt(6) * t["lora_B.weight"].flatten(1) @ t["lora_A.weight"].flatten(1))


def test_loha_applies_alpha_once(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-loha-linear-f32")
    _agree(case, 3 / 4 * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]))


def test_lokr_is_a_kronecker_product_and_full_factors_ignore_alpha_except_in_peft(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-lokr-lowlow-linear-f32")
    low = torch.kron(t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w2_a"] @ t["lokr_w2_b"])
    _agree(case, 3 / 2 * low)
    case, t = _case(cases, "lycoris-lokr-fullfull-linear-f32")
    _agree(case, torch.kron(t["lokr_w1"], t["lokr_w2"]))
    case, t = _case(cases, "peft-lokr-fullfull-linear-f32")
    _agree(case, 6 / 8 * torch.kron(t["lokr_w1"], t["lokr_w2"]))


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("layer", ["linear_square", "conv3x3"])
def test_dora_leaves_each_part_as_long_as_its_magnitude_says(cases: list[OracleCase], axis: str, layer: str):
    case, t = _case(cases, f"lycoris-dora-{axis}-{layer}-f32")
    kept = ("out", "in").index(axis)
    lengths = case.reference_weight.transpose(0, kept).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, t["dora_scale"].flatten(), rtol=1e-12, atol=0)


def test_glora_contracts_the_inputs(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-glora-conv3x3-f32")
    a = t["a1.weight"].flatten(1) @ t["a2.weight"].flatten(1)
    b = t["b1.weight"].flatten(1) @ t["b2.weight"].flatten(1)
    _agree(case, 3 / 4 * (torch.einsum("oixy,ij->ojxy", case.weight.double(), a) + b.view(case.weight.shape)))


def test_lycoris_ia3_leaves_the_bias_alone_and_that_of_peft_scales_it(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-ia3-out-linear_bias-f32")
    _agree(case, t["weight"][:, None] * case.weight.double())
    assert torch.equal(case.reference_bias, case.bias.double())
    case, t = _case(cases, "peft-ia3-out-linear_bias-f32")
    _agree(case, (t["ia3_l"] - 1) * case.weight.double())
    torch.testing.assert_close(case.reference_bias, t["ia3_l"][:, 0] * case.bias.double(), rtol=1e-12, atol=0)


def test_diag_oft_turns_the_rows_by_the_transpose_and_obeys_its_constraint(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-oft-constraint-linear-f32")
    q = t["oft_blocks"] - t["oft_blocks"].mT
    assert q.norm() > 1.5, "the constraint would not be felt"
    q = q * (0.03125 * 48) / q.norm()
    rotation = torch.block_diag(*(torch.eye(4) + q) @ torch.linalg.inv(torch.eye(4, dtype=q.dtype) - q))
    _agree(case, (rotation.T - torch.eye(48)) @ case.weight.double(), case.tolerance)


def test_boft_turns_the_rows_in_stages_that_reach_ever_farther(cases: list[OracleCase]):
    case, t = _case(cases, "lycoris-boft-linear-f32")
    blocks = t["oft_blocks"]
    stages, count, size, _ = blocks.shape
    assert stages > 2
    q = blocks - blocks.mT
    identity = torch.eye(size, dtype=q.dtype)
    rotations = (identity + q) @ torch.linalg.inv(identity - q)
    x = case.weight.double()
    for stage in range(stages):
        half = 2**stage * size // 2
        order = [0] * (count * size)
        for row in range(count * size):
            chunk, rest = divmod(row, 2 * half)
            group, step = divmod(rest, half)
            order[(chunk * half + step) * 2 + group] = row
        turned = torch.block_diag(*rotations[stage]) @ x[order]
        x = torch.empty_like(x)
        x[order] = turned
    _agree(case, x - case.weight.double(), case.tolerance)


def test_pefts_exact_rotation_goes_the_other_way_than_its_series(cases: list[OracleCase]):
    for name, direction in (("peft-oft-linear-f32", 1), ("peft-oft-exact-linear-f32", -1)):
        case, t = _case(cases, name)
        rows, cols = torch.triu_indices(5, 5, 1)
        upper = torch.zeros(4, 5, 5, dtype=torch.float64)
        upper[:, rows, cols] = t["oft_R.weight"]
        q, identity = upper - upper.mT, torch.eye(5, dtype=torch.float64)
        exact = (identity + direction * q) @ torch.linalg.inv(identity - direction * q)
        series = identity + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
        rotation = torch.block_diag(*(series if direction > 0 else exact))
        _agree(case, case.weight.double() @ (rotation.T - torch.eye(20)))


def test_vera_uses_the_corner_of_the_shared_matrices(cases: list[OracleCase]):
    case, t = _case(cases, "peft-vera-linear-f32")
    a, b = (case.shared[f"base_model.vera_{name}"].double() for name in "AB")
    assert (a.shape, b.shape) == ((8, 40), (56, 8))
    _agree(case, (t["vera_lambda_b"][:, None] * b[:48]) @ (t["vera_lambda_d"][:, None] * a[:, :20]))


def test_hra_reflects_the_inputs_one_column_after_the_other(cases: list[OracleCase]):
    case, t = _case(cases, "peft-hra-linear-f32")
    w = case.weight.double()
    for column in t["hra_u"].T:
        w = w - 2 * torch.outer(w @ column, column) / column.square().sum()
    _agree(case, w - case.weight.double())


def test_a_lora_on_an_embedding_is_transposed(cases: list[OracleCase]):
    case, t = _case(cases, "peft-lora-embedding-f32")
    _agree(case, 6 / 4 * (t["lora_embedding_B"] @ t["lora_embedding_A"]).T)


def test_a_bias_of_lora_b_is_scaled_too(cases: list[OracleCase]):
    case, t = _case(cases, "peft-lora-bias-linear_bias-f32")
    torch.testing.assert_close(case.reference_bias, case.bias.double() + 6 / 4 * t["lora_B.bias"], rtol=1e-12, atol=0)
