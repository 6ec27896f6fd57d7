"""What the demo's trainings share: a stopped run ends like one that was not stopped, and every word is one token."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lycopatch.demo import judging

TRAINING = Path(__file__).resolve().parents[2] / "demo" / "training"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The modules ``running`` and ``words`` of the training scripts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TRAINING)
        names = ("running", "words")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def run(scripts: Any, file: Path, *, steps: int, stop_at: int | None = None) -> torch.Tensor:
    """Train one small layer for some steps; returns its weight."""
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for step in scripts.running.Training(file, steps, {"layer": layer, "optimiser": optimiser}):
        if step == stop_at:
            raise KeyboardInterrupt
        batch = torch.randn(4, 3, generator=scripts.running.generator(5, step))
        optimiser.zero_grad()
        layer(batch).square().mean().backward()
        optimiser.step()
    return layer.weight.detach().clone()


def test_a_stopped_training_goes_on_and_ends_like_one_that_was_not_stopped(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(scripts, tmp_path / "whole.pt", steps=12)
    monkeypatch.setattr(scripts.running, "_SECONDS_BETWEEN_SAVES", -1)
    with pytest.raises(KeyboardInterrupt):
        run(scripts, tmp_path / "stopped.pt", steps=12, stop_at=7)
    assert torch.load(tmp_path / "stopped.pt", weights_only=True)["step"] == 7
    assert torch.equal(run(scripts, tmp_path / "stopped.pt", steps=12), whole)


def test_a_finished_training_is_restored_and_trains_no_more(scripts: Any, tmp_path: Path) -> None:
    once = run(scripts, tmp_path / "layer.pt", steps=5)
    assert torch.equal(run(scripts, tmp_path / "layer.pt", steps=5, stop_at=5), once)


def test_the_learning_rate_rises_and_falls(scripts: Any) -> None:
    rates = [scripts.running.learning_rate(step, 100, 1.0, warm_up=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02


def test_every_word_of_the_captions_is_one_token_and_others_fall_apart(scripts: Any, tmp_path: Path) -> None:
    words = scripts.words
    tokenizer = words.make_tokenizer(tmp_path)
    for word in words.WORDS:
        assert tokenizer.convert_ids_to_tokens(tokenizer(word).input_ids) == [words.START, f"{word}</w>", words.END]
    strange = tokenizer.convert_ids_to_tokens(tokenizer("harbour é").input_ids)
    assert len(strange) > 6
    assert "".join(strange[1:-1]).replace("</w>", " ").startswith("harbour ")


def test_a_tokenizer_is_the_same_each_time_it_is_made(scripts: Any, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        scripts.words.make_tokenizer(tmp_path / folder)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_saved_judge_answers_like_the_one_that_was_saved(scripts: Any, tmp_path: Path) -> None:
    judge = judging.Judge({"colour": ("red", "blue"), "stripes": ("no", "yes")}).half().float().eval()
    judging.save_judge(judge, tmp_path / "judge.safetensors")
    pictures = torch.rand(6, 3, 64, 64) * 2 - 1
    answers = judging.load_judge(tmp_path / "judge.safetensors").judge(pictures)
    assert answers == judge.judge(pictures)
    assert all(set(each) == {"colour", "stripes"} for each in answers)
