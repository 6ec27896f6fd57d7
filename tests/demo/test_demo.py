"""``python -m lycopatch.demo`` without a browser: a picture, a comparison, and a sentence for what can not be done."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the demo's model is one of diffusers")

from PIL import Image

from lycopatch.demo.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages say while they load


def draw(out: Path, prompt: str, *more: str) -> bytes:
    assert main(["--prompt", prompt, "--out", str(out), "--seed", "3", "--steps", "6", *more]) == 0
    return out.read_bytes()


def test_a_network_changes_the_picture_and_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = draw(tmp_path / "a.png", "a red circle on blue")
    striped = draw(tmp_path / "b.png", "a red circle on blue <lora:stripes:1>")
    assert "stripes: 96 of 96 layers" in capsys.readouterr().out
    assert Image.open(tmp_path / "a.png").tobytes() != Image.open(tmp_path / "b.png").tobytes()
    assert draw(tmp_path / "c.png", "a red circle on blue") == plain != striped


def test_the_picture_says_how_it_was_made(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "a red circle <lora:stripes:0.5>", "--negative-prompt", "green")
    assert Image.open(tmp_path / "a.png").info["parameters"] == (
        "a red circle <lora:stripes:0.5>\nNegative prompt: green\n"
        "Steps: 6, CFG scale: 4, Seed: 3, Model: LycoPatch demo"
    )


def test_a_wrong_name_is_said_and_the_picture_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "a.png", "a red circle <lora:stripe:1>")
    assert 'There is no network named "stripe". Did you mean "stripes"' in capsys.readouterr().out


def test_a_comparison_is_a_grid_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--steps", "4", "--batch", "2", "--weights", "0.5, 1", "--compare", "stripes", "stripes-lokr-low"]
    assert main(["--prompt", "a red circle", "--out", str(tmp_path / "grid.png"), *arguments]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")][2:] == [
        "no network",
        *["stripes"] * 2,
        *["stripes-lokr-low"] * 2,
    ]
    assert Image.open(tmp_path / "grid.png").width > 2 * 64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "0"], "The steps must be between 1 and 150, not 0."),
        (["--cfg", "nan"], "The CFG must be between 1 and 30, not nan."),
        (["--networks", "nowhere"], "There is no folder nowhere; name one with --networks."),
        (["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--prompt", "another"], "A picture has one prompt; --compare takes several."),
        (["--compare", "--weights", "half"], '"half" is no weight that a tag can have'),
        (["--side", "63"], "The side must be a multiple of 8 between 16 and 2048."),
        (["--device", "cuda:77"], 'torch can not compute on "cuda:77" here'),
        (["--device", "abacus"], 'torch can not compute on "abacus" here'),
        (["--out", "no/such/folder/a.png"], "No such file or directory"),
    ],
)
def test_what_can_not_be_done_is_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--prompt", "a red circle", "--steps", "1", *arguments]) == 1
    assert sentence in capsys.readouterr().err
