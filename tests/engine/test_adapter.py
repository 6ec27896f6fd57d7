"""A file's keys → layers, embeddings and leftovers: every key in one place, with a reason where it is no layer's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keyset_files import KeysetFile, keyset_names, model_shapes, read_keyset
from lycopatch.engine.adapter import Adapter, AdapterLayer, Leftover, parse_adapter
from lycopatch.engine.errors import MalformedLayer
from lycopatch.engine.planning import Wanted, plan
from lycopatch.engine.report import TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex
from small_model import PLACES, Bench, model_with

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
LORA = {"lora_up.weight": (8, 4), "lora_down.weight": (4, 8), "alpha": ()}


def layer_keys(layer: str, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.{key}": shape for key, shape in tensors.items()}


def parsed(tensors: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Adapter:
    return parse_adapter(KeysetFile(tensors, metadata))


def places(adapter: Adapter) -> Counter[str]:
    """How often each key is accounted for. VeRA's shared matrices belong to several layers and count once."""
    keys = Counter(
        key for layer in adapter.layers for suffix, key in layer.keys.items() if not suffix.startswith("vera_")
    )
    keys.update({key for layer in adapter.layers for suffix, key in layer.keys.items() if suffix.startswith("vera_")})
    keys.update(key for embedding in adapter.embeddings for key in embedding.keys.values())
    keys.update(leftover.key for leftover in adapter.leftovers)
    return keys


# --- nothing is lost --------------------------------------------------------------------------------------------------

ALL_KEYS = sorted({(key, spec.shape) for name in keyset_names() for key, spec in list(read_keyset(name).items())[:60]})
ODD_KEYS = [
    ("", (2,)),
    ("alpha", ()),
    ("no.known.end", (2, 2)),
    (f"{Q}.nonsense", (3,)),
    (f"{Q}.lora_up.default.weight", (8, 4)),
    ("bundle_emb.ink.string_to_param.*", (2, 768)),
    ("base_model.model.x.base_layer.weight", (8, 8)),
    ("modules_to_save.x.weight", (8, 8)),
    ("base_model.vera_A", (4, 8)),
    ("base_model.vera_B", (8, 4)),
    ("base_model.model.x.vera_lambda_b", (8,)),
    ("base_model.model.x.vera_lambda_d", (4,)),
    (f"{Q}.lora_down.weight", (0, 8)),
]


@given(st.lists(st.sampled_from(ALL_KEYS + ODD_KEYS * 30), max_size=40))
def test_every_key_of_any_mixture_ends_in_exactly_one_place(chosen: list[tuple[str, tuple[int, ...]]]):
    tensors = dict(chosen)
    adapter = parsed(tensors)
    assert places(adapter) == Counter(list(tensors))
    assert adapter.total_keys == len(tensors)
    assert all(leftover.reason and leftover.outcome in ("unknown", "skipped") for leftover in adapter.leftovers)


@given(st.lists(st.sampled_from(ALL_KEYS + ODD_KEYS * 30), max_size=30))
def test_so_it_does_in_the_report_of_a_plan(chosen: list[tuple[str, tuple[int, ...]]]):
    tensors = dict(chosen)
    report = planned(parsed(tensors))
    reported = Counter(key for keys in report.keys.values() for key in keys)
    assert reported == Counter(list(tensors))


def planned(adapter: Adapter) -> TagReport:
    _, (report,) = plan([Wanted(AdapterRequest("n", 1.0, 1.0, None, "<lora:n>"), adapter)], _sd1())
    return report


@cache
def _sd1() -> TargetIndex:
    return TargetIndex.of(model_shapes("sd15_checkpoint"))


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_file_may_mix_algorithms():
    tensors = layer_keys(Q, LORA)
    tensors |= layer_keys("lora_unet_conv_in", {"diff": (320, 4, 3, 3), "diff_b": (320,)})
    tensors |= layer_keys("lora_unet_conv_norm_out", {"w_norm": (320,), "b_norm": (320,)})
    tensors |= layer_keys("lora_te_text_model_encoder_layers_0_mlp_fc1", {"lokr_w1": (8, 8), "lokr_w2": (384, 96)})
    adapter = parsed(tensors)
    assert adapter.algorithms == {"LoRA": 1, "Full": 1, "Norm": 1, "LoKr": 1}
    assert adapter.dialects == {"kohya": 4}
    assert adapter.leftovers == ()


def test_a_layers_facts():
    (layer,) = parsed(layer_keys(Q, {**LORA, "dora_scale": (8, 1), "diff_b": (8,)})).layers
    assert (layer.name, layer.dialect, layer.algorithm_name, layer.rank, layer.scale) == (Q, "kohya", "LoRA", 4, 0.5)
    assert layer.modifiers == ("DoRA", "bias")
    assert layer.changes_weight
    assert layer.changes_bias
    assert layer.keys["lora_up"] == f"{Q}.lora_up.weight"
    assert layer.refusal is None
    assert layer.mismatch((8, 8)) is None
    assert layer.mismatch((8, 8, 1, 1)) is None
    assert layer.mismatch((8, 9)) == "it was made for 8 inputs, this model's layer has 9"
    assert layer.mismatch((9, 8)) == "it was made for 8 outputs, this model's layer has 9"


@pytest.mark.parametrize(
    ("tensors", "weight", "bias"),
    [
        ({"diff": (8, 8)}, True, False),
        ({"diff_b": (8,)}, False, True),
        ({"w_norm": (8,)}, True, False),
        ({"b_norm": (8,)}, False, True),
        ({"w_norm": (8,), "b_norm": (8,)}, True, True),
        ({"lora_up.weight": (8, 4), "lora_down.weight": (4, 8), "lora_up.bias": (8,)}, True, True),
        ({"ia3_l": (8, 1)}, True, True),
    ],
)
def test_a_layer_says_what_it_changes(tensors: dict[str, tuple[int, ...]], weight: bool, bias: bool):
    (layer,) = parsed(layer_keys(Q, tensors)).layers
    assert (layer.changes_weight, layer.changes_bias) == (weight, bias)


def test_nothing_but_single_numbers_is_read():
    class Guarded(KeysetFile):
        def read(self, key: str) -> Tensor:
            assert self.specs[key].numel == 1, key
            return super().read(key)

    for name in ("sd1_lycoris_ia3", "sd1_lycoris_lora_dora_out", "sd1_onetrainer_oft2"):
        assert parse_adapter(Guarded(read_keyset(name))).layers


@pytest.mark.parametrize(
    ("layer", "conventions"),
    [
        (Q, {"onetrainer"}),
        ("oft_unet_mid_block_attentions_0_proj_in", {"kohya_oft"}),
        ("base_model.model.x", set()),
        ("unet.x", set()),
    ],
)
def test_the_prefix_names_the_trainers_way(layer: str, conventions: set[str]):
    (found,) = parsed(layer_keys(layer, LORA)).layers
    assert found.conventions == conventions


def test_what_hcp_calls_alpha_is_the_whole_scale():
    file = KeysetFile(
        {"a.b.___.layer.lora_up.weight": (8, 4), "a.b.___.layer.lora_down.weight": (4, 8), "a.b.___.alpha": ()},
        values={"a.b.___.alpha": 0.25},
    )
    (layer,) = parse_adapter(file).layers
    assert (layer.scale, layer.dialect) == (0.25, "hcp")


def test_positions_of_cloneofsimo_are_named_with_their_number():
    tensors = {f"unet:{i}:{end}": shape for i in range(3) for end, shape in (("up", (8, 4)), ("down", (4, 8)))}
    tensors |= {"text_encoder:0:up": (8, 4), "text_encoder:0:down": (4, 8)}
    adapter = parsed(tensors)
    assert [layer.name for layer in adapter.layers] == ["unet:0@3", "unet:1@3", "unet:2@3", "text_encoder:0@1"]
    assert adapter.dialects == {"cloneofsimo": 4}


def test_veras_matrices_are_shared_by_all_layers():
    tensors = {"base_model.vera_A": (4, 8), "base_model.vera_B": (8, 4)}
    for name in ("x", "y"):
        tensors |= {f"base_model.model.{name}.vera_lambda_b": (8,), f"base_model.model.{name}.vera_lambda_d": (4,)}
    adapter = parsed(tensors)
    assert len(adapter.layers) == 2
    assert all(layer.refusal is None and len(layer.keys) == 4 for layer in adapter.layers)
    assert adapter.leftovers == ()
    without = parsed({key: shape for key, shape in tensors.items() if "lambda" in key})
    assert all("shared matrices A and B" in str(layer.refusal) for layer in without.layers)
    alone = parsed({key: shape for key, shape in tensors.items() if "lambda" not in key})
    assert [leftover.reason for leftover in alone.leftovers] == ["no layer uses it"] * 2


# --- leftovers --------------------------------------------------------------------------------------------------------


def only_leftovers(adapter: Adapter, kind: str) -> list[Leftover]:
    assert {leftover.kind for leftover in adapter.leftovers} == {kind}
    return list(adapter.leftovers)


def test_an_incomplete_layer_says_what_is_missing_and_the_others_are_used():
    tensors = layer_keys(Q, LORA) | layer_keys(
        "lora_unet_conv_out", {"hada_w1_a": (4, 4), "hada_w1_b": (4, 9), "hada_w2_a": (4, 4)}
    )
    adapter = parsed(tensors)
    assert [layer.name for layer in adapter.layers] == [Q]
    leftovers = only_leftovers(adapter, "unknown algorithm")
    assert len(leftovers) == 3
    assert {leftover.reason for leftover in leftovers} == {"closest is LoHa: missing hada_w2_b"}
    assert {leftover.layer for leftover in leftovers} == {"lora_unet_conv_out"}


def test_a_layer_with_one_tensor_too_many_is_used_without_it():
    adapter = parsed(layer_keys(Q, {**LORA, "diff": (8, 8)}))
    (layer,) = adapter.layers
    assert (layer.algorithm_name, layer.extra) == ("LoRA", ("diff",))
    assert "diff" not in layer.keys
    (leftover,) = only_leftovers(adapter, "unknown key")
    assert (leftover.key, leftover.reason, leftover.layer) == (f"{Q}.diff", "LoRA has no diff", Q)


def test_two_whole_algorithms_in_one_layer_are_left_out_with_a_reason():
    adapter = parsed(layer_keys(Q, {**LORA, "lokr_w1": (2, 2), "lokr_w2": (4, 4)}))
    assert adapter.layers == ()
    (reason,) = {leftover.reason for leftover in only_leftovers(adapter, "unknown algorithm")}
    assert reason == "closest is LoKr and LoRA: each explains the layer as well as the other"


def test_a_key_that_no_trainer_writes_is_unknown():
    adapter = parsed(layer_keys(Q, LORA) | {f"{Q}.lora_sideways": (3,), "metadata_blob": (1,)})
    assert [leftover.key for leftover in only_leftovers(adapter, "unknown key")] == [
        f"{Q}.lora_sideways",
        "metadata_blob",
    ]
    assert len(adapter.layers) == 1


def test_an_empty_tensor_counts_as_absent():
    adapter = parsed(layer_keys(Q, {**LORA, "dora_scale": (0, 1)}))
    (layer,) = adapter.layers
    assert layer.modifiers == ()
    assert [leftover.key for leftover in only_leftovers(adapter, "empty tensor")] == [f"{Q}.dora_scale"]
    assert parsed(layer_keys(Q, {"lora_up.weight": (8, 0), "lora_down.weight": (0, 8)})).layers == ()


def test_an_empty_alpha_counts_as_absent():
    (layer,) = parsed(layer_keys(Q, {**LORA, "alpha": (0,)})).layers
    assert layer.scale == 1.0


def test_one_tensor_in_two_spellings_is_taken_once():
    adapter = parsed(layer_keys(Q, {**LORA, "lora_A.weight": (4, 8), "lora_B.default.weight": (8, 4)}))
    (layer,) = adapter.layers
    assert layer.keys["lora_down"] == f"{Q}.lora_down.weight"
    duplicates = only_leftovers(adapter, "duplicate")
    assert {leftover.key for leftover in duplicates} == {f"{Q}.lora_A.weight", f"{Q}.lora_B.default.weight"}
    assert all(leftover.outcome == "skipped" for leftover in duplicates)


def test_a_copy_of_the_base_models_weights_is_skipped():
    keys = ["base_model.model.x.base_layer.weight", "base_model.model.x.base_layer.bias", "modules_to_save.y.weight"]
    tensors: dict[str, tuple[int, ...]] = dict.fromkeys(keys, (8, 8))
    adapter = parsed(tensors | layer_keys("base_model.model.x", {"lora_A.weight": (4, 8), "lora_B.weight": (8, 4)}))
    assert len(adapter.layers) == 1
    assert [leftover.key for leftover in only_leftovers(adapter, "base weight")] == keys


def test_a_layer_named_in_both_ways_of_a_u_net_is_applied_once():
    """Converters write original and diffusers names side by side."""
    up, down = torch.randn(640, 4), torch.randn(4, 640)
    names = ["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
             "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"]  # fmt: skip
    tensors = {
        f"{name}.{key}": tuple(value.shape)
        for name in names
        for key, value in (("lora_up.weight", up), ("lora_down.weight", down))
    }
    report = planned(parsed(tensors))
    assert (report.layers_applied, report.layers_total) == (1, 2)
    assert [issue.kind for issue in report.issues] == ["duplicate"]
    assert len(report.keys["applied"]) == len(report.keys["skipped"]) == 2
    assert names[0] in report.issues[0].message or names[1] in report.issues[0].message


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_an_embedding_that_travels_in_the_file_is_no_layer():
    tensors: dict[str, tuple[int, ...]] = {
        "bundle_emb.ink.string_to_param.*": (4, 768),
        "bundle_emb.wash.clip_l": (2, 768),
        "bundle_emb.wash.clip_g": (2, 1280),
        "<s1>": (1, 768),
        **layer_keys(Q, LORA),
    }
    adapter = parsed(tensors, {"<s1>": "<embed>"})
    assert {one.name: dict(one.keys) for one in adapter.embeddings} == {
        "ink": {"string_to_param.*": "bundle_emb.ink.string_to_param.*"},
        "wash": {"clip_l": "bundle_emb.wash.clip_l", "clip_g": "bundle_emb.wash.clip_g"},
        "<s1>": {"embed": "<s1>"},
    }
    assert adapter.leftovers == ()
    assert len(adapter.layers) == 1


# --- what is no network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (dict.fromkeys(model_shapes("sd15_checkpoint"), (2, 2)), "a model's whole weights"),
        (dict.fromkeys(model_shapes("sdxl_base_diffusers_unet"), (2, 2)), "a model's whole weights"),
        ({"lora_controlnet": (1,), "input_blocks.0.0.up": (320, 4)}, "a Control-LoRA"),
        (
            {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight": (16, 3, 4, 4)},
            "LLLite",
        ),
        ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "a ControlNet"),
        ({"emb_params": (4, 768)}, "a textual-inversion embedding"),
        ({"string_to_param.*": (4, 768)}, "a textual-inversion embedding"),
        ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "a textual-inversion embedding"),
    ],
    ids=["checkpoint", "u-net", "control-lora", "lllite", "controlnet", "embedding", "old embedding", "sdxl embedding"],
)
def test_a_file_that_is_something_else_is_called_by_its_name(tensors: dict[str, tuple[int, ...]], words: str):
    adapter = parsed(tensors)
    assert words in str(adapter.not_a_network)
    assert places(adapter) == Counter(list(tensors))


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"nonsense": (3,)},
        layer_keys(Q, {"lora_down.weight": (4, 8)}),
        layer_keys(Q, {"lora_up.weight": (8, 4), "lora_down.weight": (5, 8)}),
        layer_keys(Q, LORA),
    ],
    ids=["nothing", "nonsense", "half a network", "damaged network", "network"],
)
def test_a_network_is_never_taken_for_something_else(tensors: dict[str, tuple[int, ...]]):
    assert parsed(tensors).not_a_network is None


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_found_when_they_are_read(bad: float):
    values = torch.ones(8, 4)
    values[7, 3] = bad
    file = KeysetFile(layer_keys(Q, LORA), values={f"{Q}.lora_up.weight": values})
    (layer,) = parse_adapter(file).layers
    with pytest.raises(MalformedLayer, match=r"lora_up\.weight\" holds numbers that are not finite"):
        layer.load(file, torch.device("cpu"), torch.float32)


def test_large_numbers_whose_sum_overflows_are_finite():
    file = KeysetFile(layer_keys(Q, LORA), values={f"{Q}.lora_up.weight": torch.full((8, 4), 3e38)})
    (layer,) = parse_adapter(file).layers
    assert layer.load(file, torch.device("cpu"), torch.float32).tensors["lora_up"].shape == (8, 4)


def test_a_trainers_copy_in_both_spellings_changes_the_weight_once(tmp_path: Path):
    weight, up, down = torch.randn(8, 8), torch.randn(8, 4), torch.randn(4, 8)
    bench = Bench(model_with("linear", weight, None), tmp_path)
    dotted = PLACES["linear"]
    bench.write(
        {f"{Q}.lora_up.weight": up, f"{Q}.lora_down.weight": down}
        | {f"unet.{dotted}.lora_B.weight": up, f"unet.{dotted}.lora_A.weight": down}
    )
    report = bench.activate()
    assert [issue.kind for issue in report.all_issues] == ["duplicate"]
    torch.testing.assert_close(bench.model[f"{dotted}.weight"], weight + up @ down)


def test_a_layer_may_be_compared_and_reused():
    first, second = (parsed(layer_keys(Q, LORA)).layers[0] for _ in range(2))
    assert isinstance(first, AdapterLayer)
    assert first == second
