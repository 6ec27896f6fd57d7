"""The details of a network as a page gets them: file, words, training, Civitai, and the keys against the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lycopatch.engine.catalog import AdapterFile
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.session import Session
from lycopatch.engine.types import Fingerprint
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.ui.answers import as_json
from lycopatch.ui.gallery.details import MOST_EXAMPLES, MOST_GROUPS, details, health, influence
from networks import write_network
from random_models import layers_of, sd15

HOSTILE = '"><img src=x onerror=alert(1)>'
METADATA = {
    "ss_output_name": "ink",
    "ss_sd_model_name": "/home/somebody/models/v1-5-pruned.safetensors",
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "4",
    "ss_network_alpha": "2",
    "ss_network_args": json.dumps({"algo": "lora", "conv_dim": 8}),
    "ss_num_train_images": "120",
    "ss_num_reg_images": "40",
    "ss_resolution": "(512, 768)",
    "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 768], "count": 100}}}),
    "ss_dataset_dirs": json.dumps({"10_ink": {"n_repeats": 10, "img_count": 12}}),
    "ss_reg_dataset_dirs": json.dumps({"1_photo": {"n_repeats": 1, "img_count": 40}}),
    "ss_steps": "1500",
    "ss_max_train_steps": "2000",
    "ss_epoch": "8",
    "ss_num_epochs": "10",
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "0.0001",
    "ss_text_encoder_lr": "5e-05",
    "ss_optimizer": "AdamW8bit",
    "ss_lr_scheduler": "cosine",
    "ss_training_finished_at": "1700000000",
    "ss_tag_frequency": json.dumps({"10_ink": {"ink wash": 12, HOSTILE: 3}}),
    "modelspec.trigger_phrase": "inkwash style",
}
PARTS = ("mid_block_attentions_0", "encoder_layers_0_")


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    return sd15(shrink=40)


@pytest.fixture(scope="module")
def session(model: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Session:
    return NetworkLoader(dict(model), [tmp_path_factory.mktemp("none")]).session


@pytest.fixture
def network(model: dict[str, Tensor], tmp_path: Path) -> Path:
    layers = layers_of(model, only=PARTS)
    return write_network(tmp_path / "Lora" / "styles" / "ink.safetensors", layers, "lora", metadata=METADATA)


def entry(path: Path) -> AdapterFile:
    status = path.stat()
    return AdapterFile(path, f"styles/{path.stem}", path.stem, None, Fingerprint(status.st_size, status.st_mtime_ns))


def asked(path: Path, **options: Any) -> dict[str, Any]:
    """The answer as it arrives."""
    return json.loads(json.dumps(as_json(details({"id": "0" * 16, "name": "ink"}, entry(path), **options))))


# --- the file itself --------------------------------------------------------------------------------------------------


def test_the_answer_has_every_field_of_the_contract(network: Path, session: Session):
    found = asked(network, session=session, hashes={"sha256": "ab" * 32})
    assert set(found) == set(
        "card tag file words tags trigger civitai training what matched embeddings error problem metadata".split()
    )
    keys = len(load_file(network))
    assert found["tag"] == "<lora:ink:1>"
    assert found["card"] == {"id": "0" * 16, "name": "ink"}
    assert found["file"] == {
        "path_below": "styles/ink.safetensors",
        "size": network.stat().st_size,
        "modified": pytest.approx(network.stat().st_mtime),
        "dtypes": {"F16": keys * 2 // 3, "F32": keys // 3},
        "keys": keys,
        "hashes": {"sha256": "ab" * 32},
    }
    assert (found["error"], found["problem"], found["civitai"], found["embeddings"]) == (None, None, None, [])
    assert found["trigger"] == "inkwash style"
    assert found["tags"] == [["ink wash", 12], [HOSTILE, 3]]
    assert found["metadata"]["ss_output_name"] == "ink"


def test_what_it_is_says_algorithm_rank_and_parts(network: Path):
    what = asked(network)["what"]
    assert set(what) == set("algorithms ranks components modifiers dialects family evidence confidence".split())
    assert what["ranks"] == {"4": sum(what["algorithms"].values())}
    assert what["dialects"] == ["kohya"]


def test_no_place_of_this_computer_and_none_of_the_trainers_is_told(network: Path, session: Session):
    text = json.dumps(asked(network, session=session))
    assert str(network.parent) not in text
    assert "/home/somebody" not in text.replace(json.dumps(METADATA["ss_sd_model_name"]), "")


def test_a_network_that_no_tag_can_call_has_none(network: Path):
    assert details({"name": None}, entry(network))["tag"] is None


def test_a_damaged_file_says_so_and_nothing_about_its_inside(tmp_path: Path, session: Session):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x08\x00\x00")
    found = asked(path, session=session)
    assert '"cut.safetensors"' in found["error"]
    assert (found["what"], found["matched"], found["metadata"], found["tags"]) == (None, None, {}, [])
    assert found["training"]["rows"] == []
    assert found["file"]["keys"] == 0


# --- training ---------------------------------------------------------------------------------------------------------


def test_how_it_was_trained_is_told_in_labelled_lines(network: Path):
    training = asked(network)["training"]
    rows = dict(training["rows"])
    assert (
        rows.items()
        >= {
            "Trained with": "LyCORIS in kohya's sd-scripts",
            "Base model": "v1-5-pruned.safetensors (sd_v1)",
            "Images": "120",
            "Repeats": "10 × 12 10_ink",
            "Regularisation images": "40",
            "Regularisation repeats": "1 × 40 1_photo",
            "Resolution": "512×768",
            "Buckets": "512×768 (100)",
            "Steps": "1500 / 2000",
            "Epochs": "8 / 10",
            "Rank": "4",
            "Alpha": "2",
            "Network arguments": "algo=lora, conv_dim=8",
            "Learning rate": "0.0001",
            "Learning rate, U-Net": "0.0001",
            "Learning rate, text encoder": "5e-05",
            "Optimizer": "AdamW8bit",
            "Scheduler": "cosine",
            "Finished": "2023-11-14T22:13:20Z",
        }.items()
    )
    assert "Seed" not in rows  # nobody said
    facts = {name: training[name] for name in ("images", "repeats", "regularisation", "steps", "epochs", "rank")}
    assert facts == {"images": 120, "repeats": [10], "regularisation": 40, "steps": 1500, "epochs": 8, "rank": 4}
    assert training["learning_rates"] == {"all": 0.0001, "U-Net": 0.0001, "text encoder": 5e-05}
    assert training["optimizer"] == "AdamW8bit"


def test_a_file_without_metadata_tells_nothing_of_its_training(network: Path):
    save_file(load_file(network), network)
    training = asked(network)["training"]
    assert {name: value for name, value in training.items() if value not in (None, [])} == {}


def test_many_buckets_and_folders_are_cut(network: Path, model: dict[str, Tensor]):
    buckets = {str(number): {"resolution": [64 * number + 64, 512], "count": 1} for number in range(300)}
    folders = {f"1_{HOSTILE * 20}{number}": {"n_repeats": 1, "img_count": 1} for number in range(300)}
    metadata = {"ss_bucket_info": json.dumps({"buckets": buckets}), "ss_dataset_dirs": json.dumps(folders)}
    write_network(network, layers_of(model, only=PARTS), "lora", metadata=metadata)
    rows = dict(asked(network)["training"]["rows"])
    assert rows["Buckets"].endswith("… (188)")
    assert rows["Repeats"].endswith("… (188)")
    assert len(rows["Repeats"]) < 3000


# --- words and Civitai ------------------------------------------------------------------------------------------------


def test_the_users_words_are_told_as_they_are_edited(network: Path):
    ours = {"groups": [{"name": "wet", "words": ["ink", "drips"]}], "weight_range": [0.2, 1.1]}
    words = {"activation text": "ink", "preferred weight": 0.7, "notes": "mine", "lycopatch": ours, "other": 1}
    network.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
    found = asked(network)
    assert found["words"] == {
        "description": "",
        "notes": "mine",
        "activation_text": "ink",
        "negative_text": "",
        "preferred_weight": 0.7,
        "sd_version": "",
        "weight_range": [0.2, 1.1],
        "groups": [{"name": "wet", "words": ["ink", "drips"]}],
        "problem": None,
    }


def test_words_that_can_not_be_read_are_a_problem_and_no_error(network: Path):
    network.with_suffix(".json").write_bytes(b"{")
    found = asked(network)
    assert "ink.json" in found["problem"]
    assert found["words"]["problem"] == found["problem"]
    assert found["error"] is None


def test_what_civitai_says_is_plain_text_with_a_link_of_our_own(network: Path):
    version = {"id": 2, "modelId": 1, "name": "v2", "trainedWords": ["ink"], "description": f"<p>{HOSTILE}wet</p>"}
    network.with_suffix(".civitai.info").write_text(json.dumps({**version, "model": {"name": "Ink"}}))
    assert asked(network)["civitai"] == {
        "title": "Ink",
        "creator": "",
        "version": "v2",
        "base_model": "",
        "trained_words": ["ink"],
        "description_text": '">wet',
        "url": "https://civitai.com/models/1?modelVersionId=2",
        "nsfw": False,
        "source": ".civitai.info",
    }


# --- against the model ------------------------------------------------------------------------------------------------


def test_without_a_model_nothing_is_matched(network: Path):
    assert asked(network)["matched"] is None


def test_a_network_that_fits_has_all_its_keys_applied(network: Path, session: Session):
    matched = asked(network, session=session)["matched"]
    keys = len(load_file(network))
    assert {name: matched[name] for name in ("applied", "unmatched", "unknown", "skipped", "embedding")} == {
        "applied": keys,
        "unmatched": 0,
        "unknown": 0,
        "skipped": 0,
        "embedding": 0,
    }
    assert matched["layers"]["applied"] == matched["layers"]["total"] == keys // 3
    assert matched["groups"] == []
    assert matched["model"] == "a model of an unusual structure"


def test_each_reason_is_told_once_with_its_keys_and_examples(network: Path, session: Session):
    tensors = load_file(network)
    for number in range(20):
        tensors[f"lora_unet_nowhere_{number}.lora_up.weight"] = torch.ones(4, 2)
        tensors[f"lora_unet_nowhere_{number}.lora_down.weight"] = torch.ones(2, 4)
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors[f"{layer}.lora_up.weight"] = torch.ones(5, 4, 1, 1)  # of another size
    tensors[f"{HOSTILE}\n.oddity"] = torch.ones(1)
    save_file(tensors, network)
    matched = asked(network, session=session)["matched"]
    assert (matched["unmatched"], matched["skipped"], matched["unknown"]) == (40, 3, 1)
    by_outcome = {group["outcome"]: group for group in matched["groups"]}
    assert [group["count"] for group in matched["groups"]] == [40, 3, 1]
    assert by_outcome["unmatched"]["reason"] == "this model has no layer of that name"
    assert len(by_outcome["unmatched"]["examples"]) == MOST_EXAMPLES
    assert by_outcome["skipped"]["examples"] == [layer]
    assert "5 outputs" in by_outcome["skipped"]["reason"]
    assert "\n" not in by_outcome["unknown"]["examples"][0]


def test_a_file_of_a_thousand_reasons_is_cut(network: Path, session: Session):
    tensors = {f"x{number}.lora_up.weight": torch.ones(1) for number in range(300)}
    for number, name in enumerate(list(tensors)):
        tensors[name.replace("lora_up.weight", f"alpha{number}")] = torch.ones(1)
        tensors[f"lora_unet_y{number}.hada_w1_a"] = torch.ones(number + 1, 2)
    save_file(tensors, network)
    matched = asked(network, session=session)["matched"]
    assert 0 < len(matched["groups"]) <= MOST_GROUPS


def test_matching_does_not_touch_the_model(network: Path, model: dict[str, Tensor]):
    live = {name: tensor.clone() for name, tensor in model.items()}
    loader = NetworkLoader(live, [network.parent])
    asked(network, session=loader.session)
    assert all(torch.equal(live[name], tensor) for name, tensor in model.items())


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_where_it_acts_is_told_block_by_block(network: Path, session: Session):
    found = json.loads(json.dumps(as_json(influence(network, session=session))))
    assert [(block["block"], block["part"]) for block in found["blocks"]] == [("MID", "unet"), ("TE1.00", "te1")]
    for block in found["blocks"]:
        assert set(block) == {"block", "part", "relative", "delta", "spectral", "layers"}
        assert 0 < block["relative"] < 1
        assert 0 < block["spectral"] <= block["delta"]
    assert found["parts"]["te1"]["delta"] == pytest.approx(found["blocks"][1]["delta"])
    assert (found["unmeasured"], found["against"]) == ([], "a model of an unusual structure")
    assert found["seconds"] > 0
    assert influence(network, session=session, model="inkscape")["against"] == "inkscape"


def test_without_a_model_there_is_nothing_to_compare_with(tmp_path: Path):
    layers = {"lora_unet_mid_block_attentions_0_proj_in": (1280, 1280, 1, 1), "lora_unet_nowhere": (4, 4)}
    found = influence(write_network(tmp_path / "a.safetensors", layers, "lora"))
    assert found["blocks"][0]["relative"] is None
    assert found["against"] is None
    assert found["unmeasured"] == [{"reason": "this model has no layer of that name", "count": 1}]


def test_a_file_that_can_not_be_measured_raises_its_sentence(tmp_path: Path, session: Session):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x08\x00\x00")
    for known in (None, session):
        with pytest.raises(UnreadableAdapter, match=r"cut\.safetensors"):
            influence(path, session=known)


def test_what_the_progress_raises_ends_the_measurement_and_the_check(network: Path, session: Session):
    def cancel(done: int, total: int) -> None:
        raise InterruptedError

    for ask in (
        lambda: influence(network, session=session, progress=cancel),
        lambda: health(network, progress=cancel),
    ):
        with pytest.raises(InterruptedError):
            ask()


def test_health_tells_faults_and_names_no_folder(network: Path):
    assert health(network) == {"status": "ok", "issues": []}
    tensors = load_file(network)
    broken = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[broken][0, 0] = float("nan")
    save_file(tensors, network)
    found = health(network)
    assert found["status"] == "damaged"
    assert [issue["kind"] for issue in found["issues"]] == ["nan"]
    assert str(network.parent) not in json.dumps(found)
    network.write_bytes(b"")
    assert health(network)["status"] == "unreadable"
