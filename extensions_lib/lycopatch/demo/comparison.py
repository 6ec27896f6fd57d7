"""The same prompt and seeds with several networks and weights, and what the choice costs: facts and measures.

Nothing here draws or formats; see ``comparison_view``.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lycopatch.demo.judging import Judge, Questions
from lycopatch.demo.txt2img import Settings, TextToImage
from lycopatch.engine.description import describe
from lycopatch.engine.report import TagReport
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.tag import Tag, quote
from lycopatch.engine.wording import shown
from lycopatch.hosts.diffusers import NetworkLoader

MOST_NETWORKS = 24
MOST_WEIGHTS = 8
MOST_SEEDS = 16
MOST_PICTURES = 512

KEPT_SIDE = 256
"""Larger pictures are measured as they are and kept as copies of at most so many pixels."""

_TIMES_APPLIED = 3

Progress = Callable[[int, int, str], None]
"""Called with the pictures done, their number, and what is in work. What it raises ends the comparison."""


@dataclass(frozen=True)
class FileFacts:
    """What a network's file says of itself."""

    algorithm: str = ""
    rank: str = ""
    """``8``, or ``4–8`` where layers differ; empty where the algorithm has none."""
    size: int | None = None
    """In bytes."""


@dataclass(frozen=True)
class Measures:
    """What can be told from the pictures of a cell; None where it can not be told."""

    change: float | None = None
    """Mean absolute difference from the pictures without a network, 0 … 255."""
    striped: float | None = None
    """Share of the pictures in which the judge finds stripes."""
    kept: float | None = None
    """Share of the pictures that still show the shape and the colour that the prompt names, if it names both."""
    diversity: float | None = None
    """Mean absolute difference between the pictures of two seeds, as a part of the same without a network."""


@dataclass(frozen=True)
class Cell:
    """The pictures of one network at one weight, one for each seed, and all there is to say about them."""

    network: str
    """Empty for the pictures without a network."""
    weight: float
    pictures: tuple[Image.Image, ...]
    """Of the first prompt; none when the network could not be loaded, see ``troubles``."""
    file: FileFacts
    layers_applied: int
    layers_total: int
    seconds: float | None
    """To apply the network alone, the file's header being known: the median of some times."""
    measures: Measures
    troubles: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """``cells`` go through the weights of the first network, then through those of the next."""

    settings: Settings
    prompts: tuple[str, ...]
    networks: tuple[str, ...]
    weights: tuple[float, ...]
    judged: bool
    baseline: Cell
    cells: tuple[Cell, ...]


def parse_weights(written: str) -> tuple[float, ...]:
    """``0.5, 1`` → (0.5, 1.0), each once. A tag's rules decide what a weight is. Raises ValueError with a sentence."""
    weights: dict[float, None] = {}
    for text in filter(None, re.split(r"[\s,;]+", written)):
        weight = Tag(text).weight("weight", text, 1.0)
        if not isinstance(weight, float):
            raise ValueError(f"{quote(text)} is no weight that a tag can have; write numbers, as in 0.5, 1.")
        weights[weight] = None
    if not weights:
        raise ValueError("Write at least one weight, as in 0.5, 1.")
    return tuple(weights)


def compare(
    studio: TextToImage,
    networks: Sequence[str],
    weights: Sequence[float],
    settings: Settings,
    judge: Judge | None = None,
    progress: Progress | None = None,
    more_prompts: Sequence[str] = (),
) -> Comparison:
    """Make the pictures of ``settings`` without a network and with each network at each weight, and measure them.

    Tags in the prompt stay; a network's own is put behind it. ``more_prompts`` count in the measures and are not kept
    as pictures. ``judge``: only for pictures of the embedded model. A network that can not be loaded is a cell with
    the reason. Raises Stopped, ValueError with a sentence when too much or nothing is asked for, and what
    ``studio.make`` raises.
    """
    networks, weights = tuple(dict.fromkeys(networks)), parse_weights(", ".join(map(repr, weights)))
    prompts = (settings.prompt, *more_prompts)
    total = settings.batch * len(prompts) * (1 + len(networks) * len(weights))
    _check(networks, weights, settings.batch, total)
    run = _Run(studio, settings, prompts, judge, progress, total)
    with studio.alone():
        baseline = run.baseline()
        cells = tuple(run.cell(network, weight) for network in networks for weight in weights)
    return Comparison(settings, prompts, networks, weights, judge is not None, baseline, cells)


def measure(
    samples: Sequence[Tensor], baseline: Sequence[Tensor], prompts: Sequence[str], judge: Judge | None
) -> Measures:
    """Compare pictures with those without a network. Both: for each prompt uint8 [seeds, height, width, 3]."""
    change = statistics.fmean(_difference(*pair) for pair in zip(samples, baseline, strict=True))
    own, usual = _spread(samples), _spread(baseline)
    diversity = own / usual if own is not None and usual else None
    striped, kept = _judged(samples, prompts, judge) if judge is not None else (None, None)
    return Measures(change, striped, kept, diversity)


def shape_and_colour(prompt: str, questions: Questions) -> tuple[str, str] | None:
    """The first shape that a prompt names and the colour before it, in the judge's words; None without both."""
    words = re.findall(r"\w+", parse_prompt(prompt).text.lower())
    at = next((i for i, word in enumerate(words) if word in questions["shape"]), 0)
    colour = next((word for word in reversed(words[:at]) if word in questions["colour"]), None)
    return None if colour is None else (words[at], colour)


class _Run:
    """One comparison in work: it remembers the pictures without a network, and how far it is."""

    def __init__(
        self,
        studio: TextToImage,
        settings: Settings,
        prompts: Sequence[str],
        judge: Judge | None,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.studio, self.settings, self.prompts, self.judge = studio, settings, prompts, judge
        self.progress, self.done, self.total = progress, 0, total
        self.files: dict[str, FileFacts] = {}
        self.plain: list[Tensor] = []
        self.known_troubles: tuple[str, ...] = ()

    def baseline(self) -> Cell:
        pictures, self.plain, self.known_troubles = self._make("no network", "")
        measures = measure(self.plain, self.plain, self.prompts, self.judge)
        return Cell("", 0.0, pictures, FileFacts(), 0, 0, None, measures, self.known_troubles)

    def cell(self, network: str, weight: float) -> Cell:
        tag = f"<lora:{network}:{weight!r}>"
        if [request.name for request in parse_prompt(tag).requests] != [network]:
            return self._failed(network, weight, FileFacts(), f"No tag can name {shown(network)}; rename the file.")
        seconds, applied = _apply(self.studio.loader, tag)
        facts = self._facts(applied)
        if applied.failed:
            return self._failed(network, weight, facts, *(issue.message for issue in applied.issues))
        pictures, samples, troubles = self._make(f"{shown(network)} at {weight:g}", tag)
        measures = measure(samples, self.plain, self.prompts, self.judge)
        new = tuple(each for each in troubles if each not in self.known_troubles)
        layers = applied.layers_applied, applied.layers_total
        return Cell(network, weight, pictures, facts, *layers, seconds, measures, new)

    def _failed(self, network: str, weight: float, facts: FileFacts, *reasons: str) -> Cell:
        self.done += self.settings.batch * len(self.prompts)
        return Cell(network, weight, (), facts, 0, 0, None, Measures(), reasons)

    def _make(self, what: str, tag: str) -> tuple[tuple[Image.Image, ...], list[Tensor], tuple[str, ...]]:
        """The pictures to keep, all pictures as numbers for each prompt, and the troubles."""
        kept: list[Image.Image] = []
        samples: list[Tensor] = []
        troubles: dict[str, None] = {}
        for prompt in self.prompts:
            wanted = replace(self.settings, prompt=prompt + tag)
            made = self.studio.make(wanted, lambda step, steps: self._tell(step / steps, what))
            self.done += wanted.batch
            samples.append(torch.stack([_numbers(picture) for picture in made.pictures]))
            troubles |= dict.fromkeys(made.report.messages())
            kept = kept or [_copy(picture) for picture in made.pictures]
        return tuple(kept), samples, tuple(troubles)

    def _tell(self, part: float, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done + int(part * self.settings.batch), self.total, what)

    def _facts(self, applied: TagReport) -> FileFacts:
        """Of the file that a tag was found to mean; each file is opened once."""
        if applied.path is None:
            return FileFacts()
        if applied.path not in self.files:
            self.files[applied.path] = _file_facts(Path(applied.path))
        return self.files[applied.path]


def _check(networks: Sequence[str], weights: Sequence[float], seeds: int, pictures: int) -> None:
    if not networks:
        raise ValueError("Choose at least one network.")
    for what, count, most in (
        ("networks", len(networks), MOST_NETWORKS),
        ("weights", len(weights), MOST_WEIGHTS),
        ("seeds", seeds, MOST_SEEDS),
        ("pictures", pictures, MOST_PICTURES),
    ):
        if count > most:
            raise ValueError(f"A comparison can have {most} {what}, and this one would have {count}; choose fewer.")


def _apply(loader: NetworkLoader, tag: str) -> tuple[float | None, TagReport]:
    """Apply one network alone some times: the median of the seconds, and what the tag did."""
    seconds: list[float] = []
    for _ in range(_TIMES_APPLIED):
        loader.deactivate()
        report = loader.activate(tag)
        if report.tags[0].failed:
            return None, report.tags[0]
        seconds.append(report.seconds)
    return statistics.median(seconds), report.tags[0]


def _file_facts(path: Path) -> FileFacts:
    found = describe(path, allow_pickle=False, quick=True)
    algorithms = ", ".join(found.get("algorithms", ()))
    ranks = sorted(map(int, found.get("ranks", ())))
    rank = "–".join(str(each) for each in dict.fromkeys((ranks[0], ranks[-1]))) if ranks else ""
    return FileFacts(" + ".join([algorithms, *found.get("modifiers", ())]), rank, found.get("size"))


def _numbers(picture: Image.Image) -> Tensor:
    """uint8 [height, width, 3]."""
    picture = picture.convert("RGB")
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)


def _copy(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGB")
    copy.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return copy


def _judged(samples: Sequence[Tensor], prompts: Sequence[str], judge: Judge) -> tuple[float | None, float | None]:
    """The shares with stripes, and with the shape and colour that the prompt names."""
    striped: list[bool] = []
    kept: list[bool] = []
    for batch, prompt in zip(samples, prompts, strict=True):
        answers = judge.judge(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)
        striped += [answer["stripes"] == "yes" for answer in answers]
        named = shape_and_colour(prompt, judge.questions)
        if named is not None:
            kept += [(answer["shape"], answer["colour"]) == named for answer in answers]
    return _share(striped), _share(kept)


def _difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference of two tensors of pictures, 0 … 255."""
    return float((one.int() - other.int()).abs().double().mean())


def _spread(samples: Sequence[Tensor]) -> float | None:
    """Mean difference between two pictures of the same prompt; None when there is one picture of each."""
    pairs = [_difference(*pair) for batch in samples for pair in combinations(batch, 2)]
    return statistics.fmean(pairs) if pairs else None


def _share(answers: Sequence[bool]) -> float | None:
    return sum(answers) / len(answers) if answers else None
