"""What peft keeps beside the tensors: where it is found, which scale it gives a layer, and what nonsense does."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from peft import AdaLoraConfig, HRAConfig, LoHaConfig, LoraConfig, OFTConfig

from keyset_files import KeysetFile
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.peft_config import PeftConfig, find_peft_config

LAYER = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def config_of(**settings: object) -> PeftConfig:
    found = find_peft_config(Path("x.safetensors"), {"lora_adapter_metadata": json.dumps(settings)})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 4, "lora_alpha": 6}, 1.5),
        ({"r": 4, "alpha": 6}, 1.5),
        ({"r": 16, "lora_alpha": 8, "use_rslora": True}, 2.0),
        ({"r": 16, "lora_alpha": 8, "use_rslora": False}, 0.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"attn1.to_q": 12}}, 0.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"attn2.to_q": 12}}, 1.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {r".*attn1\.to_q": 12}}, 0.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"ttn1.to_q": 12}}, 1.5),
        (
            {
                "r": 4,
                "lora_alpha": 6,
                "rank_pattern": {r"^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 12},
            },
            0.5,
        ),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {r"^attn1.to_q": 12}}, 1.5),
        ({"r": 4, "lora_alpha": 6, "alpha_pattern": {"to_k": 1, "to_q": 2}}, 0.5),
        ({"r": 9, "lora_alpha": 6, "rank_pattern": {"to_q": 4}, "use_rslora": True}, 3.0),
        ({"lora_alpha": 6}, 6 / 8),  # the tensors' rank
        ({"r": 0, "lora_alpha": 6}, 6 / 8),
        ({"r": "4", "lora_alpha": 6}, 6 / 8),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {".*to_q": 12, "attn1.to_q": 24}}, 0.5),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"attn1.to_q": 24, ".*to_q": 12}}, 0.25),
        ({"r": 4, "lora_alpha": 6, "rank_pattern": {"to_q": 24, "attn1.to_q": 12}}, 0.25),
        ({"r": 4}, None),
        ({"r": 4, "lora_alpha": 10**400}, None),
        ({"r": 10**400, "lora_alpha": 4}, None),
        ({"r": 10**400, "lora_alpha": 4, "use_rslora": True}, None),
        ({"r": 4, "lora_alpha": "6"}, None),
        ({"r": 4, "lora_alpha": None}, None),
    ],
)
def test_the_scale_is_the_one_peft_computes(settings: dict[str, object], scale: float | None):
    assert config_of(**settings).scale(LAYER, 8) == (None if scale is None else pytest.approx(scale))


def test_a_rank_that_training_cut_down_is_the_tensors_own():
    config = config_of(r=4, lora_alpha=6)
    assert config.scale(LAYER, 3, ranks_vary=True) == 2.0


def test_an_alpha_that_is_no_number_gives_no_scale():
    text = '{"r": 4, "lora_alpha": NaN}'
    config = find_peft_config(Path("x.safetensors"), {"lora_adapter_metadata": text})
    assert config is not None
    assert config.scale(LAYER, 4) is None


def test_a_pipelines_metadata_hold_one_configuration_per_part():
    config = config_of(**{"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.r": 4, "text_encoder.lora_alpha": 1})
    assert config.scale("unet.mid_block.attentions.0.proj_in", 4) == 2.0
    assert config.scale("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 4) == 0.25
    assert config.scale("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", 4) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LoraConfig(), set()),
        (OFTConfig(oft_block_size=4), set()),
        (OFTConfig(oft_block_size=4, use_cayley_neumann=False), {"exact_cayley"}),
        (HRAConfig(), set()),
        (HRAConfig(apply_GS=True), {"hra_orthogonal"}),
        (LoHaConfig(), set()),
        (AdaLoraConfig(total_step=10), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_choice_that_no_tensor_shows_is_read_from_the_file_peft_writes(config, expected: set[str], tmp_path: Path):
    config.save_pretrained(str(tmp_path))
    found = find_peft_config(tmp_path / "adapter_model.safetensors", {})
    assert found is not None
    assert found.conventions(LAYER) == expected | {"peft_config"}


def test_only_pefts_own_file_name_has_a_configuration_beside_it(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}', encoding="utf-8")
    assert find_peft_config(tmp_path / "adapter_model.safetensors", {}) is not None
    assert find_peft_config(tmp_path / "adapter_model.bin", {}) is not None
    assert find_peft_config(tmp_path / "inkwash.safetensors", {}) is None


def test_the_metadata_come_before_the_file_beside(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}', encoding="utf-8")
    metadata = {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 2}'}
    found = find_peft_config(tmp_path / "adapter_model.safetensors", metadata)
    assert found is not None
    assert found.scale(LAYER, 4) == 0.5


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"text"', "[" * 100_000, '{"a":' * 100_000, " " * (1 << 20) + "{}"]
)
def test_nonsense_is_no_configuration(text: str, tmp_path: Path):
    assert find_peft_config(Path("x.safetensors"), {"lora_adapter_metadata": text}) is None
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    assert find_peft_config(tmp_path / "adapter_model.safetensors", {}) is None


def test_a_configuration_that_is_no_text_or_a_folder_is_none(tmp_path: Path):
    path = tmp_path / "adapter_model.safetensors"
    assert find_peft_config(path, {}) is None
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe{}")
    assert find_peft_config(path, {}) is None
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_config.json").mkdir()
    assert find_peft_config(path, {}) is None


@pytest.mark.parametrize("pattern", [r"(a+)+b", r"(.*)*x", r".*a.*a.*a.*a.*a.*a.*b", r"a{1,9}{1,9}{1,9}b", "[", "*", 7])
def test_a_pattern_made_to_search_for_ever_costs_nothing(pattern: object):
    config = config_of(r=4, lora_alpha=8, rank_pattern={str(pattern): 1}, alpha_pattern=pattern)
    started = time.perf_counter()
    assert config.scale("a" * 5000, 4) == 2.0
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("keys", "layer"),
    [
        ([f"down_blocks.{n}.attentions.0.proj_in" for n in range(2000)], "down_blocks.1999.attentions.0.proj_in"),
        ([f"^down_blocks.{n}.attentions.0.proj_in" for n in range(2000)], "down_blocks.1999.attentions.0.proj_in"),
        ([f".*[.]{n}x" for n in range(2000)], "a." * 90),
        ([".*[.].*x"], "a." * 90),
        ([".*[.].*x"], "a." * 20_000),
    ],
)
def test_a_long_pattern_takes_no_time_for_a_whole_file(keys: list[str], layer: str):
    started = time.perf_counter()
    config = config_of(r=4, lora_alpha=4, rank_pattern=dict.fromkeys(keys, 8))
    found = {config.scale(layer, 4) for _ in range(1000)}
    assert found == {0.5 if "proj_in" in layer else 1.0}
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("tensors", "settings", "scale"),
    [
        ({"lora_A.weight": (4, 8), "lora_B.weight": (8, 4)}, {"r": 4, "lora_alpha": 8}, 2.0),
        ({"lora_A.weight": (4, 8), "lora_B.weight": (8, 4)}, None, 1.0),
        ({"lora_A.weight": (4, 8), "lora_B.weight": (8, 4), "lora_E": (4, 1)}, {"r": 9, "lora_alpha": 8}, 2.0),
        (
            {"hada_w1_a": (8, 4), "hada_w1_b": (4, 8), "hada_w2_a": (8, 4), "hada_w2_b": (4, 8)},
            {"r": 4, "alpha": 2},
            0.5,
        ),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 4)}, {"r": 4, "alpha": 2}, 0.5),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 4)}, None, 1.0),
        ({"ia3_l": (8, 1)}, {"r": 4, "lora_alpha": 8}, 1.0),
        ({"oft_R.weight": (2, 6)}, {"r": 4, "alpha": 8}, 1.0),
    ],
)
def test_a_layer_takes_its_scale_from_the_configuration_where_the_algorithm_has_one(
    tensors: dict[str, tuple[int, ...]], settings: dict[str, object] | None, scale: float
):
    metadata = {} if settings is None else {"lora_adapter_metadata": json.dumps(settings)}
    (layer,) = parse_adapter(KeysetFile({f"{LAYER}.{key}": shape for key, shape in tensors.items()}, metadata)).layers
    assert layer.scale == pytest.approx(scale)
    assert math.isfinite(layer.scale)


def test_an_alpha_in_the_file_comes_before_the_configuration():
    tensors = {"lora_A.weight": (4, 8), "lora_B.weight": (8, 4), "alpha": ()}
    file = KeysetFile(
        {f"{LAYER}.{key}": shape for key, shape in tensors.items()},
        {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 8}'},
        {f"{LAYER}.alpha": 1.0},
    )
    (layer,) = parse_adapter(file).layers
    assert layer.scale == 0.25
