"""What is wrong with a file's numbers, and what only looks odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.health import HealthIssue, check_health, is_healthy, unreadable_kind
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.strength import root_mean_square
from networks import ALGORITHMS, network
from oracles.case import F8

LAYERS: dict[str, tuple[int, ...]] = {
    "lora_unet_mid_block_attentions_0_proj_in": (16, 16, 1, 1),
    "lora_unet_mid_block_resnets_0_conv1": (16, 16, 3, 3),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (16, 16),
    "lora_unet_mid_block_resnets_0_norm1": (16,),
}
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
ALONE = {LAYER: (16, 16)}


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., list[HealthIssue]]:
    """The findings for a file of these tensors."""

    def run(tensors: dict[str, Tensor], progress: Callable[[int, int], None] | None = None) -> list[HealthIssue]:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
        with open_tensor_file(tmp_path / "a.safetensors") as file:
            return check_health(file, parse_adapter(file), progress)

    return run


def kinds(issues: list[HealthIssue]) -> list[tuple[str, str]]:
    return [(issue.kind, issue.severity) for issue in issues]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_networks_of_every_algorithm_as_trainers_write_them_are_healthy(check: Callable, algorithm: str) -> None:
    assert check(network(LAYERS, algorithm)) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "nan"), (float("-inf"), "inf")])
def test_a_number_that_is_none_is_a_fault_of_its_layer_whatever_the_algorithm(
    check: Callable, algorithm: str, value: float, kind: str
) -> None:
    tensors = network(LAYERS, algorithm)
    key = next(key for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 1)
    tensors[key].view(-1)[-1] = value
    issues = check(tensors)
    assert kinds(issues) == [(kind, "fault")]
    assert key in issues[0].message
    assert issues[0].layer is not None
    assert key.startswith(issues[0].layer)


@pytest.mark.parametrize(
    ("algorithm", "zero"),
    [
        ("lora", "lora_up.weight"),
        ("lora", "lora_down.weight"),
        ("loha", "hada_w2_a"),
        ("lokr", "lokr_w1"),
        ("full", "diff"),
        ("bias_alone", "diff_b"),
        ("oft", "oft_blocks"),
        ("ia3", "weight"),
        ("tucker", "lora_mid.weight"),
    ],
)
def test_a_layer_that_changes_nothing_is_a_note_and_a_whole_file_of_them_a_fault(
    check: Callable, algorithm: str, zero: str
) -> None:
    layers = {LAYER: (16, 16), "lora_unet_mid_block_resnets_0_conv1": (16, 16, 3, 3)}
    tensors = network(layers, algorithm)
    victim = next(key for key in tensors if key.endswith("." + zero))
    tensors[victim].zero_()
    some = check(tensors)
    if algorithm != "tucker":  # which has one layer of the two
        assert kinds(some) == [("zero", "note")]
        assert is_healthy(some)
    for key in tensors:
        if key.endswith("." + zero):
            tensors[key].zero_()
    assert kinds(check(tensors)) == [("zero", "fault")]


@pytest.mark.parametrize(("factor", "found"), [(1.0, []), (1e6, [("huge", "fault")]), (1e-12, [("tiny", "note")])])
def test_absurd_strength_is_noticed(check: Callable, factor: float, found: list[tuple[str, str]]) -> None:
    tensors = network(ALONE, "lora", dtype=torch.float32)
    tensors[f"{LAYER}.lora_up.weight"] *= factor
    assert kinds(check(tensors)) == found


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 0.0])
def test_an_alpha_that_ruins_or_switches_off_a_layer_is_a_fault(check: Callable, alpha: float) -> None:
    tensors = network(ALONE, "lora") | {f"{LAYER}.alpha": torch.tensor(alpha)}
    assert ("bad alpha", "fault") in kinds(check(tensors))


def test_alpha_zero_means_no_constraint_for_rotations(check: Callable) -> None:
    assert check(network(ALONE, "oft") | {f"{LAYER}.alpha": torch.tensor(0.0)}) == []


def test_a_layer_that_lacks_a_tensor_is_incomplete_and_said_once(check: Callable) -> None:
    tensors = network(LAYERS, "loha")
    del tensors[f"{LAYER}.hada_w2_b"]
    issues = check(tensors)
    assert kinds(issues) == [("incomplete", "fault")]
    assert "missing hada_w2_b" in issues[0].message
    assert issues[0].layer == LAYER


def test_duplicates_strangers_and_empty_tensors_are_notes(check: Callable) -> None:
    tensors = network(ALONE, "lora")
    tensors |= {f"{LAYER}.lora_A.weight": torch.ones(4, 16), "nonsense": torch.ones(2), "x.alpha": torch.ones(0)}
    issues = check(tensors)
    assert sorted(kinds(issues)) == [("duplicate", "note"), ("empty", "note"), ("unknown", "note")]
    assert is_healthy(issues)


@pytest.mark.skipif(not F8, reason="this version of torch has no float8")
def test_eight_bit_numbers_are_a_note(check: Callable) -> None:
    tensors = {key: tensor.to(F8[0]) for key, tensor in network(ALONE, "lora").items()}
    issues = check(tensors)
    assert kinds(issues) == [("fp8", "note")]
    assert "3 of 3 tensors" in issues[0].message


def test_what_can_not_be_applied_is_a_note_with_the_reason(check: Callable) -> None:
    tensors = {
        f"{LAYER}.q_layer.weight": torch.ones(4, 16),
        f"{LAYER}.p_layer.weight": torch.ones(16, 4),
        f"{LAYER}.lambda_layer": torch.ones(1, 4),
    }
    issues = check(tensors)
    assert kinds(issues) == [("not supported", "note")]
    assert "T-LoRA stores only half" in issues[0].message


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"model.diffusion_model.out.2.weight": torch.ones(2, 2)}, "not a network"),
        ({"clip_l": torch.ones(2, 768)}, "not a network"),
        ({"nonsense": torch.ones(2)}, "empty"),
    ],
)
def test_a_file_without_layers_is_a_fault(check: Callable, tensors: dict[str, Tensor], kind: str) -> None:
    issues = check(tensors)
    assert (kind, "fault") in kinds(issues)
    assert not is_healthy(issues)


def test_a_small_file_that_claims_an_enormous_weight_costs_no_memory(check: Callable) -> None:
    halves = {f"hada_w{half}_{side}": (2**17, 1) if side == "a" else (1, 2**17) for half in "12" for side in "ab"}
    tensors = {f"{LAYER}.{name}": torch.ones(shape, dtype=torch.float16) for name, shape in halves.items()}
    assert kinds(check(tensors)) == [("malformed", "fault")]


def test_progress_is_told_layer_by_layer_and_may_end_the_work(check: Callable) -> None:
    told: list[tuple[int, int]] = []
    check(network(LAYERS, "lora"), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(network(LAYERS, "lora"), stop)


def test_a_file_that_is_cut_short_is_told_from_one_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network(ALONE, "lora"), path)
    whole = path.read_bytes()
    lengths = {3: "truncated", 40: "truncated", len(whole) - 1: "truncated"}
    for length, kind in lengths.items():
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableAdapter) as caught:
            open_tensor_file(path)
        assert unreadable_kind(caught.value) == kind, length
    path.write_bytes(whole + b"\0")
    with pytest.raises(UnreadableAdapter) as caught:
        open_tensor_file(path)
    assert unreadable_kind(caught.value) == "unreadable"


@pytest.mark.parametrize(
    "algorithm", ["lora", "tucker", "loha", "tucker_loha", "lokr", "low_lokr", "full", "sparse_lora"]
)
def test_the_strength_is_that_of_the_product_multiplied_out(tmp_path: Path, algorithm: str) -> None:
    save_file(network(LAYERS, algorithm, dtype=torch.float32), tmp_path / "a.safetensors")
    with open_tensor_file(tmp_path / "a.safetensors") as file:
        adapter = parse_adapter(file)
        assert adapter.layers
        for layer in adapter.layers:
            loaded = layer.load(file, torch.device("cpu"), torch.float32)

            class Nothing:
                shape = LAYERS[layer.name]
                dtype = torch.float32

            delta = loaded.weight_delta(Nothing())  # type: ignore[arg-type]
            assert delta is not None
            dense = torch.zeros(delta.rows, delta.cols)
            delta.add_rows(dense, 0, 1.0)
            expected = float(dense.double().square().mean().sqrt())
            assert root_mean_square(layer, dict(loaded.tensors)) == pytest.approx(expected, rel=1e-5)
