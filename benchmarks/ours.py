"""LycoPatch through its public API, as a host made of dicts sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lycopatch.hosts.memory import NetworkLoader

Tags = Sequence[tuple[str, float]]


class LycoPatch:
    """``checkpoint``: the file the live tensors came from, or None to make it keep the originals in memory."""

    def __init__(self, live: dict[str, torch.Tensor], folder: Path, checkpoint: Path | None) -> None:
        self.loader = NetworkLoader(live, folders=[folder], checkpoint=checkpoint)

    def apply(self, tags: Tags) -> None:
        report = self.loader.activate(" ".join(f"<lora:{stem}:{multiplier}>" for stem, multiplier in tags))
        if not report.ok:
            raise RuntimeError("; ".join(report.messages()))

    def remove(self) -> None:
        self.loader.deactivate()
