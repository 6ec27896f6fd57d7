"""``inspect``: every fact of the promised schema, for sound, damaged, foreign and hostile files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fuzzing import pack
from keyset_files import read_keyset
from networks import network, write_network

Shapes = dict[str, tuple[int, ...]]
DTYPES = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16, "BOOL": torch.bool, "I64": torch.int64}
SCHEMA = {
    "path": str, "status": str, "error": (str, type(None)), "size": int, "family": (str, type(None)),
    "family_title": str, "family_confidence": float, "family_evidence": list, "dialects": list, "algorithms": dict,
    "ranks": dict, "components": dict, "modifiers": dict, "dtypes": dict, "keys": dict, "embeddings": list,
    "health": dict, "hashes": dict, "metadata": dict, "training": dict,
}  # fmt: skip
HOSTILE = "\x1b]0;owned\x07\x1b[2Jname\r\n\u202egnp"


def write_keyset(path: Path, name: str, metadata: Mapping[str, str] | None = None) -> Path:
    """A file of these keys and shapes with small random numbers; alpha is 1."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for key, spec in read_keyset(name).items():
        random = torch.randn(spec.shape, generator=rng) * 0.01 if spec.shape else torch.tensor(1.0)
        tensors[key] = random.to(DTYPES[spec.dtype])
    save_file(tensors, path, dict(metadata or {}))
    return path


def test_a_sound_file_is_explained_whole(lycopatch: Callable, sound: Path) -> None:
    result = lycopatch("inspect", sound, "--json")
    assert result.code == 0
    assert result.err == ""
    (facts,) = result.json
    assert facts.keys() == SCHEMA.keys()
    assert all(isinstance(facts[name], kind) for name, kind in SCHEMA.items())
    assert (facts["status"], facts["error"], facts["family"]) == ("ok", None, "sd1")
    assert facts["algorithms"] == {"LoRA": 5}
    assert facts["ranks"] == {"4": 5}
    assert facts["components"] == {"unet": 4, "te1": 1}
    assert facts["dialects"] == ["kohya"]
    assert facts["keys"] == {"total": 15, "explained": 15, "unknown": [], "skipped": [], "unknown_reasons": []}
    assert facts["health"] == {"healthy": True, "issues": []}
    assert facts["training"]["tool"] == "kohya's sd-scripts"
    assert facts["training"]["learning_rate"] == 0.0001
    assert facts["training"]["tags"] == [{"tag": "ink wash", "count": 12}, {"tag": "tree", "count": 3}]


def test_the_hashes_are_those_that_sites_and_infotexts_use(lycopatch: Callable, sound: Path) -> None:
    hashes = lycopatch("inspect", sound, "--json").json[0]["hashes"]
    content = sound.read_bytes()
    assert hashes["sha256"] == hashlib.sha256(content).hexdigest()
    assert hashes["autov2"] == hashes["sha256"][:10]
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert hashes["autov3"] == hashlib.sha256(data).hexdigest()
    assert hashes["short"] == hashes["autov3"][:12]


def test_quick_reads_no_numbers(lycopatch: Callable, sound: Path) -> None:
    (facts,) = lycopatch("inspect", sound, "--json", "--quick").json
    assert facts["health"] is None
    assert facts["hashes"] is None
    assert facts["status"] == "ok"


def test_json_is_a_list_in_the_order_of_the_arguments(lycopatch: Callable, sound: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.safetensors"
    result = lycopatch("inspect", absent, sound, absent, "--json")
    assert [facts["status"] for facts in result.json] == ["unreadable", "ok", "unreadable"]
    assert result.code == 1
    assert result.err.count("there is no such file") == 2


@pytest.mark.parametrize("name", ["sd1_kohya_lora_r4", "sd1_diffusers018_unet_te", "sd1_onetrainer_lora_kohya"])
def test_files_as_trainers_write_them_are_explained_to_the_last_key(
    lycopatch: Callable, tmp_path: Path, name: str
) -> None:
    (facts,) = lycopatch("inspect", write_keyset(tmp_path / "a.safetensors", name), "--json", "--quick").json
    assert facts["family"] == "sd1"
    assert facts["keys"]["explained"] == facts["keys"]["total"] == len(read_keyset(name))
    assert facts["keys"]["unknown"] == []


def test_bundled_embeddings_are_named_with_their_vectors(lycopatch: Callable, tmp_path: Path) -> None:
    path = write_keyset(tmp_path / "a.safetensors", "sd1_onetrainer_lora_kohya")
    (facts,) = lycopatch("inspect", path, "--json").json
    (embedding,) = facts["embeddings"]
    assert embedding["vectors"] >= 1
    assert embedding["name"] in lycopatch("inspect", path).out


def test_a_recognised_algorithm_that_can_not_be_applied_is_explained_with_the_reason(
    lycopatch: Callable, tmp_path: Path
) -> None:
    path = write_keyset(tmp_path / "a.safetensors", "sd1_lycoris_tlora")
    result = lycopatch("inspect", path, "--json")
    (facts,) = result.json
    assert result.code == 0
    assert facts["keys"]["explained"] == facts["keys"]["total"] == 1064
    (skipped,) = facts["keys"]["skipped"]
    assert "T-LoRA" in skipped["reason"]
    assert len(skipped["keys"]) == 1064
    assert "T-LoRA stores only half" in lycopatch("inspect", path).out


def test_a_file_for_a_later_base_model_is_named_and_explained(lycopatch: Callable, tmp_path: Path) -> None:
    names = [f"lora_unet_double_blocks_{block}_img_attn_proj" for block in range(3)]
    path = write_network(tmp_path / "a.safetensors", dict.fromkeys(names, (64, 64)), "lora")
    (facts,) = lycopatch("inspect", path, "--json").json
    assert facts["family"] == "flux"
    assert facts["keys"]["explained"] == facts["keys"]["total"] == 9


def test_a_layer_that_the_base_model_does_not_have_is_unknown(
    lycopatch: Callable, folder: Path, real_layers: Shapes
) -> None:
    path = write_network(folder / "a.safetensors", {**real_layers, "lora_unet_down_blocks_77_made_up": (8, 8)}, "lora")
    keys = lycopatch("inspect", path, "--json").json[0]["keys"]
    assert keys["explained"] == 15
    assert len(keys["unknown"]) == 3
    assert all("made_up" in key for key in keys["unknown"])
    assert "no layer of Stable Diffusion 1 is called so" in keys["unknown_reasons"][0]["reason"]


def test_every_key_is_explained_or_unknown_and_leftovers_have_reasons(
    lycopatch: Callable, folder: Path, real_layers: Shapes
) -> None:
    tensors = network(real_layers, "lora")
    layer = next(iter(real_layers))
    tensors |= {
        "nonsense": torch.ones(2),
        f"{layer}.base_layer.weight": torch.ones(2, 2),
        f"{layer}.lora_A.weight": torch.ones(4, 768),  # lora_down once more
        f"{layer}.sense_of_humour.lora_up.weight": torch.ones(2, 2),
        "empty.lora_up.weight": torch.ones(0, 4),
    }
    save_file(tensors, folder / "a.safetensors")
    keys = lycopatch("inspect", folder / "a.safetensors", "--json").json[0]["keys"]
    assert keys["total"] == len(tensors)
    assert keys["explained"] + len(keys["unknown"]) == keys["total"]
    assert "nonsense" in keys["unknown"]
    named = {key for entry in [*keys["skipped"], *keys["unknown_reasons"]] for key in entry["keys"]}
    added = {key for key in tensors if key not in network(real_layers, "lora")}
    assert named >= added - {f"{layer}.lora_A.weight"}
    assert named & {f"{layer}.lora_A.weight", f"{layer}.lora_down.weight"}  # one of the two is left out


def test_a_damaged_file_says_so_and_ends_with_one(lycopatch: Callable, folder: Path, real_layers: Shapes) -> None:
    tensors = network(real_layers, "lora")
    tensors[f"{next(iter(real_layers))}.lora_up.weight"][3, 1] = float("nan")
    save_file(tensors, folder / "a.safetensors")
    result = lycopatch("inspect", folder / "a.safetensors")
    assert result.code == 1
    assert "damaged" in result.out
    assert "1 of 1280 values" in result.out


def test_a_file_that_is_no_network_is_named_for_what_it_is(
    lycopatch: Callable, tmp_path: Path, checkpoint: Path
) -> None:
    result = lycopatch("inspect", checkpoint, "--json")
    (facts,) = result.json
    assert result.code == 1
    assert facts["status"] == "not a network"
    assert "whole weights" in facts["error"]
    assert "whole weights" in lycopatch("inspect", checkpoint).out


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "unreadable"), (b"<html>no</html>" * 9, "unreadable"), (b"\0" * 64, "truncated"), (b"{}" * 8, "unreadable")],
)
def test_a_file_that_is_no_safetensors_is_a_sentence(
    lycopatch: Callable, tmp_path: Path, content: bytes, kind: str
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    result = lycopatch("inspect", path, "--json")
    assert result.code == 1
    assert result.json[0] == {"path": str(path), "status": "unreadable", "kind": kind, "error": result.err.strip()}


def test_a_folder_and_a_pickle_are_refused_with_sentences(lycopatch: Callable, tmp_path: Path) -> None:
    pickle = tmp_path / "old.pt"
    torch.save({"a.lora_up.weight": torch.ones(4, 2), "a.lora_down.weight": torch.ones(2, 4)}, pickle)
    refused = lycopatch("inspect", tmp_path, pickle)
    assert refused.code == 1
    assert "it is a folder" in refused.err
    assert "pickles" in refused.err
    allowed = lycopatch("inspect", pickle, "--allow-pickle", "--json")
    assert allowed.code == 0
    assert allowed.json[0]["algorithms"] == {"LoRA": 1}


def test_pictures_and_long_texts_in_the_metadata_are_not_dumped(
    lycopatch: Callable, folder: Path, real_layers: Shapes
) -> None:
    metadata = {
        "ssmd_cover_images": json.dumps(["A" * 300_000]),
        "modelspec.thumbnail": "data:image/jpeg;base64," + "B" * 300_000,
        "ot_config": json.dumps({"output_model_destination": "/home/me", "epochs": 3, "filler": "C" * 300_000}),
        "anything": "D" * 300_000,
        "short": "kept",
    }
    path = write_network(folder / "a.safetensors", real_layers, "lora", metadata=metadata)
    for arguments in (["--json"], []):
        result = lycopatch("inspect", path, *arguments)
        assert len(result.out) < 20_000
        assert "/home/me" not in result.out
    shown = lycopatch("inspect", path, "--json").json[0]["metadata"]
    assert shown["short"] == "kept"
    assert re.fullmatch(r"\(a picture, \d+ characters\)", shown["modelspec.thumbnail"])


@pytest.mark.parametrize("command", ["inspect", "check", "list"])
def test_control_characters_of_a_file_never_reach_the_terminal(
    lycopatch: Callable, folder: Path, real_layers: Shapes, command: str
) -> None:
    tensors = network(real_layers, "lora")
    tensors[HOSTILE] = torch.ones(2)
    tensors[f"{HOSTILE}.lora_up.weight"] = torch.full((4, 4), float("nan"))
    tensors[f"{HOSTILE}.lora_down.weight"] = torch.ones(4, 4)
    tensors[f"bundle_emb.{HOSTILE}.clip_l"] = torch.ones(2, 8)
    metadata = {
        "ss_output_name": HOSTILE,
        "ss_sd_model_name": HOSTILE,
        "ss_network_args": json.dumps({HOSTILE: HOSTILE}),
        "ss_tag_frequency": json.dumps({HOSTILE: {HOSTILE: 3}}),
        "ss_dataset_dirs": json.dumps({HOSTILE: {"n_repeats": 1, "img_count": 3}}),
        HOSTILE: HOSTILE,
    }
    path = folder / "a\x1b[31m.safetensors"
    save_file(tensors, path, metadata)
    for arguments in ([], ["--json"]):
        result = lycopatch(command, folder if command == "list" else path, *arguments)
        written = result.out + result.err
        assert "name" in written or command == "check"
        assert not set(written) & {"\x1b", "\x07", "\r", "\u202e", "\x7f"}
        assert not arguments or result.json


def test_a_header_full_of_nonsense_is_no_traceback(lycopatch: Callable, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entry = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}
    documents: list[dict[str, Any]] = [
        {},
        {"x": entry, "__metadata__": {"ss_tag_frequency": "[" * 100_000, "ss_datasets": "[[[1]]]", "ot_config": "3"}},
        {"lora_unet_x.alpha": entry},
        {"x.lora_up.weight": {**entry, "shape": [2**40]}},
    ]
    for document in documents:
        path.write_bytes(pack(document, b"\0\x3c" if document else b""))
        for arguments in ([], ["--json"], ["--quick"]):
            assert lycopatch("inspect", path, *arguments).code == 1


def test_a_published_file_of_the_first_trainer_is_explained_whole(lycopatch: Callable) -> None:
    result = lycopatch("inspect", Path(__file__).parents[1] / "data" / "analog_svd_rank4.safetensors", "--json")
    (facts,) = result.json
    assert result.code == 0
    assert (facts["family"], facts["components"]) == ("sd1", {"unet": 144, "te1": 48})
    assert (facts["algorithms"], facts["ranks"], facts["dialects"]) == ({"LoRA": 192}, {"4": 192}, ["cloneofsimo"])
    assert facts["keys"]["explained"] == facts["keys"]["total"] == 384
    assert facts["health"] == {"healthy": True, "issues": []}
    assert facts["hashes"]["sha256"] == "337293d2de4c0d7c0f155ccb4c1470d9a7da4cb2ed594432a5d11f474461df59"
    assert facts["training"] == {"tool": "cloneofsimo/lora"}
