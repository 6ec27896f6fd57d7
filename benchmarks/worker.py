"""One process, one contender, one workload: load the model, run the operations, print one line of JSON.

The command starts this; by hand: ``python -m benchmarks.worker --contender floor --workload lora16 --workdir DIR``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.adapters import WORKLOADS, Workload
from benchmarks.correctness import changed_tensors, correctly_rounded
from benchmarks.measure import Seconds, memory_now, reset_peak, settle_memory, timed
from benchmarks.model import load_live

FIRST = 0.8
WEIGHTS = (0.6, 0.9, 0.7)
ENOUGH = 5.0
"""Seconds after which an operation is not repeated within a process: slow ones are not short of precision."""


class Contender(Protocol):
    """Makes the model hold exactly these networks, or none."""

    def apply(self, tags: Sequence[tuple[str, float]]) -> None: ...
    def remove(self) -> None: ...


def make(name: str, live: dict[str, torch.Tensor], workdir: Path, workload: Workload) -> Contender:
    """The contender of that name, around the live tensors. Imports only what this contender needs."""
    folder = workdir / "networks"
    if name == "floor":
        from benchmarks.floor import Floor

        return Floor(live, folder, workload.files)
    if name in ("peft", "lycoris"):
        from benchmarks import peers

        return (peers.Peft if name == "peft" else peers.Lycoris)(live, folder, workload.files)
    from benchmarks.ours import LycoPatch

    return LycoPatch(live, folder, workdir / "model.safetensors" if name == "lycopatch-file" else None)


def tags_of(stems: Sequence[str], multiplier: float) -> list[tuple[str, float]]:
    return [(stem, multiplier) for stem in stems]


def time_it(name: str, workdir: Path, workload: Workload) -> dict[str, Any]:
    """Cold apply, re-weight, switch to networks not seen before, switch back, remove. Repeated ones give a median."""
    checkpoint, folder = workdir / "model.safetensors", workdir / "networks"
    live = load_live(checkpoint)
    made: list[Contender] = []
    seconds = {"setup": timed(lambda: made.append(make(name, live, workdir, workload)))}
    contender = made[0]
    first = tags_of(workload.first, FIRST)

    seconds["cold"] = timed(lambda: contender.apply(first))
    rounded = correctly_rounded(live, checkpoint, folder, first)
    seconds["reweight"] = _median(
        _repeated(lambda number: timed(lambda: contender.apply(tags_of(workload.first, WEIGHTS[number]))))
    )
    seconds["switch"] = timed(lambda: contender.apply(tags_of(workload.second, FIRST)))
    seconds["back"] = timed(lambda: contender.apply(first))
    changed: list[int] = []

    def removal(number: int) -> Seconds:
        if number:
            contender.apply(first)
        seconds = timed(contender.remove)
        changed.append(changed_tensors(live, checkpoint))
        return seconds

    seconds["remove"] = _median(_repeated(removal))
    result: dict[str, Any] = {"rounded": rounded, "changed": changed[0]}
    if name == "floor":
        from benchmarks.floor import Floor, references

        assert isinstance(contender, Floor)
        result["references"] = {key: vars(value) for key, value in references(contender, workload.first[0]).items()}
    return {"seconds": {key: vars(value) for key, value in seconds.items()}, **result}


def _repeated(measure: Callable[[int], Seconds]) -> list[Seconds]:
    """As many samples as there are WEIGHTS, fewer when they take long."""
    samples: list[Seconds] = []
    while len(samples) < len(WEIGHTS) and sum(sample.wall for sample in samples) < ENOUGH:
        samples.append(measure(len(samples)))
    return samples


def _median(samples: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.cpu for s in samples), statistics.median(s.wall for s in samples))


def weigh_it(name: str, workdir: Path, workload: Workload) -> dict[str, Any]:
    """Megabytes over the loaded model: peaks of the cold apply and of a re-weight, and what stays held."""
    live = load_live(workdir / "model.safetensors")
    contender = make(name, live, workdir, workload)
    settle_memory()
    base = memory_now()
    if base is None:
        return {}
    resident = base.anonymous + base.file
    found: dict[str, float] = {}

    def step(label: str, action: Callable[[], None]) -> None:
        reset_peak()
        action()
        peak = memory_now()
        settle_memory()
        held = memory_now()
        assert peak is not None
        assert held is not None
        found[f"peak {label}"] = peak.peak - resident
        found[f"held {label}"] = held.anonymous - base.anonymous
        found[f"file pages {label}"] = held.file - base.file

    step("cold", lambda: contender.apply(tags_of(workload.first, FIRST)))
    step("reweight", lambda: contender.apply(tags_of(workload.first, WEIGHTS[0])))
    step("remove", contender.remove)
    return {"memory": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--workload", required=True, choices=sorted(WORKLOADS))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--mode", choices=("time", "memory"), default="time")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    run = time_it if options.mode == "time" else weigh_it
    with torch.no_grad():
        result = run(options.contender, options.workdir, WORKLOADS[options.workload])
    result["elapsed"] = time.perf_counter() - started
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
