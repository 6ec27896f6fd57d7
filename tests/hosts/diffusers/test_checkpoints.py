"""Originals that come from the files a pipeline was loaded from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hosts.diffusers.pipelines import same_weights, weights
from lycopatch.engine.errors import CheckpointChanged, UnreadableAdapter
from lycopatch.hosts.diffusers import NetworkLoader


@pytest.fixture
def saved(sd1: Any, tmp_path: Path) -> Path:
    """The tiny SD1's folder."""
    sd1.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def files(saved: Path) -> dict[str, Path]:
    return {
        "unet": saved / "unet" / "diffusion_pytorch_model.safetensors",
        "text_encoder": saved / "text_encoder" / "model.safetensors",
    }


@pytest.mark.parametrize("way", ["folder", "files", "folders"])
def test_originals_come_from_the_files_and_take_no_memory(way: str, sd1: Any, saved: Path, networks: Path) -> None:
    source: Any = {
        "folder": saved,
        "files": files(saved),
        "folders": {name: file.parent for name, file in files(saved).items()},
    }[way]
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks], checkpoint=source) as loader:
        assert loader.activate("<lora:ink:1>").tensors_written == 2
        assert not same_weights(sd1, before)
        assert loader.session.bytes_held == 0
        loader.activate("<lora:ink:-0.5>")
    assert same_weights(sd1, before)


def test_without_files_originals_are_copied(sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    loader.activate("<lora:ink:1>")
    assert loader.session.bytes_held == (16 * 16 + 32 * 32) * 4


def test_a_half_precision_pipeline_finds_its_originals_in_full_precision_files(
    sd1: Any, saved: Path, networks: Path
) -> None:
    sd1.to(torch.float16)
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks], checkpoint=saved) as loader:
        loader.activate("<lora:ink:1>")
        assert loader.session.bytes_held == 0
    assert same_weights(sd1, before)


def test_only_what_differs_from_the_files_is_copied(sd1: Any, saved: Path, networks: Path) -> None:
    with torch.no_grad():
        for parameter in sd1.text_encoder.parameters():
            parameter.add_(1)
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks], checkpoint=saved) as loader:
        loader.activate("<lora:ink:1>")
        assert loader.session.bytes_held == 32 * 32 * 4
    assert same_weights(sd1, before)


def test_files_with_and_without_the_level_that_transformers_5_dropped_are_the_same(
    sd1: Any, saved: Path, networks: Path
) -> None:
    file = files(saved)["text_encoder"]
    # copies: what older versions of safetensors load is the file's own memory, and it is about to be written again
    short = {key.removeprefix("text_model."): tensor.clone() for key, tensor in load_file(file).items()}
    for tensors in (short, {"text_model." + key: tensor for key, tensor in short.items()}):
        save_file(tensors, file)
        with NetworkLoader(sd1, folders=[networks], checkpoint=saved) as loader:
            loader.activate("<lora:ink:1>")
            assert loader.session.bytes_held == 0


def test_one_file_in_the_original_names_serves_as_well(sd1: Any, networks: Path, tmp_path: Path) -> None:
    from lycopatch.engine.families.binding import bind

    shapes = {f"unet.{name}": tuple(parameter.shape) for name, parameter in sd1.unet.named_parameters()}
    live = weights(sd1)
    original = {}
    for layer in bind(shapes).layers:
        path = "model.diffusion_model." + dict(layer.paths)["ldm"]
        original[path + ".weight"] = live[layer.weight[0].tensor]
        original.update((path + ".bias", live[bias.tensor]) for bias in layer.bias)
    save_file(original, tmp_path / "model.safetensors")
    with NetworkLoader(sd1, folders=[networks], checkpoint=tmp_path / "model.safetensors") as loader:
        loader.activate("<lora:ink:0:1>")
        assert loader.session.bytes_held == 0


def test_the_plain_file_is_preferred_to_its_variants_and_parts_are_joined(
    sd1: Any, saved: Path, networks: Path
) -> None:
    file = files(saved)["unet"]
    tensors = load_file(file)
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, file.with_name("a.fp16.safetensors"))
    file.unlink()
    keys = sorted(tensors)
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        save_file({key: tensors[key] for key in part}, file.with_name(f"model-0000{number}-of-00002.safetensors"))
    with NetworkLoader(sd1, folders=[networks], checkpoint=saved) as loader:
        loader.activate("<lora:ink:1>")
        assert loader.session.bytes_held == 0


def test_a_file_that_changed_is_noticed_before_anything_is_written(sd1: Any, saved: Path, networks: Path) -> None:
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks], checkpoint=saved) as loader:
        os.utime(files(saved)["text_encoder"], (1, 1))
        with pytest.raises(CheckpointChanged, match=r'The checkpoint "model\.safetensors" changed'):
            loader.activate("<lora:ink:1>")
    assert same_weights(sd1, before)


@pytest.mark.parametrize("what", ["an empty folder", "no such file", "a damaged file", "another model"])
def test_a_bad_checkpoint_is_refused_with_a_sentence(what: str, sd1: Any, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a damaged file":
        path.write_bytes(b"\x00" * 100)
    elif what == "another model":
        save_file({"first_stage_model.weight": torch.ones(1)}, path)
    with pytest.raises(UnreadableAdapter, match=r'"bad\.safetensors" can not be read: '):
        NetworkLoader(sd1, folders=[tmp_path], checkpoint=path)


def test_a_component_that_the_pipeline_lacks_is_a_mistake_of_the_program(sd1: Any, saved: Path) -> None:
    with pytest.raises(ValueError, match="no such component: transformer; there are unet, text_encoder"):
        NetworkLoader(sd1, folders=[saved], checkpoint={"transformer": saved})
