"""From a prompt with tags to pictures: what the page, the command line and the comparison have in common."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lycopatch.engine.report import Report
from lycopatch.engine.request import negative_prompt_issues, parse_prompt
from lycopatch.hosts.diffusers import NetworkLoader

MOST_STEPS = 150
MOST_PICTURES = 64
Steps = Callable[[int, int], None]
"""Called with the steps done and their number. What it raises ends the picture."""


class Stopped(Exception):
    """The pictures were given up because somebody asked for it."""


@dataclass(frozen=True)
class Settings:
    """What to make. Picture ``i`` of a batch has the seed ``seed + i``.

    Alone, that seed gives the same picture up to one of 255 steps: sums of other sizes round in another way.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 4.0
    batch: int = 1

    def __post_init__(self) -> None:
        for what, value, least, most in (
            ("steps", self.steps, 1, MOST_STEPS),
            ("CFG", self.cfg, 1, 30),
            ("batch", self.batch, 1, MOST_PICTURES),
            ("seed", self.seed, 0, 2**63 - MOST_PICTURES),
        ):
            if not least <= value <= most:
                raise ValueError(f"The {what} must be between {least} and {most}, not {value}.")


@dataclass(frozen=True)
class Made:
    """Pictures and what the tags of their prompt did. An ``Activation`` for the tab."""

    settings: Settings
    pictures: list[Image.Image]
    report: Report
    model: str
    bytes_held: int
    when: float
    seconds: float
    """For the pictures alone, without ``report.seconds``."""

    def infotext(self, number: int = 0) -> str:
        """The parameters of one picture, written as the WebUI writes them."""
        wanted = self.settings
        negative = [f"Negative prompt: {wanted.negative_prompt}"] if wanted.negative_prompt else []
        facts = f"Steps: {wanted.steps}, CFG scale: {wanted.cfg:g}, Seed: {wanted.seed + number}, Model: {self.model}"
        return "\n".join([wanted.prompt, *negative, facts])


class TextToImage:
    """A pipeline with networks. Makes one batch at a time, whoever asks; can be stopped from another thread."""

    def __init__(self, pipe: Any, loader: NetworkLoader, model: str, side: int | None = None) -> None:
        """``side``: of the pictures, in pixels; the model's own when left out."""
        self.pipe, self.loader, self.model, self.side = pipe, loader, model, side
        self.last: Made | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._busy = False

    def make(self, settings: Settings, progress: Steps | None = None) -> Made:
        """The pictures of a prompt. Networks stay active until the next prompt. Raises Stopped."""
        with self.alone():
            parsed = parse_prompt(settings.prompt)
            report = self.loader.activate(settings.prompt)
            report.issues.extend(negative_prompt_issues(settings.negative_prompt))
            began = time.perf_counter()
            pictures = self._run(parsed.text, settings, progress)
            seconds = time.perf_counter() - began
            held = self.loader.session.bytes_held
            self.last = Made(settings, pictures, report, self.model, held, time.time(), seconds)
            return self.last

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For several batches in a row: nobody else makes pictures meanwhile, and one ``stop`` ends them all."""
        with self._lock:
            within, self._busy = self._busy, True
            if not within:
                self._stop.clear()
            try:
                yield
            finally:
                self._busy = within

    def stop(self) -> None:
        """Give up the pictures in work, if there are any, after the step in work."""
        self._stop.set()

    def _run(self, prompt: str, settings: Settings, progress: Steps | None) -> list[Image.Image]:
        def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if self._stop.is_set():
                raise Stopped
            if progress is not None:
                progress(step + 1, settings.steps)
            return tensors

        # noise from the CPU: the same picture on every device
        random = [torch.Generator("cpu").manual_seed(settings.seed + number) for number in range(settings.batch)]
        made = self.pipe(
            prompt,
            negative_prompt=parse_prompt(settings.negative_prompt).text or None,  # SDXL makes a difference there
            height=self.side,
            width=self.side,
            num_inference_steps=settings.steps,
            guidance_scale=settings.cfg,
            num_images_per_prompt=settings.batch,
            generator=random,
            callback_on_step_end=after_step,
        )
        return made.images
