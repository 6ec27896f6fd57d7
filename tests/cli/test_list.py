"""``list``: what a catalog of folders knows, by the names that tags call networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lycopatch.cli.listing import HeaderOnly
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.reading import open_tensor_file
from networks import write_network

Shapes = dict[str, tuple[int, ...]]


def test_networks_are_listed_with_what_their_headers_say(lycopatch: Callable, folder: Path, sound: Path) -> None:
    result = lycopatch("list", folder, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == [
        {
            "name": "ink",
            "path": str(sound),
            "relative": "ink",
            "alias": "Inkwash",
            "ambiguous": False,
            "family": "sd1",
            "family_title": "Stable Diffusion 1",
            "algorithms": {"LoRA": 5},
            "ranks": {"4": 5},
            "size": sound.stat().st_size,
            "status": "ok",
            "error": None,
        }
    ]
    shown = lycopatch("list", folder).out.splitlines()
    assert shown[0].split() == ["NAME", "BASE", "MODEL", "ALGORITHM", "RANK", "SIZE", "STATUS"]
    assert shown[1].startswith("ink (Inkwash)  Stable Diffusion 1  LoRA")


def test_every_listed_name_finds_its_file(lycopatch: Callable, tmp_path: Path, real_layers: Shapes) -> None:
    folders = [tmp_path / "a" / "Lora", tmp_path / "b" / "Lora"]
    for place in ("a/Lora/ink", "a/Lora/styles/ink", "b/Lora/ink", "b/Lora/paper", "a/Lora/b.c"):
        write_network(tmp_path / f"{place}.safetensors", real_layers, "lora")
    result = lycopatch("list", *folders, "--json")
    catalog = Catalog(folders)
    assert len(result.json) == 5
    for entry in result.json:
        assert catalog.find(entry["name"]).path == Path(entry["path"])
    ambiguous = {entry["path"] for entry in result.json if entry["ambiguous"]}
    assert ambiguous == {entry["path"] for entry in result.json if Path(entry["path"]).stem == "ink"}
    assert "several files have this file name" in lycopatch("list", *folders).out


def test_what_can_not_be_read_is_listed_and_ends_with_one(lycopatch: Callable, folder: Path, sound: Path) -> None:
    (folder / "cut.safetensors").write_bytes(sound.read_bytes()[:100])
    result = lycopatch("list", folder, "--json")
    assert result.code == 1
    assert {entry["name"]: entry["status"] for entry in result.json} == {"ink": "ok", "cut": "unreadable"}
    assert "cut.safetensors" in result.err


def test_a_missing_folder_is_a_sentence(lycopatch: Callable, tmp_path: Path) -> None:
    result = lycopatch("list", tmp_path / "nowhere")
    assert result.code == 1
    assert "does not exist" in result.err


def test_an_empty_folder_is_said(lycopatch: Callable, folder: Path) -> None:
    result = lycopatch("list", folder)
    assert result.code == 0
    assert "There is no network" in result.out


@pytest.mark.parametrize("algorithm", ["ia3", "input_ia3", "lokr", "norm", "oft", "dora"])
def test_listing_reads_no_numbers_and_still_recognises(
    lycopatch: Callable, folder: Path, real_layers: Shapes, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = real_layers
    if algorithm == "norm":
        layers = {"lora_unet_down_blocks_0_attentions_0_norm": (320,)}
    path = write_network(folder / "a.safetensors", layers, algorithm)
    inspected = lycopatch("inspect", path, "--json", "--quick").json[0]
    read: list[str] = []
    with open_tensor_file(path) as file:
        original = type(file)._fill

    def remember(self: object, key: str, start: int, out: torch.Tensor) -> None:
        read.append(key)
        original(self, key, start, out)

    monkeypatch.setattr(type(file), "_fill", remember)
    listed = lycopatch("list", folder, "--json").json[0]
    assert (listed["family"], listed["algorithms"], listed["ranks"]) == (
        inspected["family"],
        inspected["algorithms"],
        inspected["ranks"],
    )
    assert all(key.endswith("on_input") for key in read)


def test_a_file_whose_numbers_are_not_read_is_as_large_as_it_says(sound: Path) -> None:
    with open_tensor_file(sound) as file:
        header = HeaderOnly(file)
        key = next(iter(file.specs))
        assert header.read(key).shape == file.specs[key].shape
        assert header.metadata == file.metadata
