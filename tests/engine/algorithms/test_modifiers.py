"""What goes with any algorithm: alpha, scale, dyn, residuals, magnitudes; layers of another shape than the file's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lycopatch.engine.algorithms.dora import kept_axis
from oracles.case import Numbers, relative
from small_model import PLACES, Bench, model_with, same_bits

F32 = torch.float32
RANK = 4
Tensors = dict[str, Tensor]


def kohya(kind: str) -> str:
    return f"lora_unet_{PLACES[kind].replace('.', '_')}."


def numbers(*shape: int, name: str = "") -> Tensor:
    return Numbers(f"{name}{shape}").normal(*shape, std=0.3).to(F32)


WEIGHT = numbers(48, 20, name="weight")
UP, DOWN = numbers(48, RANK), numbers(RANK, 20)
PRODUCT = UP.double() @ DOWN.double()
LORA = {"lora_up.weight": UP, "lora_down.weight": DOWN}


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """A model with one layer, and a kohya file of these tensors for it."""

    def make(tensors: Tensors, kind: str = "linear", weight: Tensor = WEIGHT, bias: Tensor | None = None) -> Bench:
        made = Bench(model_with(kind, weight, bias), tmp_path)
        made.write({kohya(kind) + key: value for key, value in tensors.items()})
        return made

    return make


def change(bench: Bench, kind: str = "linear") -> Tensor:
    name = f"{PLACES[kind]}.weight"
    return bench.model[name].double() - bench.pristine[name].double()


def agree(found: Tensor, wanted: Tensor, tolerance: float = 1e-6) -> None:
    assert relative(found - wanted.reshape(found.shape), wanted) < tolerance


# --- alpha, scale, scalar ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "factor"),
    [
        ({}, 1.0),
        ({"alpha": torch.tensor(4.0)}, 1.0),
        ({"alpha": torch.tensor(1.0)}, 0.25),
        ({"alpha": torch.tensor(-2.0)}, -0.5),
        ({"alpha": torch.tensor([2.0])}, 0.5),
        ({"alpha": torch.tensor([[2.0]])}, 0.5),
        ({"alpha": torch.tensor(6)}, 1.5),
        ({"alpha": torch.tensor(2.5, dtype=torch.bfloat16)}, 0.625),
        ({"alpha": torch.tensor(2.5, dtype=torch.float64)}, 0.625),
        ({"alpha": torch.tensor(1.0), "scale": torch.tensor(0.75)}, 0.75),
        ({"scale": torch.tensor(0.75)}, 0.75),
        ({"alpha": torch.tensor(2.0), "scalar": torch.tensor(0.5)}, 0.25),
        ({"alpha": torch.tensor(math.nan), "scale": torch.tensor(0.75)}, 0.75),
    ],
)
def test_the_product_is_scaled_by_what_the_file_says(bench: Callable[..., Bench], extra: Tensors, factor: float):
    made = bench(LORA | extra)
    assert made.activate().ok
    agree(change(made), factor * PRODUCT)


def test_alpha_0_is_taken_literally(bench: Callable[..., Bench]):
    made = bench(LORA | {"alpha": torch.tensor(0.0)})
    assert made.activate().ok
    assert made.is_pristine()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"alpha": torch.tensor(math.nan)}, "its alpha is nan"),
        ({"alpha": torch.tensor(math.inf)}, "its alpha is inf"),
        ({"scale": torch.tensor(-math.inf)}, "its alpha is -inf"),
    ],
)
def test_a_scale_that_is_no_number_costs_the_layer(bench: Callable[..., Bench], extra: Tensors, words: str):
    made = bench(LORA | extra)
    report = made.activate()
    assert any(words in message for message in report.messages())
    assert sorted(report.tags[0].keys["skipped"]) == sorted(f"{kohya('linear')}{key}" for key in LORA | extra)
    assert made.is_pristine()


@pytest.mark.parametrize("alpha", [math.inf, math.nan, 0.0, 100.0])
def test_an_alpha_that_does_not_count_does_no_harm(bench: Callable[..., Bench], alpha: float):
    w1, w2 = numbers(6, 4), numbers(8, 5)
    made = bench({"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(alpha)})
    assert made.activate().ok
    agree(change(made), torch.kron(w1.double(), w2.double()))


def test_numbers_that_are_not_finite_cost_their_layer_only(tmp_path: Path):
    model = model_with("linear", WEIGHT, None) | model_with("linear_square", numbers(32, 32), None)
    made = Bench(model, tmp_path)
    damaged = UP.clone()
    damaged[3, 1] = math.nan
    square = {"lora_up.weight": numbers(32, RANK), "lora_down.weight": numbers(RANK, 32)}
    made.write(
        {kohya("linear") + key: value for key, value in (LORA | {"lora_up.weight": damaged}).items()}
        | {kohya("linear_square") + key: value for key, value in square.items()}
    )
    report = made.activate()
    assert "holds numbers that are not finite" in report.messages()[0]
    assert not change(made).any()
    agree(change(made, "linear_square"), square["lora_up.weight"].double() @ square["lora_down.weight"].double())


# --- dyn --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dyn", [1, 3, 4, 9])
def test_dyn_takes_the_first_ranks_and_keeps_alpha_over_all_of_them(bench: Callable[..., Bench], dyn: int):
    made = bench(LORA | {"alpha": torch.tensor(3.0)})
    assert made.activate(more=f":dyn={dyn}").ok
    agree(change(made), 0.75 * UP[:, :dyn].double() @ DOWN[:dyn].double())


def test_dyn_leaves_what_is_no_plain_product_alone(bench: Callable[..., Bench]):
    up, mid, down = numbers(24, RANK, 1, 1), numbers(RANK, RANK, 3, 3), numbers(RANK, 10, 1, 1)
    made = bench(
        {"lora_up.weight": up, "lora_mid.weight": mid, "lora_down.weight": down}, "conv3x3", numbers(24, 10, 3, 3)
    )
    assert made.activate(more=":dyn=1").ok
    factors = (mid.double(), up.flatten(1).double(), down.flatten(1).double())
    agree(change(made, "conv3x3"), torch.einsum("pqxy,op,qi->oixy", *factors))


def test_dyn_leaves_loha_alone(bench: Callable[..., Bench]):
    halves = {f"hada_w{n}_a": numbers(48, RANK, name=str(n)) for n in (1, 2)}
    halves |= {f"hada_w{n}_b": numbers(RANK, 20, name=str(n)) for n in (1, 2)}
    made = bench(halves)
    assert made.activate(more=":dyn=1").ok
    first, second = (halves[f"hada_w{n}_a"].double() @ halves[f"hada_w{n}_b"].double() for n in (1, 2))
    agree(change(made), first * second)


# --- residuals --------------------------------------------------------------------------------------------------------


def test_a_layers_own_bias_beside_the_factors_is_no_residual_of_the_weight(bench: Callable[..., Bench]):
    made = bench(LORA | {"bias": numbers(48)})
    report = made.activate()
    assert not report.ok
    assert f"{kohya('linear')}bias" not in report.tags[0].keys["applied"]
    allowed = (torch.zeros_like(PRODUCT), PRODUCT)  # without the layer, or without the key
    assert any(torch.allclose(change(made), each, atol=1e-6) for each in allowed)


@pytest.mark.parametrize("lost", ["bias_indices", "bias_values", "bias_size"])
def test_a_sparse_residual_that_is_not_complete_costs_its_layer(bench: Callable[..., Bench], lost: str):
    sparse = {
        "bias_indices": torch.tensor([[0, 5], [3, 7]], dtype=torch.int16),
        "bias_values": torch.tensor([1.0, 2.0]),
        "bias_size": torch.tensor([48, 20], dtype=torch.int16),
    }
    made = bench(LORA | {key: value for key, value in sparse.items() if key != lost})
    report = made.activate()
    assert "its sparse residual is not complete" in report.messages()[-1]
    assert made.is_pristine()


@pytest.mark.parametrize(
    ("indices", "size"),
    [([[0], [20]], [48, 20]), ([[-1], [0]], [48, 20]), ([[0], [0]], [20, 48]), ([[0], [0]], [48, 21])],
)
def test_a_sparse_residual_that_reaches_beyond_the_weight_costs_its_layer(
    bench: Callable[..., Bench], indices: list[list[int]], size: list[int]
):
    sparse = {"bias_indices": torch.tensor(indices), "bias_values": torch.ones(1), "bias_size": torch.tensor(size)}
    made = bench(LORA | sparse)
    report = made.activate()
    assert len(report.messages()) == 1
    assert made.is_pristine()


# --- DoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("magnitude", "shape", "peft", "axis"),
    [
        ((48, 1), (48, 20), False, 0),
        ((1, 20), (48, 20), False, 1),
        ((32, 1), (32, 32), False, 0),
        ((1, 32), (32, 32), False, 1),
        ((24, 1, 1, 1), (24, 10, 3, 3), False, 0),
        ((1, 10, 1, 1), (24, 10, 3, 3), False, 1),
        ((24, 1, 1, 1), (24, 10), False, 0),  # a convolution's file on a linear layer
        ((1, 10, 1, 1), (24, 10), False, 1),
        ((48, 1), (48, 20, 1, 1), False, 0),
        ((48,), (48, 20), False, 0),
        ((20,), (48, 20), False, 1),
        ((32,), (32, 32), False, 1),
        ((48,), (48, 20), True, 0),
        ((32,), (32, 32), True, 0),
        ((1, 24, 1, 1), (24, 24, 1, 1), True, 0),
        ((1, 24, 1, 1), (24, 10, 3, 3), True, 0),
        ((20,), (48, 20), True, None),
        ((47, 1), (48, 20), False, None),
        ((1, 48), (48, 20), False, None),
        ((48, 20), (48, 20), False, None),
    ],
)
def test_the_shape_of_a_magnitude_tells_its_axis(
    magnitude: tuple[int, ...], shape: tuple[int, ...], peft: bool, axis: int | None
):
    assert kept_axis(magnitude, shape, peft=peft) == axis


def test_rows_and_columns_of_zeros_stay_zero_under_dora(bench: Callable[..., Bench]):
    weight = WEIGHT.clone()
    weight[5] = 0
    up = UP.clone()
    up[5] = 0
    magnitude = numbers(48, 1).abs() + 1
    made = bench({"lora_up.weight": up, "lora_down.weight": DOWN, "dora_scale": magnitude}, weight=weight)
    assert made.activate().ok
    live = made.model[f"{PLACES['linear']}.weight"]
    assert live.isfinite().all()
    assert not live[5].any()


# --- a layer of another shape -----------------------------------------------------------------------------------------


def lora_conv(channels: int) -> tuple[Tensors, Tensor]:
    up, down = numbers(16, RANK, 1, 1), numbers(RANK, channels, 3, 3)
    product = up.flatten(1).double() @ down.flatten(1).double()
    return {"lora_up.weight": up, "lora_down.weight": down}, product.view(16, channels, 3, 3)


def loha_conv(channels: int) -> tuple[Tensors, Tensor]:
    tensors = {f"hada_w{n}_a": numbers(16, RANK, name=str(n)) for n in (1, 2)}
    tensors |= {f"hada_w{n}_b": numbers(RANK, channels * 9, name=str(n)) for n in (1, 2)}
    first, second = (tensors[f"hada_w{n}_a"].double() @ tensors[f"hada_w{n}_b"].double() for n in (1, 2))
    return tensors, (first * second).view(16, channels, 3, 3)


def lokr_conv(channels: int) -> tuple[Tensors, Tensor]:
    w1, w2 = numbers(4, 1), numbers(4, channels, 3, 3)
    product = torch.kron(w1.double(), w2.flatten(1).double())
    return {"lokr_w1": w1, "lokr_w2": w2}, product.view(16, channels, 3, 3)


def full_conv(channels: int) -> tuple[Tensors, Tensor]:
    diff = numbers(16, channels, 3, 3)
    return {"diff": diff}, diff.double()


@pytest.mark.parametrize("make", [lora_conv, loha_conv, lokr_conv, full_conv])
@pytest.mark.parametrize(("trained", "live"), [(4, 9), (4, 8), (9, 4), (8, 4), (9, 8), (4, 4), (9, 9)])
def test_the_first_convolution_of_an_inpainting_model_shares_the_latents_channels(
    bench: Callable[..., Bench], make: Callable[[int], tuple[Tensors, Tensor]], trained: int, live: int
):
    tensors, delta = make(trained)
    made = bench(tensors, "conv3x3_9in", numbers(16, live, 3, 3, name="weight"))
    report = made.activate()
    assert report.ok, report.messages()
    found = change(made, "conv3x3_9in")
    shared = min(trained, live)
    agree(found[:, :shared], delta[:, :shared])
    assert not found[:, shared:].any()
    made.loader.deactivate()
    assert made.is_pristine()


def test_another_number_of_channels_is_another_size(bench: Callable[..., Bench]):
    made = bench(lora_conv(6)[0], "conv3x3_9in", numbers(16, 9, 3, 3))
    assert "it was made for 54 inputs, this model's layer has 81" in made.activate().messages()[0]
    assert made.is_pristine()


def test_only_the_first_convolution_may_have_other_channels(bench: Callable[..., Bench]):
    made = bench(lora_conv(4)[0], "conv3x3", numbers(16, 9, 3, 3))
    assert "other size" in made.activate().messages()[0]
    assert made.is_pristine()


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_up.weight": numbers(32, RANK, 1, 1), "lora_down.weight": numbers(RANK, 24, 1, 1)},
        {"lora_up.weight": numbers(32, RANK), "lora_down.weight": numbers(RANK, 24)},
        {"diff": numbers(32, 24, 1, 1)},
        {"diff": numbers(32, 24)},
        {"lokr_w1": numbers(4, 4), "lokr_w2": numbers(8, 6, 1, 1)},
        {"lokr_w1": numbers(4, 4), "lokr_w2": numbers(8, 6)},
        {"weight": numbers(1, 32, 1, 1), "on_input": torch.tensor(0)},
        {"weight": numbers(24), "on_input": torch.tensor(1)},
        {"oft_blocks": numbers(8, 4, 4), "rescale": 1 + numbers(32, 1, 1, 1)},
    ],
    ids=lambda tensors: "+".join(f"{key}{tuple(value.shape)}" for key, value in tensors.items()),
)
def test_a_file_for_1x1_convolutions_fits_linear_layers_and_the_other_way_round(
    bench: Callable[..., Bench], tmp_path: Path, tensors: Tensors
):
    weight = numbers(32, 24, name="weight")
    linear = bench(tensors, "linear_prime", weight)
    convolution = Bench(model_with("conv1x1", weight[:, :, None, None], None), tmp_path / "convolution")
    convolution.write({kohya("conv1x1") + key: value for key, value in tensors.items()})
    assert linear.activate().ok
    assert convolution.activate().ok
    assert change(linear, "linear_prime").any()
    assert torch.equal(change(linear, "linear_prime"), change(convolution, "conv1x1").flatten(1))


@pytest.mark.parametrize(("inputs", "side"), [(24, "out"), (24, "in"), (8, "out"), (4, "out"), (4, "in")])
def test_pefts_factor_for_a_convolution_is_read_by_its_size(bench: Callable[..., Bench], inputs: int, side: str):
    """[1, n, 1, 1] on either side of a layer of eight outputs; where both fit, it is the outputs'."""
    weight, bias = numbers(8, inputs, 3, 3, name="weight"), numbers(8)
    factors = numbers(1, 8 if side == "out" else inputs, 1, 1).abs() + 0.5
    made = bench({"ia3_l": factors}, "conv3x3", weight, bias)
    assert made.activate().ok
    wanted = factors.double().transpose(0, 1) if side == "out" else factors.double()
    agree(change(made, "conv3x3"), weight.double() * (wanted - 1))
    live = made.model[f"{PLACES['conv3x3']}.bias"]
    if side == "out":
        torch.testing.assert_close(live, bias * factors.flatten())
    else:
        assert same_bits(live, bias)


def test_a_factor_for_outputs_makes_no_bias_where_there_is_none(bench: Callable[..., Bench]):
    made = bench({"ia3_l": numbers(48, 1)})
    assert made.activate().ok
    assert made.model.keys() == made.pristine.keys()


def test_one_block_of_a_rotation_serves_all_columns(bench: Callable[..., Bench]):
    triangle = numbers(1, 6)
    made = bench({"oft_R.weight": triangle})
    assert made.activate().ok
    rows, cols = torch.triu_indices(4, 4, 1)
    q = torch.zeros(4, 4, dtype=torch.float64)
    q[rows, cols] = triangle[0].double()
    q = q - q.T
    rotation = torch.eye(4) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
    agree(change(made), WEIGHT.double() @ torch.block_diag(*[rotation] * 5).T - WEIGHT.double())


def test_one_block_that_does_not_divide_the_columns_costs_its_layer(bench: Callable[..., Bench]):
    made = bench({"oft_R.weight": numbers(1, 3)})  # blocks of three, twenty columns
    assert len(made.activate().messages()) == 1
    assert made.is_pristine()
