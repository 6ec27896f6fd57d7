"""The command: make the files once, start a fresh process per contender, workload and round, print one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.adapters import WORKLOADS, write_all
from benchmarks.measure import conditions, load_average
from benchmarks.model import model_shapes, write_checkpoint
from benchmarks.table import CONTENDERS, PEERS, Results, render

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_PROCESS = 1800


@dataclass
class Command:
    """The options of one run, and the folder its files are in."""

    workloads: Sequence[str]
    contenders: Sequence[str]
    rounds: int
    peer_rounds: int
    threads: int
    workdir: Path
    results: Results = field(default_factory=Results)

    def prepare(self, *, small: bool) -> None:
        """Write the checkpoint and the networks that are not there yet."""
        shapes = model_shapes(small=small)
        write_checkpoint(self.workdir / "model.safetensors", small=small)
        stems = dict.fromkeys(stem for name in self.workloads for stem in WORKLOADS[name].files)
        write_all(self.workdir / "networks", stems, shapes)

    def run(self) -> None:
        for number in range(self.rounds):
            for workload in self.workloads:
                # each round starts with another contender, so that none always follows the same one
                shift = number % len(self.contenders)
                for contender in [*self.contenders[shift:], *self.contenders[:shift]]:
                    if contender in PEERS and number >= self.peer_rounds:
                        continue
                    say(f"round {number + 1} of {self.rounds}: {workload}, {contender} (load {load_average()})")
                    self.results.add(workload, contender, self._measure(workload, contender, "time"))
        for workload in self.workloads:
            for contender in self.contenders:
                if contender != "floor":  # it holds all originals by definition
                    say(f"memory: {workload}, {contender}")
                    self.results.add(workload, contender, self._measure(workload, contender, "memory"))

    def _measure(self, workload: str, contender: str, mode: str) -> dict[str, Any]:
        """What the worker printed, or ``{"failed": last line of its traceback}``."""
        known = self.results.failure(workload, contender)
        if known is not None:
            return {"failed": known}
        arguments = ["--contender", contender, "--workload", workload, "--mode", mode]
        command = [sys.executable, "-m", "benchmarks.worker", *arguments]
        command += ["--workdir", str(self.workdir), "--threads", str(self.threads)]
        paths = [str(ROOT), str(ROOT / "extensions_lib"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "HF_HUB_OFFLINE": "1",
        }
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS_PER_PROCESS)
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {SECONDS_PER_PROCESS} s"}
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
        return json.loads(done.stdout.strip().splitlines()[-1])


def say(text: str) -> None:
    """Progress goes to stderr: stdout holds the table and nothing else."""
    print(text, file=sys.stderr, flush=True)


def names(known: Sequence[str], given: str | None) -> list[str]:
    """A comma-separated choice of the known names, all of them by default."""
    if given is None:
        return list(known)
    chosen = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise SystemExit(f"Unknown: {', '.join(unknown) or '(nothing)'}. Choose from {', '.join(known)}.")
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a model of a 16th of the size, to see that all runs")
    parser.add_argument("--adapters", help=f"which of {','.join(WORKLOADS)} (default: all)")
    parser.add_argument("--contenders", help=f"which of {','.join(CONTENDERS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1, help="in how many of them the slow peers take part")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; above 1 the table shows wall seconds")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--workdir", type=Path, help="where the files go (2.5 GB; default: the temporary folder)")
    options = parser.parse_args()
    folder = options.workdir or Path(tempfile.gettempdir()) / "lycopatch-benchmarks"
    command = Command(
        names(list(WORKLOADS), options.adapters),
        names(list(CONTENDERS), options.contenders),
        options.rounds,
        options.peer_rounds,
        options.threads,
        folder / ("small" if options.small else "full"),
    )
    facts = conditions(options.threads, options.rounds, options.peer_rounds)
    facts["model"] = "a 16th of SD1.5 (a smoke test: the times mean nothing)" if options.small else "SD1.5, fp16"
    before = load_average()
    say(f"files in {command.workdir}")
    command.prepare(small=options.small)
    command.run()
    facts["load"] = f"{before} before, {load_average()} after (1, 5, 15 minutes; the benchmark itself makes about 1)"
    print(render(command.results, facts, wall=options.threads > 1))
    if options.json:
        report = {"conditions": facts, "samples": command.results.as_dict()}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 1 if any(name.startswith("lycopatch") for _, name, _ in command.results.failures()) else 0


if __name__ == "__main__":
    sys.exit(main())
