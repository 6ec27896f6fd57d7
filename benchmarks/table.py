"""One table: a block per workload, a column per contender, a row per operation."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

CONTENDERS = {
    "floor": "bare-torch floor",
    "lycopatch-file": "LycoPatch, originals: file",
    "lycopatch-ram": "LycoPatch, originals: RAM",
    "peft": "peft",
    "lycoris": "lycoris-lora",
}
OPERATIONS = {
    "cold": "cold apply",
    "reweight": "re-weight",
    "switch": "switch A→B",
    "back": "switch back",
    "remove": "remove",
}
PEERS = ("peft", "lycoris")
OURS = ("lycopatch-file", "lycopatch-ram")
AIMS = {"cold": 1.3, "reweight": 1.2, "switch": 1.2}
NOTHING = "–"
CELL = 32
LABEL = 14


class Results:
    """What the workers reported, per workload and contender, in the order of the rounds."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)

    def add(self, workload: str, contender: str, report: dict[str, Any]) -> None:
        self._found[workload, contender].append(report)

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(workload for workload, _ in self._found))

    def contenders(self) -> list[str]:
        present = {contender for _, contender in self._found}
        return [name for name in CONTENDERS if name in present]

    def failure(self, workload: str, contender: str) -> str | None:
        """Why this contender could not do this workload, None when it could."""
        reports = self._found.get((workload, contender), [])
        return next((report["failed"] for report in reports if "failed" in report), None)

    def failures(self) -> Iterator[tuple[str, str, str]]:
        for workload, contender in self._found:
            reason = self.failure(workload, contender)
            if reason is not None:
                yield workload, contender, reason

    def samples(self, workload: str, contender: str, key: str, clock: str) -> list[float]:
        """One number per round. An operation a contender failed at has none."""
        if self.failure(workload, contender) is not None:
            return []
        reports = self._found.get((workload, contender), [])
        return [report["seconds"][key][clock] for report in reports if "seconds" in report]

    def worst(self, workload: str, contender: str, key: str, choose: Callable[[list[float]], float]) -> float | None:
        """``rounded`` or ``changed`` over the rounds, by ``choose`` (min or max)."""
        values = [report[key] for report in self._found.get((workload, contender), []) if key in report]
        return choose(values) if values else None

    def memory(self, workload: str, contender: str) -> dict[str, float]:
        reports = self._found.get((workload, contender), [])
        return next((report["memory"] for report in reports if "memory" in report), {})

    def references(self, workload: str) -> dict[str, Any]:
        reports = self._found.get((workload, "floor"), [])
        return next((report["references"] for report in reports if "references" in report), {})

    def as_dict(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        nested: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for (workload, contender), reports in self._found.items():
            nested.setdefault(workload, {})[contender] = reports
        return nested


def render(results: Results, facts: Mapping[str, str], *, wall: bool) -> str:
    """The whole text: conditions, a block per workload, how to read it, what failed."""
    clock = "wall" if wall else "cpu"
    lines = [f"{name + ':':<10} {fact}" for name, fact in facts.items()]
    lines.append("")
    for workload in results.workloads():
        lines += [*_block(results, workload, clock), ""]
    lines += _legend(clock)
    lines += [f"{workload}, {name}: failed: {reason}" for workload, name, reason in results.failures()]
    return "\n".join(lines)


def _block(results: Results, workload: str, clock: str) -> list[str]:
    contenders = results.contenders()
    head = f"{workload:<{LABEL}}" + "".join(f"{CONTENDERS[name]:<{CELL}}" for name in contenders)
    rows = [head.rstrip(), "-" * len(head)]
    for key, label in OPERATIONS.items():
        cells = [_time_cell(results, workload, name, key, clock) for name in contenders]
        rows.append(_row(label, cells))
    facts: dict[str, Callable[[str], str]] = {
        "peak MB": lambda name: _memory_cell(results.memory(workload, name), "peak"),
        "held MB": lambda name: _memory_cell(results.memory(workload, name), "held"),
        "rounded": lambda name: _share(results.worst(workload, name, "rounded", min)),
        "restored": lambda name: _restored(results.worst(workload, name, "changed", max)),
    }
    rows += [_row(label, [cell(name) for name in contenders]) for label, cell in facts.items()]
    for label, seconds in results.references(workload).items():
        rows.append(f"{'':<{LABEL}}{label}: {seconds[clock]:.2f} s")
    return rows


def _row(label: str, cells: list[str]) -> str:
    return (f"{label:<{LABEL}}" + "".join(f"{cell:<{CELL}}" for cell in cells)).rstrip()


def _time_cell(results: Results, workload: str, name: str, key: str, clock: str) -> str:
    """``0.31 ±0.02   1.11×  0.20p 0.11l``: seconds, their spread, ratio to the floor, and ours to both peers."""
    samples = results.samples(workload, name, key, clock)
    if not samples:
        return NOTHING
    median = statistics.median(samples)
    text = f"{median:.2f} ±{(max(samples) - min(samples)) / 2:.2f}"
    if name != "floor":
        ratio = _ratio(results, workload, median, "floor", key, clock)
        missed = name in OURS and ratio is not None and ratio > AIMS.get(key, float("inf"))
        text += f" {NOTHING if ratio is None else f'{ratio:5.2f}×'}{'!' if missed else ' '}"
    if name in OURS:
        for peer in PEERS:
            ratio = _ratio(results, workload, median, peer, key, clock)
            text += f" {NOTHING if ratio is None else f'{ratio:.2f}{peer[0]}'}"
    return text


def _ratio(results: Results, workload: str, median: float, other: str, key: str, clock: str) -> float | None:
    samples = results.samples(workload, other, key, clock)
    return median / statistics.median(samples) if samples and statistics.median(samples) > 0 else None


def _memory_cell(memory: Mapping[str, float], what: str) -> str:
    """Cold apply / re-weight / after removal, in MB."""
    numbers = [memory.get(f"{what} {step}") for step in ("cold", "reweight", "remove")]
    return " / ".join(NOTHING if number is None else f"{number:.0f}" for number in numbers) if memory else NOTHING


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.2%}"


def _restored(changed: float | None) -> str:
    if changed is None:
        return NOTHING
    return "bit for bit" if changed == 0 else f"no: {changed:.0f} tensors differ"


def _legend(clock: str) -> list[str]:
    unit = "Wall seconds" if clock == "wall" else "CPU seconds (user + system, all threads of the process)"
    aims = ", ".join(f"{OPERATIONS[key]} ≤ {aim}×" for key, aim in AIMS.items())
    shared = (
        "With several threads the floor uses torch's own, which collapse on a busy machine: ratios below 1 say that."
    )
    return [
        *([shared] if clock == "wall" else []),
        f"{unit}: median over the rounds ± half the range. ×: ratio to the floor; p: to peft; l: to lycoris-lora.",
        f"Aims: {aims} (a miss is marked !). The floor reads, parses, verifies and plans nothing.",
        "cold: the first apply in a fresh process, its file read. switch A→B: B is seen for the first time.",
        "peak, held: over the loaded model, cold apply / re-weight / after removal. A peak counts mapped pages of the",
        "checkpoint, which the system may drop at any time; held counts anonymous memory only.",
        "rounded: share of weights equal to the float64 result rounded once, every 20th layer after the cold apply.",
        "restored: after one cold apply, three re-weights, a switch there and back, and one removal.",
        "Peers: their own merge; only the touched modules exist, made beforehand. Both undo by subtracting.",
    ]
