"""``check``: exit 0 only when every file can be read and is healthy."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fuzzing import mutations
from networks import network, write_network

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture
def damaged(folder: Path, real_layers: Shapes) -> Path:
    tensors = network(real_layers, "lora")
    for name, tensor in tensors.items():
        if name.endswith("lora_up.weight"):
            tensor[0, 0] = float("inf")
    (folder / "deep").mkdir()
    save_file(tensors, folder / "deep" / "broken.safetensors")
    return folder / "deep" / "broken.safetensors"


def test_a_healthy_file_ends_with_zero(lycopatch: Callable, sound: Path) -> None:
    result = lycopatch("check", sound)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("good")


def test_folders_are_searched_and_one_damaged_file_is_enough(
    lycopatch: Callable, folder: Path, sound: Path, damaged: Path
) -> None:
    result = lycopatch("check", folder, "--json")
    assert result.code == 1
    statuses = {Path(each["path"]).name: each["status"] for each in result.json}
    assert statuses == {"ink.safetensors": "ok", "broken.safetensors": "damaged"}
    (broken,) = (each for each in result.json if each["status"] == "damaged")
    assert {issue["kind"] for issue in broken["issues"]} == {"inf"}
    assert len(broken["issues"]) == 5
    assert all(issue["severity"] == "fault" and issue["layer"] in issue["message"] for issue in broken["issues"])
    shown = lycopatch("check", folder)
    assert "1 of 2 files are in order." in shown.out


def test_a_truncated_file_is_called_so(lycopatch: Callable, sound: Path) -> None:
    sound.write_bytes(sound.read_bytes()[:-7])
    result = lycopatch("check", sound, "--json")
    assert result.code == 1
    assert [issue["kind"] for issue in result.json[0]["issues"]] == ["truncated"]


def test_a_missing_file_and_a_missing_folder_are_trouble(lycopatch: Callable, sound: Path, tmp_path: Path) -> None:
    result = lycopatch("check", sound, tmp_path / "nowhere")
    assert result.code == 1
    assert "there is no such file" in result.out


def test_an_empty_folder_is_no_trouble(lycopatch: Callable, folder: Path) -> None:
    result = lycopatch("check", folder, "--json")
    assert (result.code, result.json) == (0, [])


def test_pickles_in_a_folder_are_mentioned_and_checked_only_when_allowed(lycopatch: Callable, folder: Path) -> None:
    torch.save({"a.lora_up.weight": torch.ones(4, 2), "a.lora_down.weight": torch.ones(2, 4)}, folder / "a.pt")
    without = lycopatch("check", folder, "--json")
    assert (without.code, without.json) == (0, [])
    assert "1 pickle file(s)" in without.err
    assert [each["status"] for each in lycopatch("check", folder, "--json", "--allow-pickle").json] == ["ok"]


def test_a_file_named_twice_is_checked_once(lycopatch: Callable, folder: Path, sound: Path) -> None:
    assert len(lycopatch("check", sound, folder, sound, "--json").json) == 1


def test_damaged_files_of_all_kinds_give_findings_and_no_traceback(
    lycopatch: Callable, tmp_path: Path, real_layers: Shapes
) -> None:
    seed = write_network(tmp_path / "seed.safetensors", dict.fromkeys(real_layers, (8, 8)), "lora").read_bytes()
    folder = tmp_path / "many"
    folder.mkdir()
    for number, content in zip(range(150), mutations(seed, random.Random(1)), strict=False):
        (folder / f"{number:03}.safetensors").write_bytes(content)
    result = lycopatch("check", folder, "--json")
    assert result.code == 1
    assert len(result.json) == 150
    assert {each["status"] for each in result.json} >= {"damaged", "unreadable"}
    assert all(each["issues"] for each in result.json if each["status"] != "ok")
    assert lycopatch("list", folder, "--json").code == 1
    for path in sorted(folder.iterdir())[:40]:
        assert lycopatch("inspect", path).code in (0, 1)
