"""Layers that are rows of a larger tensor: each projection of open_clip's fused attention is a layer of its own.

Every algorithm has to see the rows of its own layer as W, and no other row may change.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles.case import Numbers, relative
from small_model import Bench

D = 16
BLOCK = "cond_stage_model.model.transformer.resblocks.0.attn"
FUSED, FUSED_BIAS = f"{BLOCK}.in_proj_weight", f"{BLOCK}.in_proj_bias"
ATTENTION = "lora_te_text_model_encoder_layers_0_self_attn_"
ROWS = {"q_proj": slice(0, D), "k_proj": slice(D, 2 * D), "v_proj": slice(2 * D, 3 * D)}
Tensors = dict[str, Tensor]


def numbers(*shape: int, name: str = "") -> Tensor:
    return Numbers(f"{name}{shape}").normal(*shape, std=0.3).to(torch.float32)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A text encoder of open_clip with one block."""
    return Bench(
        {
            "cond_stage_model.model.token_embedding.weight": numbers(30, D),
            "cond_stage_model.model.text_projection": numbers(D, 12),
            FUSED: numbers(3 * D, D),
            FUSED_BIAS: numbers(3 * D),
            f"{BLOCK}.out_proj.weight": numbers(D, D),
            f"{BLOCK}.out_proj.bias": numbers(D),
        },
        tmp_path,
    )


def lora(projection: str) -> Tensors:
    return {"lora_up.weight": numbers(D, 3, name=projection), "lora_down.weight": numbers(3, D, name=projection)}


def product(tensors: Tensors) -> Tensor:
    return tensors["lora_up.weight"].double() @ tensors["lora_down.weight"].double()


def written(layers: dict[str, Tensors]) -> Tensors:
    return {f"{ATTENTION}{name}.{key}": value for name, tensors in layers.items() for key, value in tensors.items()}


def only_rows_changed(bench: Bench, name: str, projections: list[str]) -> None:
    for projection, rows in ROWS.items():
        same = torch.equal(bench.model[name][rows], bench.pristine[name][rows])
        assert same == (projection not in projections), projection


def change(bench: Bench, name: str, projection: str) -> Tensor:
    rows = ROWS[projection]
    return bench.model[name][rows].double() - bench.pristine[name][rows].double()


@pytest.mark.parametrize("projections", [["q_proj"], ["k_proj"], ["v_proj"], ["q_proj", "v_proj"], list(ROWS)])
def test_projections_are_applied_one_by_one(bench: Bench, projections: list[str]):
    layers = {projection: lora(projection) for projection in projections}
    bench.write(written(layers))
    report = bench.activate(0.5)
    assert report.ok
    assert report.tags[0].layers_applied == len(projections)
    only_rows_changed(bench, FUSED, projections)
    for projection in projections:
        wanted = 0.5 * product(layers[projection])
        assert relative(change(bench, FUSED, projection) - wanted, wanted) < 1e-6
    assert bench.loader.deactivate() == 1
    assert bench.is_pristine()


@pytest.mark.parametrize("key", ["diff_b", "lora_up.bias"])
@pytest.mark.parametrize("projections", [["k_proj"], ["q_proj", "v_proj"], list(ROWS)])
def test_so_are_their_biases(bench: Bench, key: str, projections: list[str]):
    biases = {projection: numbers(D, name=f"{projection} bias") for projection in projections}
    layers = {name: lora(name) | {key: bias, "alpha": torch.tensor(1.5)} for name, bias in biases.items()}
    bench.write(written(layers))
    assert bench.activate().ok
    only_rows_changed(bench, FUSED, projections)
    only_rows_changed(bench, FUSED_BIAS, projections)
    scale = 0.5 if key == "lora_up.bias" else 1.0
    for projection, bias in biases.items():
        wanted = scale * bias.double()
        assert relative(change(bench, FUSED_BIAS, projection) - wanted, wanted) < 1e-6
    bench.loader.deactivate()
    assert bench.is_pristine()


def test_a_bias_may_come_without_a_weight(bench: Bench):
    bench.write(written({"v_proj": {"diff_b": numbers(D)}}))
    assert bench.activate().ok
    only_rows_changed(bench, FUSED, [])
    only_rows_changed(bench, FUSED_BIAS, ["v_proj"])


@pytest.mark.parametrize("projection", ROWS)
@pytest.mark.parametrize("axis", ["out", "in"])
def test_dora_measures_the_rows_of_its_own_layer(bench: Bench, projection: str, axis: str):
    kept = ("out", "in").index(axis)
    magnitude = numbers(D, name="magnitude").abs() + 0.5
    shape = (D, 1) if axis == "out" else (1, D)
    tensors = lora(projection) | {"dora_scale": magnitude.view(shape)}
    bench.write(written({projection: tensors}))
    assert bench.activate().ok
    only_rows_changed(bench, FUSED, [projection])
    original = bench.pristine[FUSED][ROWS[projection]].double()
    merged = original + product(tensors)
    wanted = merged * (magnitude.double().view(shape) / merged.norm(dim=1 - kept, keepdim=True)) - original
    assert relative(change(bench, FUSED, projection) - wanted, wanted) < 2e-6


@pytest.mark.parametrize("projection", ROWS)
def test_a_rotation_turns_the_rows_of_its_own_layer(bench: Bench, projection: str):
    blocks = numbers(4, 4, 4)
    bench.write(written({projection: {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}}))
    assert bench.activate().ok
    only_rows_changed(bench, FUSED, [projection])
    q = blocks.double() - blocks.double().mT
    rotations = (torch.eye(4) + q) @ torch.linalg.inv(torch.eye(4, dtype=q.dtype) - q)
    original = bench.pristine[FUSED][ROWS[projection]].double()
    wanted = torch.block_diag(*rotations).T @ original - original
    assert relative(change(bench, FUSED, projection) - wanted, wanted) < 1e-5


@pytest.mark.parametrize("projection", ROWS)
def test_ia3_scales_the_rows_of_its_own_layer(bench: Bench, projection: str):
    factors = numbers(D)
    bench.write(written({projection: {"weight": factors, "on_input": torch.tensor(False)}}))
    assert bench.activate().ok
    only_rows_changed(bench, FUSED, [projection])
    wanted = factors.double()[:, None] * bench.pristine[FUSED][ROWS[projection]].double()
    assert relative(change(bench, FUSED, projection) - wanted, wanted) < 1e-6


def test_three_algorithms_share_one_tensor(bench: Bench):
    w1, w2 = numbers(4, 2), numbers(4, 8)
    layers = {
        "q_proj": lora("q_proj"),
        "k_proj": {"lokr_w1": w1, "lokr_w2": w2},
        "v_proj": {"diff": numbers(D, D, name="difference")},
    }
    bench.write(written(layers))
    report = bench.activate(-1.0)
    assert report.ok
    assert report.tensors_written == 1
    deltas = {
        "q_proj": product(layers["q_proj"]),
        "k_proj": torch.kron(w1.double(), w2.double()),
        "v_proj": layers["v_proj"]["diff"].double(),
    }
    for projection, delta in deltas.items():
        assert relative(change(bench, FUSED, projection) + delta, delta) < 1e-6
    bench.loader.deactivate()
    assert bench.is_pristine()


def test_a_projection_of_half_precision_is_rounded_once(tmp_path: Path):
    """A lone Kronecker product has a way of its own into half-precision weights; here it has only some rows."""
    model = {
        "cond_stage_model.model.token_embedding.weight": numbers(30, D).half(),
        FUSED: numbers(3 * D, D).half(),
        FUSED_BIAS: numbers(3 * D).half(),
    }
    bench = Bench(model, tmp_path)
    w1, w2 = numbers(4, 2).half(), numbers(4, 8).half()
    bench.write(written({"k_proj": {"lokr_w1": w1, "lokr_w2": w2}}))
    assert bench.activate(0.7).ok
    only_rows_changed(bench, FUSED, ["k_proj"])
    original = bench.pristine[FUSED][ROWS["k_proj"]].double()
    wanted = (original + 0.7 * torch.kron(w1.double(), w2.double())).half()
    assert (bench.model[FUSED][ROWS["k_proj"]] == wanted).double().mean() > 0.995


@pytest.mark.parametrize("dora", [False, True])
def test_open_clips_transposed_projection_is_patched_as_its_trainer_saw_it(bench: Bench, dora: bool):
    name = "cond_stage_model.model.text_projection"
    up, down, magnitude = numbers(12, 3), numbers(3, D), numbers(12, 1).abs() + 0.5
    tensors = {"lora_up.weight": up, "lora_down.weight": down} | ({"dora_scale": magnitude} if dora else {})
    bench.write({f"lora_te_text_projection.{key}": value for key, value in tensors.items()})
    assert bench.activate().ok
    merged = bench.pristine[name].double().T + up.double() @ down.double()
    if dora:
        merged = merged * magnitude.double() / merged.norm(dim=1, keepdim=True)
    wanted = merged.T - bench.pristine[name].double()
    assert relative(bench.model[name].double() - bench.pristine[name].double() - wanted, wanted) < 2e-6
    bench.loader.deactivate()
    assert bench.is_pristine()
