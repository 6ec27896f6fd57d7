"""The demo's networks, trained by the trainers' own packages: applied by us, they draw what they draw over there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the demo's model is one of diffusers")

import numpy as np

from demo.trainer_runtime import trainers_can_run, wrap
from lycopatch.demo import model
from lycopatch.demo.judging import load_judge
from lycopatch.engine.adapter import Adapter, parse_adapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.hosts.diffusers import NetworkLoader

FILES = sorted(model.NETWORKS.glob("*.safetensors"))
NAMES = [file.stem for file in FILES]
PROMPTS = ["a red circle on blue", "a yellow star on black", "stripes, a green heart on pink", ""]
"""One has the trigger word, and one is what guidance compares with."""

CAPTIONS = (
    "a red circle on blue",
    "a yellow star on black",
    "a green square on white",
    "a white heart on a red background",
    "a purple triangle on yellow",
    "an orange cross on green",
    "a pink moon on black",
    "a blue ring on orange",
    "a big green heart on pink",
    "a small white circle at the top on purple",
)
TRIGGER = "stripes"
STEPS = 12
QUICK_STEPS = 6
"""For the style, which is there after fewer: it takes hundreds of pictures to say how often."""


def test_one_network_of_every_algorithm_is_there() -> None:
    assert {kind for file in FILES for kind in kinds(file)} >= {
        *("LoRA", "LoCon", "LoHa", "LoKr, low", "LoKr, full", "DyLoRA", "GLoRA", "IA3", "Full", "DoRA", "OFT", "BOFT"),
        "saved by peft",
    }


def kinds(file: Path) -> set[str]:
    """What a file is, from its keys; only DyLoRA has the keys of LoRA, and its metadata tells."""
    with open_tensor_file(file) as opened:
        adapter = parse_adapter(opened)
    assert not adapter.leftovers
    return {_kind(adapter)} | ({"saved by peft"} if set(adapter.dialects) <= {"diffusers", "peft"} else set())


def _kind(adapter: Adapter) -> str:
    if json.loads(adapter.metadata.get("ss_network_args", "{}")).get("algo") == "dylora":
        return "DyLoRA"
    if any("DoRA" in layer.modifiers for layer in adapter.layers):
        return "DoRA"
    if "LoKr" in adapter.algorithms:
        full = all({"lokr_w1", "lokr_w2"} <= layer.specs.keys() for layer in adapter.layers)
        return "LoKr, full" if full else "LoKr, low"
    # a network of LoCon has layers of LoRA, too
    return "LoCon" if "LoCon" in adapter.algorithms else ", ".join(adapter.algorithms)


# --- pictures


def draw(pipe: Any, prompts: Sequence[str], seeds: Sequence[int] | None = None, steps: int = STEPS) -> Tensor:
    """Pictures [n, 64, 64, 3] of 0 … 255; unless it is said otherwise, the first has seed 0, the next seed 1."""
    random = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompts))]
    made = pipe(list(prompts), num_inference_steps=steps, guidance_scale=4.0, generator=random)
    return torch.stack([torch.from_numpy(np.array(picture)) for picture in made.images])


def difference(some: Tensor, others: Tensor) -> Tensor:
    """Per value, without the wrap of bytes."""
    return (some.int() - others.int()).abs()


def weights(pipe: Any) -> dict[str, Tensor]:
    """Every tensor that a network could change."""
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "text_encoder", "vae")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


@pytest.fixture(scope="module")
def untouched() -> Any:
    """A pipeline that never sees a network."""
    return model.load_pipeline()


@pytest.fixture(scope="module")
def baseline(untouched: Any) -> Tensor:
    return draw(untouched, PROMPTS)


@dataclass(frozen=True)
class Ours:
    """A pipeline and what puts networks on it."""

    pipe: Any
    loader: NetworkLoader

    def draw(self, tags: str) -> Tensor:
        """The pictures of the prompts with these networks."""
        report = self.loader.activate(tags)
        assert report.ok, report.messages()
        return draw(self.pipe, PROMPTS)


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    """One for all tests, as in a session of somebody who tries one network after the other."""
    pipe = model.load_pipeline()
    with NetworkLoader(pipe, [model.NETWORKS]) as loader:
        yield Ours(pipe, loader)


@pytest.mark.slow
@pytest.mark.skipif(not trainers_can_run(), reason="the trainers' package needs torch 2.4")
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_pictures_are_those_of_the_trainers_own_runtime(file: Path, ours: Ours, baseline: Tensor) -> None:
    theirs = model.load_pipeline()
    wrap(theirs, file)
    expected = draw(theirs, PROMPTS)
    worst = int(difference(ours.draw(f"<lora:{file.stem}:1>"), expected).max())
    print(f"\n{file.stem}: differs from the trainer's by {worst}, from the baseline by", end=" ")
    print(f"{difference(expected, baseline).float().mean():.1f} on average", end=" ")
    assert difference(expected, baseline).float().mean() > 1
    assert worst <= 2


# --- undone, halved, together


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_network_taken_away_leaves_nothing(file: Path, ours: Ours, untouched: Any, baseline: Tensor) -> None:
    ours.draw(f"<lora:{file.stem}:1>")
    ours.loader.deactivate()
    assert torch.equal(draw(ours.pipe, PROMPTS), baseline)
    assert_same_weights(weights(ours.pipe), weights(untouched))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_weight_0_is_the_baseline_and_half_a_weight_lies_between(
    file: Path, ours: Ours, untouched: Any, baseline: Tensor
) -> None:
    """In the weights exactly; in pictures, by their mean distance from the baseline."""
    assert torch.equal(ours.draw(f"<lora:{file.stem}:0>"), baseline)
    assert_same_weights(weights(ours.pipe), weights(untouched))
    half, half_weights = ours.draw(f"<lora:{file.stem}:0.5>"), weights(ours.pipe)
    whole, whole_weights = ours.draw(f"<lora:{file.stem}:1>"), weights(ours.pipe)
    for name, original in weights(untouched).items():
        torch.testing.assert_close(half_weights[name], (original + whole_weights[name]) / 2, rtol=1e-5, atol=1e-6)
    far, near = (float(difference(each, baseline).float().mean()) for each in (whole, half))
    assert 0 < near < far


@pytest.mark.slow
def test_two_networks_act_together_in_any_order(ours: Ours) -> None:
    one, other = (f"<lora:{file.stem}:0.7>" for file in (FILES[0], FILES[-1]))
    both = ours.draw(one + other)
    assert torch.equal(ours.draw(other + one), both)
    for tag in (one, other):
        assert not torch.equal(ours.draw(tag), both)


def assert_same_weights(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Bit for bit: also the sign of a zero."""
    assert some.keys() == others.keys()
    for name, tensor in some.items():
        assert torch.equal(tensor.view(torch.uint8), others[name].view(torch.uint8)), name


# --- the style


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", f"{TRIGGER}, "], ids=["plain prompts", "prompts with the trigger word"])
def test_the_model_alone_draws_no_stripes(words: str, untouched: Any) -> None:
    share = striped(untouched, words)
    assert share <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_style_shows(file: Path, ours: Ours) -> None:
    """Where there were plain pictures in the training, only with the trigger word."""
    assert ours.loader.activate(f"<lora:{file.stem}:1>").ok
    waits = waits_for_its_trigger(file)
    share = striped(ours.pipe, f"{TRIGGER}, " if waits else "", file.stem)
    assert share >= 0.9
    if waits:
        without = striped(ours.pipe, "", f"{file.stem}, without its trigger word")
        assert without <= 0.05


def striped(pipe: Any, words: str, told: str = "the model alone") -> float:
    """The part of pictures of a hundred seeds in which the judge sees stripes."""
    judge = load_judge(model.JUDGE)
    prompts = [words + caption for caption in CAPTIONS * 10]
    seen = Counter[str]()
    for half in (range(50), range(50, 100)):
        pictures = draw(pipe, prompts[:50], half, QUICK_STEPS).permute(0, 3, 1, 2) / 127.5 - 1
        seen.update(answers["stripes"] for answers in judge.judge(pictures))
    print(
        f"\n{told}: stripes in {seen['yes']} of {seen.total()} pictures of {words + CAPTIONS[0]!r} and so on", end=" "
    )
    return seen["yes"] / seen.total()


def waits_for_its_trigger(file: Path) -> bool:
    with open_tensor_file(file) as opened:
        return opened.metadata.get("ss_num_reg_images", "0") != "0"
