"""What metadata say about a training: everybody's spelling, and nobody's nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycopatch.engine.metadata import LONGEST_TEXT, presentable
from lycopatch.engine.training import MOST_TAGS, training_facts

KOHYA = {
    "ss_output_name": "inkwash",
    "ss_sd_model_name": "C:\\models\\v1-5-pruned.safetensors",
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "16",
    "ss_network_alpha": "8.0",
    "ss_network_args": json.dumps({"algo": "loha", "conv_dim": "4", "use_tucker": "True", "preset": "full"}),
    "ss_num_train_images": "240",
    "ss_num_reg_images": "0",
    "ss_resolution": "(512, 768)",
    "ss_bucket_info": json.dumps(
        {"buckets": {"0": {"resolution": [512, 768], "count": 9}, "1": {"resolution": [768, 512], "count": 3}}}
    ),
    "ss_dataset_dirs": json.dumps(
        {"10_ink": {"n_repeats": 10, "img_count": 12}, "2_tree": {"n_repeats": 2, "img_count": 5}}
    ),
    "ss_reg_dataset_dirs": json.dumps({"1_person": {"n_repeats": 1, "img_count": 30}}),
    "ss_tag_frequency": json.dumps({"10_ink": {"ink wash": 12, " tree ": 3}, "2_tree": {"tree": 5}}),
    "ss_steps": "1200",
    "ss_epoch": "5",
    "ss_num_epochs": "10",
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "1e-4",
    "ss_text_encoder_lr": "None",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit",
    "ss_lr_scheduler": "cosine",
    "ss_mixed_precision": "fp16",
    "ss_seed": "0",
    "ss_clip_skip": "2",
    "ss_training_started_at": "1700000000.5",
    "ss_training_finished_at": "1700003600.0",
    "ss_training_comment": "trained with care",
    "modelspec.date": "2023-11-14T22:13:20",
    "modelspec.trigger_phrase": "ink wash",
}


def test_kohyas_metadata_become_facts() -> None:
    facts = training_facts(KOHYA)
    assert facts["tool"] == "LyCORIS in kohya's sd-scripts"
    assert facts["base_model"] == "v1-5-pruned.safetensors"  # not the folder on somebody's computer
    assert facts["network"] == {
        "module": "lycoris.kohya",
        "dim": 16,
        "alpha": 8,
        "args": {"algo": "loha", "conv_dim": 4, "use_tucker": "True", "preset": "full"},
    }
    numbers = {
        "images": 240,
        "regularization_images": 0,
        "steps": 1200,
        "epoch": 5,
        "epochs": 10,
        "seed": 0,
        "clip_skip": 2,
    }
    assert {name: facts[name] for name in numbers} == numbers
    assert (facts["learning_rate"], facts["unet_learning_rate"]) == (0.0001, 0.0001)
    assert "text_encoder_learning_rate" not in facts
    assert facts["buckets"][0] == {"width": 512, "height": 768, "images": 9}
    assert facts["datasets"] == [
        {"folder": "10_ink", "images": 12, "repeats": 10, "regularization": False},
        {"folder": "2_tree", "images": 5, "repeats": 2, "regularization": False},
        {"folder": "1_person", "images": 30, "repeats": 1, "regularization": True},
    ]
    assert facts["tags"] == [{"tag": "ink wash", "count": 12}, {"tag": "tree", "count": 8}]
    assert facts["different_tags"] == 2
    assert (facts["started"], facts["finished"]) == ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20Z")
    assert facts["comment"] == "trained with care"
    assert facts["trigger_phrase"] == "ink wash"


def test_newer_kohya_keeps_its_numbers_per_dataset() -> None:
    dataset = {
        "tag_frequency": {"a": {"cat": 2}},
        "bucket_info": {"buckets": {"0": {"resolution": [1024, 1024], "count": 4}}},
        "subsets": [{"img_count": 4, "num_repeats": 3, "image_dir": "/home/me/cats", "is_reg": False}],
    }
    facts = training_facts({"ss_datasets": json.dumps([dataset, dataset])})
    assert facts["tags"] == [{"tag": "cat", "count": 4}]
    assert facts["buckets"] == [{"width": 1024, "height": 1024, "images": 8}]
    assert facts["datasets"][0] == {"folder": "cats", "images": 4, "repeats": 3, "regularization": False}


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({"ss_network_module": "networks.lora"}, "kohya's sd-scripts"),
        ({"ss_network_module": "locon.locon_kohya"}, "LyCORIS in kohya's sd-scripts"),
        ({"ot_branch": "master", "modelspec.architecture": "stable-diffusion-v1/lora"}, "OneTrainer"),
        ({"software": json.dumps({"name": "ai-toolkit", "version": "0.7"}), "ss_output_name": "x"}, "ai-toolkit 0.7"),
        ({"lora_adapter_metadata": "{}", "format": "pt"}, "diffusers or peft"),
        ({"unet:0:rank": "4", "unet": "[]"}, "cloneofsimo/lora"),
        ({"modelspec.implementation": "https://example.org/trainer"}, "https://example.org/trainer"),
        ({"format": "pt"}, None),
    ],
)
def test_the_tool_is_told_from_what_it_writes(metadata: dict[str, str], tool: str | None) -> None:
    assert training_facts(metadata).get("tool") == tool


def test_onetrainers_configuration_gives_facts_and_no_folders() -> None:
    config = {
        "base_model_name": "/home/me/models/base.safetensors",
        "output_model_destination": "/home/me/secret",
        "learning_rate": 0.0003,
        "optimizer": {"optimizer": "ADAMW"},
        "lora_rank": 16,
        "lora_alpha": 1.0,
        "epochs": 100,
    }
    facts = training_facts({"ot_config": json.dumps(config), "ot_revision": "abc"})
    assert (facts["tool"], facts["base_model"], facts["optimizer"]) == ("OneTrainer abc", "base.safetensors", "ADAMW")
    assert facts["network"] == {"dim": 16, "alpha": 1}
    assert "/home" not in json.dumps(facts)


def test_ai_toolkit_and_peft_are_read_from_their_own_structures() -> None:
    assert training_facts({"training_info": json.dumps({"step": 2000, "epoch": 7})}) == {"steps": 2000, "epoch": 7}
    adapter = {"unet.r": 8, "unet.lora_alpha": 4}
    assert training_facts({"lora_adapter_metadata": json.dumps(adapter)})["network"] == {"dim": 8, "alpha": 4}


def test_what_is_not_stated_is_not_there() -> None:
    assert training_facts({}) == {}
    assert training_facts({"ss_seed": "None", "ss_output_name": " ", "ss_steps": "", "ss_epoch": "nan"}) == {}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "[1]", "3", '"x"', "NaN", "[" * 100_000),
        *('{"a": 1}', '{"a": {"b": []}}', '{"a": {"b": -3}}', '{"a": {"b": 1e999}}', '{"a": {"b": true}}'),
        *('{"a": {"b": ' + "9" * 5000 + "}}", '{"buckets": [1, {}]}'),
        '{"buckets": {"0": {"resolution": "large", "count": 1}, "1": {"resolution": [1], "count": 1}}}',
    ],
)
def test_broken_structures_are_left_out(text: str) -> None:
    names = ("ss_tag_frequency", "ss_bucket_info", "ss_dataset_dirs", "ss_datasets", "ss_network_args", "ot_config")
    for name in (*names, "software", "training_info", "lora_adapter_metadata"):
        facts = training_facts({name: text})
        json.dumps(facts, allow_nan=False)
        assert not {"tags", "buckets", "datasets"} & facts.keys()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["buckets", "0", "resolution", "count", "r"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from([*KOHYA, "ot_config", "ss_datasets", "software"]), _JSON.map(json.dumps) | st.text()
    )
)
def test_anything_at_all_gives_facts_that_can_be_stored(metadata: dict[str, str]) -> None:
    json.dumps(training_facts(metadata), allow_nan=False, ensure_ascii=False).encode("utf-8")
    json.dumps(presentable(metadata), ensure_ascii=False)


@pytest.mark.parametrize("text", ["-1", "1e300", "nan", "yesterday", "9" * 5000])
def test_a_time_that_is_none_is_left_out(text: str) -> None:
    assert "started" not in training_facts({"ss_training_started_at": text})


def test_half_characters_in_json_do_not_spread() -> None:
    facts = training_facts({"ss_tag_frequency": '{"a": {"\\ud800": 3}}'})
    json.dumps(facts, ensure_ascii=False).encode("utf-8")
    assert facts["tags"] == [{"tag": "?", "count": 3}]


def test_thousands_of_tags_are_counted_and_the_first_hundred_named() -> None:
    tags = {f"tag {number}": number + 1 for number in range(5000)}
    facts = training_facts({"ss_tag_frequency": json.dumps({"a": tags})})
    assert facts["different_tags"] == 5000
    assert len(facts["tags"]) == MOST_TAGS
    assert facts["tags"][0] == {"tag": "tag 4999", "count": 5000}


def test_shown_metadata_are_small_whatever_the_file_holds() -> None:
    metadata = {f"key {number}": "x" * 5000 for number in range(3000)} | {"k" * 5000: "data:image/png;base64,AAAA"}
    shown = presentable(metadata)
    assert len(json.dumps(shown)) < 1100 * (LONGEST_TEXT + 300)
    assert shown["…"] == "2001 more entries"
    assert presentable({"thumbnail": "xyz", "a": "b"}) == {"thumbnail": "(a picture, 3 characters)", "a": "b"}
