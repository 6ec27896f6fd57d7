"""What all the trainings share: steps with a progress bar, saved each minute, going on where a stopped run left off."""

from __future__ import annotations

import math
import os
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]

_SECONDS_BETWEEN_SAVES = 60


class Stateful(Protocol):
    """A module, an optimiser, an average."""

    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict, /) -> object: ...


class Training:
    """Iterating gives step numbers; ``parts`` are saved to ``file`` meanwhile and restored from it at the start.

    A step's random numbers come from ``generator(step)``, so that a run which was stopped ends like one which was not.
    """

    def __init__(self, file: Path, steps: int, parts: dict[str, Stateful]) -> None:
        self.steps, self.shown = steps, ""
        self._file, self._parts = file, parts

    def __iter__(self) -> Iterator[int]:
        done, saved = self._restore(), time.monotonic()
        bar = tqdm(range(done, self.steps), initial=done, total=self.steps, desc=self._file.stem, mininterval=5)
        for step in bar:
            yield step
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                self._save(step + 1)
                saved = time.monotonic()
                bar.set_postfix_str(self.shown, refresh=False)
        if done < self.steps:
            self._save(self.steps)

    def _restore(self) -> int:
        if not self._file.exists():
            return 0
        state = torch.load(self._file, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return state["step"]

    def _save(self, step: int) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()} | {"step": step}
        unfinished = self._file.with_suffix(".tmp")
        torch.save(state, unfinished)
        os.replace(unfinished, self._file)


def generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 50) -> float:
    """Up in a line, down in half a cosine to a hundredth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    part = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """For all groups of parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def arguments(description: str | None, steps: int) -> ArgumentParser:
    """The options that every script has."""
    parser = ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo", help="folder for unfinished runs")
    parser.add_argument("--steps", type=int, default=steps, help="steps to train (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="processor cores to use (default: all)")
    return parser


def prepare(work: Path, threads: int) -> None:
    """Make the folder of unfinished runs, limit the cores."""
    work.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
