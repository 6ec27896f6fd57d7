"""Where a network acts: measured against the trainers' own numbers, block by block, on the original weights."""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.errors import UnknownModel, UnreadableAdapter
from lycopatch.engine.influence import Influence, influence_of
from lycopatch.engine.reading import open_tensor_file
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.hosts.memory.models import DictModel
from networks import write_network
from oracles import OracleCase, all_cases
from random_models import copied, layers_of, sd15, sd21, write_checkpoint
from small_model import PLACES, Bench, model_with

SHRINK = 40


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    return sd15(shrink=SHRINK)


def write(model: Mapping[str, Tensor], folder: Path, algorithm: str = "lora", **which: tuple[str, ...]) -> Path:
    return write_network(folder / f"{algorithm}.safetensors", layers_of(model, **which), algorithm)


def measured(model: dict[str, Tensor], path: Path) -> Influence:
    return NetworkLoader(model, [path.parent]).session.influence(path)


def alone(path: Path) -> Influence:
    with open_tensor_file(path) as file:
        return influence_of(parse_adapter(file), file)


# --- against the trainers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[OracleCase, Influence]]:
    """Every layer that the trainers' packages made, with what is measured of it."""
    found: list[tuple[OracleCase, Influence]] = []
    for case in all_cases():
        if case.reference_weight is None:
            continue
        bench = Bench(model_with(case.layer_kind, case.weight, case.bias), tmp_path_factory.mktemp("case"))
        place = PLACES[case.layer_kind]
        path = place if case.layer_prefix.endswith(".") else place.replace(".", "_")
        tensors = {f"{case.layer_prefix}{path}.{key}": value for key, value in case.tensors.items()} | case.shared
        bench.write(tensors, case.config)
        found.append((case, bench.loader.session.influence(bench.folder / f"{bench.name}.safetensors")))
    return found


def test_the_size_of_every_algorithms_change_is_the_trainers(cases: list[tuple[OracleCase, Influence]]):
    wrong: list[str] = []
    for case, found in cases:
        if not case.changes_weight:
            continue
        expected = case.delta.norm().item()
        size = next(iter(found.layers.values())).delta if found.layers else 0.0
        if abs(size - expected) > expected * max(case.tolerance, 5e-6):
            wrong.append(f"{case.id}: {size} instead of {expected}")
    assert not wrong, "\n".join(wrong)
    assert {case.algorithm for case, _ in cases} >= {"LoRA", "LoHa", "LoKr", "GLoRA", "IA3", "OFT", "BOFT", "Full"}


def test_the_spectral_norm_of_every_algorithms_change_is_the_trainers(cases: list[tuple[OracleCase, Influence]]):
    wrong: list[str] = []
    for case, found in cases:
        if not case.changes_weight:
            continue
        matrix = case.delta.reshape(case.delta.shape[0], -1)
        expected = torch.linalg.matrix_norm(matrix, 2).item()
        value = next(iter(found.layers.values())).spectral
        if abs(value - expected) > expected * 0.01:
            wrong.append(f"{case.id}: {value} instead of {expected}")
    assert not wrong, "\n".join(wrong)


def test_a_layer_that_changes_only_its_bias_is_counted_and_not_measured(cases: list[tuple[OracleCase, Influence]]):
    only_bias = [found for case, found in cases if not case.changes_weight and not found.layers]
    assert only_bias
    assert all(list(found.unmeasured.values()) == [1] for found in only_bias)


# --- blocks -----------------------------------------------------------------------------------------------------------


def block_by_hand(name: str) -> str:
    """The block of a tensor of the checkpoint."""
    if found := re.search(r"input_blocks\.(\d+)\.|output_blocks\.(\d+)\.|middle_block\.", name):
        if found[1] is None and found[2] is None:
            return "MID"
        return f"IN{int(found[1]):02}" if found[1] else f"OUT{int(found[2]):02}"
    if found := re.search(r"encoder\.layers\.(\d+)\.", name):
        return f"TE1.{int(found[1]):02}"
    if "embed" in name and name.startswith("cond_stage_model."):
        return "TE1.FIRST"
    return "FIRST" if "time_embed" in name else "LAST"


def test_the_blocks_sum_the_squares_of_their_layers_and_of_all_their_matrices(model: dict[str, Tensor], tmp_path: Path):
    found = measured(model, write(model, tmp_path))
    weights: dict[str, float] = defaultdict(float)
    for name, tensor in model.items():
        if tensor.dim() > 1:
            weights[block_by_hand(name)] += tensor.double().square().sum().item()
    names = list(found.blocks)
    assert names[:2] == ["FIRST", "IN00"]
    assert [name for name in names if name.startswith("TE1")][-12:] == [f"TE1.{number:02}" for number in range(12)]
    assert {"IN01", "IN11", "MID", "OUT00", "OUT11"} <= set(names)
    for name, effect in found.blocks.items():
        assert effect.weight == pytest.approx(math.sqrt(weights[name]), rel=1e-5), name
        assert effect.relative == pytest.approx(effect.delta / math.sqrt(weights[name]), rel=1e-5)
        assert 0 < (effect.relative or 0) < 2
        assert 0 < effect.spectral <= effect.delta * (1 + 1e-6)
    total = math.hypot(*(effect.delta for effect in found.layers.values()))
    assert math.hypot(*(effect.delta for effect in found.blocks.values())) == pytest.approx(total)
    assert sum(effect.layers for effect in found.blocks.values()) == len(found.layers)
    # the model is too narrow for Stable Diffusion 1
    assert (found.family, found.against_model, dict(found.unmeasured)) == ("custom", True, {})


def test_text_encoder_and_unet_are_summed_apart(model: dict[str, Tensor], tmp_path: Path):
    found = measured(model, write(model, tmp_path, only=("lora_te_", "mid_block")))
    assert set(found.parts) == {"unet", "te1"}
    assert found.parts["unet"].relative == found.blocks["MID"].relative
    encoder = [effect for name, effect in found.blocks.items() if name.startswith("TE1.")]
    assert found.parts["te1"].delta == pytest.approx(math.hypot(*(effect.delta for effect in encoder)))
    assert found.parts["te1"].weight == pytest.approx(math.hypot(*(effect.weight or 0.0 for effect in encoder)))


def test_a_network_for_one_layer_shows_one_small_bar(model: dict[str, Tensor], tmp_path: Path):
    one = measured(model, write(model, tmp_path / "one", only=("mid_block_attentions_0_proj_in",)))
    all_of_it = measured(model, write(model, tmp_path / "all", only=("mid_block",)))
    assert list(one.blocks) == ["MID"]
    assert one.blocks["MID"].weight == pytest.approx(all_of_it.blocks["MID"].weight)
    assert 0 < (one.blocks["MID"].relative or 0) < (all_of_it.blocks["MID"].relative or 0)


def test_gains_count_where_the_network_changes_them(model: dict[str, Tensor], tmp_path: Path):
    found = measured(model, write(model, tmp_path, "norm", only=("mid_block_resnets_0_norm1",)))
    gain = "model.diffusion_model.middle_block.0.in_layers.0.weight"
    squares = sum(
        tensor.double().square().sum().item()
        for name, tensor in model.items()
        if "middle_block" in name and (tensor.dim() > 1 or name == gain)
    )
    assert found.blocks["MID"].weight == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_fused_projections_count_once(tmp_path: Path):
    model = sd21(shrink=SHRINK)
    layer = next(name for name in model if name.endswith("resblocks.3.attn.in_proj_weight"))
    width = model[layer].shape[1]
    path = "lora_te_text_model_encoder_layers_3_self_attn_{}_proj"
    write_network(tmp_path / "qkv.safetensors", {path.format(one): (width, width) for one in "qkv"}, "lora")
    found = measured(model, tmp_path / "qkv.safetensors")
    squares = sum(
        tensor.double().square().sum().item()
        for name, tensor in model.items()
        if ".resblocks.3." in name and tensor.dim() > 1
    )
    assert found.blocks["TE1.03"].layers == 3
    assert found.blocks["TE1.03"].weight == pytest.approx(math.sqrt(squares), rel=1e-5)


# --- the original weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["copies", "checkpoint"])
def test_active_networks_do_not_change_what_is_measured(model: dict[str, Tensor], tmp_path: Path, source: str):
    live = copied(model)
    for algorithm in ("dora", "oft", "glora", "lora"):
        write(model, tmp_path / "loras", algorithm, only=("mid_block", "layers_0"))
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", model) if source == "checkpoint" else None
    with NetworkLoader(live, [tmp_path / "loras"], checkpoint=checkpoint) as loader:
        for algorithm in ("dora", "oft", "glora"):
            path = tmp_path / "loras" / f"{algorithm}.safetensors"
            pristine = measured(copied(model), path)
            assert loader.activate("<lora:lora:3>").ok
            found = loader.session.influence(path)
            assert {name: effect.delta for name, effect in found.layers.items()} == {
                name: effect.delta for name, effect in pristine.layers.items()
            }
            assert found.blocks == pristine.blocks
            loader.deactivate()


def test_the_models_weights_are_looked_at_once(model: dict[str, Tensor], tmp_path: Path):
    read: list[str] = []

    class Watched(DictModel):
        def tensor(self, name: str) -> Tensor:
            read.append(name)
            return super().tensor(name)

    path = write(model, tmp_path, only=("mid_block_attentions_0_proj_in",))
    beside = "model.diffusion_model.middle_block.0.emb_layers.1.weight"
    live = copied(model)
    session = NetworkLoader(Watched(live), [tmp_path]).session
    first = session.influence(path)
    assert beside in read
    read.clear()
    assert session.influence(path).blocks == first.blocks
    assert beside not in read
    live[beside].zero_()
    session.forget()  # other weights were loaded
    assert (session.influence(path).blocks["MID"].weight or 0) < (first.blocks["MID"].weight or 0)


def test_weights_on_the_meta_device_are_refused_with_a_sentence(model: dict[str, Tensor], tmp_path: Path):
    path = write(model, tmp_path, only=("mid_block",))
    gone = {name: tensor.to("meta") for name, tensor in model.items()}
    with pytest.raises(UnknownModel, match="not in memory"):
        measured(gone, path)


def test_other_weights_in_the_middle_end_the_measurement(model: dict[str, Tensor], tmp_path: Path):
    path = write(model, tmp_path, "dora", only=("mid_block",))
    session = NetworkLoader(copied(model), [tmp_path]).session
    with pytest.raises(UnknownModel, match="ask again"):
        session.influence(path, lambda done, total: session.forget() if done == 2 else None)


def test_what_the_progress_display_raises_ends_the_measurement(model: dict[str, Tensor], tmp_path: Path):
    path = write(model, tmp_path, only=("mid_block",))
    told: list[tuple[int, int]] = []

    class Cancelled(Exception):
        pass

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if done == 5:
            raise Cancelled

    session = NetworkLoader(copied(model), [tmp_path]).session
    with pytest.raises(Cancelled):
        session.influence(path, progress)
    assert [done for done, _ in told] == [1, 2, 3, 4, 5]
    told.clear()
    session.influence(path, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > len(load_file(path)) // 3


def test_activations_go_on_meanwhile(model: dict[str, Tensor], tmp_path: Path):
    path = write(model, tmp_path, "dora", only=("mid_block",))
    write(model, tmp_path, "lora", only=("mid_block",))
    expected = measured(copied(model), path)
    loader = NetworkLoader(copied(model), [tmp_path])
    reports: list[bool] = []

    def activate_in_between(done: int, total: int) -> None:
        if done % 3 == 0 and done < 30:
            prompt = "<lora:lora:1>" if done % 2 else ""
            thread = threading.Thread(target=lambda: reports.append(loader.activate(prompt).ok))
            thread.start()
            thread.join(20)

    found = loader.session.influence(path, activate_in_between)
    assert reports
    assert all(reports)
    assert found.layers == expected.layers
    assert found.blocks == expected.blocks


# --- what can not be measured -----------------------------------------------------------------------------------------


def test_layers_that_the_model_lacks_and_broken_ones_are_counted_with_their_reasons(
    model: dict[str, Tensor], tmp_path: Path
):
    layers = layers_of(model, only=("mid_block_attentions_0_proj",))
    path = write_network(tmp_path / "odd.safetensors", {**layers, "lora_unet_nowhere": (4, 4)}, "lora")
    tensors = load_file(path)
    broken = next(key for key in tensors if "proj_out.lora_up" in key)
    tensors[broken][0, 0] = float("nan")
    save_file({**tensors, "stranger.weight.odd": torch.ones(1)}, path)
    found = measured(copied(model), path)
    assert list(found.layers) == ["lora_unet_mid_block_attentions_0_proj_in"]
    assert sorted(found.unmeasured.values()) == [1, 1, 1]
    assert any("not finite" in reason for reason in found.unmeasured)
    assert "this model has no layer of that name" in found.unmeasured


def test_numbers_without_end_are_not_added_up(model: dict[str, Tensor], tmp_path: Path):
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    rows, cols = layers_of(model, only=(layer,))[layer][:2]
    up, down = torch.full((rows, 2), 1e30), torch.full((2, 1), 1e30)
    tensors = {"lokr_w1_a": up[:1], "lokr_w1_b": down, "lokr_w2": torch.full((rows, cols), 1e30)}
    save_file({f"{layer}.{key}": value.contiguous() for key, value in tensors.items()}, tmp_path / "x.safetensors")
    found = measured(copied(model), tmp_path / "x.safetensors")
    assert not found.layers
    assert any("too large" in reason for reason in found.unmeasured)


def test_a_file_that_can_not_be_read_is_a_sentence(model: dict[str, Tensor], tmp_path: Path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(UnreadableAdapter, match=r"cut\.safetensors"):
        measured(copied(model), tmp_path / "cut.safetensors")


# --- without a model --------------------------------------------------------------------------------------------------

SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_unet_mid_block_attentions_0_proj_in": (1280, 1280, 1, 1),
    "lora_te_text_model_encoder_layers_4_self_attn_q_proj": (768, 768),
}


def test_without_a_model_there_are_sizes_and_nothing_to_compare_them_with(tmp_path: Path):
    path = write_network(tmp_path / "a.safetensors", SD1, "lora")
    found = alone(path)
    assert list(found.blocks) == ["IN01", "MID", "TE1.04"]
    assert all(effect.relative is None and effect.delta > 0 for effect in found.blocks.values())
    assert (found.family, found.against_model, dict(found.unmeasured)) == ("sd1", False, {})


def test_without_a_model_what_depends_on_its_weights_is_not_measured(tmp_path: Path):
    found = alone(write_network(tmp_path / "a.safetensors", SD1, "dora"))
    assert not found.blocks
    assert dict(found.unmeasured) == {"how much it changes depends on the weights of a model that is not loaded": 3}


def test_a_network_for_another_model_is_measured_as_if_there_were_none(tmp_path: Path):
    path = write_network(tmp_path / "a.safetensors", SD1, "lora")
    other = model_with("linear", torch.ones(6, 6), None)
    found = NetworkLoader(other, [tmp_path]).session.influence(path)
    assert list(found.blocks) == ["IN01", "MID", "TE1.04"]
    assert not found.against_model


def test_a_file_of_an_unknown_model_has_no_blocks(tmp_path: Path):
    path = write_network(tmp_path / "a.safetensors", {"lora_unet_what_is_this": (8, 8)}, "lora")
    found = alone(path)
    assert (dict(found.blocks), found.family) == ({}, None)
    assert dict(found.unmeasured) == {"the model it was made for is not known": 1}
