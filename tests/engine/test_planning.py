"""Step 7: the plan is data, it does not depend on the order of the tags, and no key of a file gets lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lycopatch.engine.adapter import Adapter, parse_adapter
from lycopatch.engine.dialects.suffixes import SUFFIXES
from lycopatch.engine.planning import PatchPlan, Wanted, plan
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.report import TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex
from networks import ALGORITHMS, Tensors, network, write_network
from random_models import layers_of, sd15, sd21, shapes_of

SHAPES = shapes_of("sd15_checkpoint", shrink=40)
Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@cache
def sd15_index() -> TargetIndex:
    return TargetIndex.of(SHAPES)


@pytest.fixture
def index() -> TargetIndex:
    return sd15_index()


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[int, ...]]:
    only = ("conv_in", "down_blocks_0_attentions_0", "down_blocks_0_resnets_0", "layers_0_")
    return layers_of(sd15(shrink=40), only=only)


def parsed(path: Path) -> Adapter:
    with open_tensor_file(path) as file:
        return parse_adapter(file)


def saved(path: Path, tensors: Tensors) -> Adapter:
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
    return parsed(path)


def wanted(adapter: Adapter, te: float = 0.8, unet: float | None = None, dyn: int | None = None) -> Wanted:
    unet = te if unet is None else unet
    return Wanted(AdapterRequest(adapter.path.stem, te, unet, dyn, f"<lora:{adapter.path.stem}>"), adapter)


def every_key_once(adapter_keys: Iterable[str], report: TagReport) -> None:
    assert sorted(key for keys in report.keys.values() for key in keys) == sorted(adapter_keys)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_layer_of_a_sound_network_is_planned_and_every_key_is_applied(
    algorithm: str, index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    tensors = network(layers, algorithm)
    adapter = saved(tmp_path / "a.safetensors", tensors)
    made, (report,) = plan([wanted(adapter)], index)
    assert not report.issues
    assert report.layers_applied == report.layers_total == len({key.partition(".")[0] for key in tensors})
    assert sorted(report.keys["applied"]) == sorted(tensors)
    assert len(made) >= report.layers_applied


def test_a_plan_does_not_depend_on_the_order_of_the_tags(
    index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    names = ("lora", "lokr", "dora", "norm", "full_with_bias")
    tags = [wanted(parsed(write_network(tmp_path / f"{name}.safetensors", layers, name)), 0.5) for name in names]
    tags.append(wanted(tags[0].adapter, -0.3))
    expected, _ = plan(tags, index)
    assert len(expected) > 20
    rng = random.Random(1)
    for _ in range(20):
        rng.shuffle(tags)
        shuffled, reports = plan(tags, index)
        assert shuffled == expected
        assert [report.name for report in reports] == [tag.request.name for tag in tags]


def test_plans_are_equal_exactly_when_they_write_the_same_numbers(
    index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    path = write_network(tmp_path / "a.safetensors", layers, "lora")
    first = parsed(path)

    def made(*tags: Wanted) -> PatchPlan:
        return plan(tags, index)[0]

    assert made(wanted(first, 0.8)) == made(wanted(parsed(path), 0.8))
    assert made(wanted(first, 0.8)) != made(wanted(first, 0.7))
    assert made(wanted(first, 0.8)) != made(wanted(first, 0.8), wanted(first, 0.8))
    assert made(wanted(first, 0.8)) != made(wanted(first, 0.8, dyn=2))
    renamed = replace(wanted(first, 0.8), request=AdapterRequest("other", 0.8, 0.8, None, "<lyco:other:.8>"))
    assert made(wanted(first, 0.8)) == made(renamed), "the tag's text writes no numbers"
    retrained = parsed(write_network(path, layers, "lora", seed=1))
    assert first.fingerprint != retrained.fingerprint
    assert made(wanted(first, 0.8)) != made(wanted(retrained, 0.8))


def test_multiplier_zero_plans_nothing_but_still_reports_the_layers(
    index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    adapter = parsed(write_network(tmp_path / "a.safetensors", layers, "lora"))
    nothing, (report,) = plan([wanted(adapter, 0.0)], index)
    assert len(nothing) == 0
    assert report.layers_applied == report.layers_total > 0
    text_only, _ = plan([wanted(adapter, 0.5, 0.0)], index)
    unet_only, _ = plan([wanted(adapter, 0.0, 0.5)], index)
    assert all(name.startswith("cond_stage_model.") for name in text_only.patches)
    assert all(name.startswith("model.diffusion_model.") for name in unet_only.patches)
    assert len(text_only) + len(unet_only) == report.layers_total


def test_text_encoder_and_unet_get_their_own_multipliers(
    index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    adapter = parsed(write_network(tmp_path / "a.safetensors", layers, "lora"))
    made, _ = plan([wanted(adapter, 0.25, 0.75)], index)
    seen = {
        name.partition(".")[0]: {each.multiplier for each in patch.contributions}
        for name, patch in made.patches.items()
    }
    assert seen == {"cond_stage_model": {0.25}, "model": {0.75}}


def test_a_layer_that_is_named_twice_in_one_file_is_applied_once_and_said_so(
    index: TargetIndex, tmp_path: Path
) -> None:
    shape = (8, 8)
    tensors = network({f"lora_unet_{Q}": shape}, "lora")
    ldm = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    tensors |= network({ldm: shape}, "lora", seed=1)
    made, (report,) = plan([wanted(saved(tmp_path / "twice.safetensors", tensors))], index)
    (patch,) = made.patches.values()
    assert len(patch.contributions) == report.layers_applied == 1
    (issue,) = report.issues
    assert issue.kind == "duplicate"
    every_key_once(tensors, report)


def test_a_layer_of_another_size_is_skipped_with_the_two_sizes(index: TargetIndex, tmp_path: Path) -> None:
    tensors = network({f"lora_unet_{Q}": (8, 8), "lora_unet_conv_in": (16, 4, 3, 3)}, "lora")
    _, (report,) = plan([wanted(saved(tmp_path / "a.safetensors", tensors))], index)
    assert (report.layers_applied, report.layers_total) == (1, 2)
    (issue,) = report.issues
    assert issue.layer == "lora_unet_conv_in"
    assert "16" in issue.message
    assert "8" in issue.message
    assert len(report.keys["skipped"]) == 3


def test_layers_known_to_be_damaged_are_left_out_and_reported(
    index: TargetIndex, layers: Mapping[str, tuple[int, ...]], tmp_path: Path
) -> None:
    adapter = parsed(write_network(tmp_path / "a.safetensors", layers, "lora"))
    whole, _ = plan([wanted(adapter)], index)
    broken = (str(adapter.path), adapter.fingerprint, f"lora_unet_{Q}")
    made, (report,) = plan([wanted(adapter)], index, {broken: "it holds NaN"})
    assert len(made) == len(whole) - 1
    assert report.layers_applied == report.layers_total - 1
    assert [issue.message for issue in report.issues if "it holds NaN" in issue.message]
    every_key_once(whole_keys(adapter), report)


def whole_keys(adapter: Adapter) -> list[str]:
    return [key for layer in adapter.layers for key in layer.keys.values()]


def test_a_fused_weight_is_one_patch_with_a_contribution_per_projection(tmp_path: Path) -> None:
    model = sd21(shrink=40)
    index = TargetIndex.of({name: tuple(tensor.shape) for name, tensor in model.items()})
    layers = layers_of(model, only=("layers_0_self_attn",))
    made, (report,) = plan([wanted(parsed(write_network(tmp_path / "a.safetensors", layers, "lora")))], index)
    assert report.layers_applied == 4
    by_tail = {name.rpartition("attn.")[2]: patch for name, patch in made.patches.items()}
    assert set(by_tail) == {"in_proj_weight", "out_proj.weight"}
    ranges = sorted(
        (each.target.weight[0].start, each.target.weight[0].stop) for each in by_tail["in_proj_weight"].contributions
    )
    width = layers[next(iter(layers))][0]
    assert ranges == [(0, width), (width, 2 * width), (2 * width, 3 * width)]


ODD_KEYS = (
    "bundle_emb.ink.string_to_param.*", "bundle_emb.ink.clip_l", "<s1>", "lora_unet_nowhere.lora_up.weight", "x",
    "alpha", ".alpha",
    "lora_unet_conv_in.", "base_model.model.vera_A", "other.vera_A", "vera_B", "conv_in.vera_lambda_b",
    "conv_in.vera_lambda_d", "lora_unet_conv_in.lora_A.default.weight", "lora_unet_conv_in.lora_B.weight",
    "lora_unet_conv_in.base_layer.weight", "modules_to_save.conv_in.weight", "unet:0:up", "unet:0:down", "unet:0:alpha",
    "text_encoder:3:up", "a.___.layer.lora_up.weight", "a.___.alpha", "lora_unet_conv_in.oft_blocks.0",
    "lora_unet_conv_in.oft_blocks.1", "lllite_x.weight",
)  # fmt: skip


@cache
def some_tensors() -> list[tuple[str, torch.Tensor]]:
    """Keys and tensors of every algorithm on layers of every kind."""
    some = {f"lora_unet_{Q}": (8, 8), "lora_te_text_model_encoder_layers_0_layer_norm1": (24,)}
    some |= {"lora_unet_conv_in": (8, 4, 3, 3), "lora_unet_down_blocks_0_resnets_0_conv1": (8, 8, 3, 3)}
    found: dict[str, torch.Tensor] = {}
    for number, algorithm in enumerate(ALGORITHMS):
        found |= network(some, algorithm, seed=number)
    return list(found.items())


@given(st.integers(0, 2**32))
def test_every_key_of_any_mixture_of_keys_ends_in_exactly_one_list(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
) -> None:
    rng = random.Random(seed)
    tensors: Tensors = {}
    for key, tensor in rng.sample(some_tensors(), rng.randrange(1, 60)):
        layer, _, suffix = key.partition(".")
        change = rng.randrange(8)
        if change == 0:
            suffix = rng.choice(list(SUFFIXES))
        elif change == 1:
            layer = rng.choice(some_tensors())[0].partition(".")[0]
        elif change == 2:
            tensor = rng.choice(some_tensors())[1]
        tensors[f"{layer}.{suffix}"] = tensor
    for key in rng.sample(ODD_KEYS, rng.randrange(len(ODD_KEYS))):
        tensors[key] = rng.choice(some_tensors())[1]
    adapter = saved(tmp_path_factory.getbasetemp() / "mixture.safetensors", tensors)
    _, (report,) = plan([wanted(adapter)], sd15_index())
    every_key_once(tensors, report)
    assert adapter.total_keys == len(tensors)
    assert report.layers_total == len(adapter.layers)
    for issue in report.issues:
        assert issue.message.endswith(".")
