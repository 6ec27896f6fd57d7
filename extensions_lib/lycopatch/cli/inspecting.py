"""``inspect``: what a network file is, on one screen or as JSON."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from lycopatch.cli.parser import OK, TROUBLE
from lycopatch.cli.terminal import fields, paint, progress, safe, say, say_json, trouble
from lycopatch.engine.description import describe
from lycopatch.engine.wording import size_text

_PARTS = {"unet": "U-Net", "te1": "text encoder", "te2": "second text encoder", "te3": "third text encoder"}
_MOST_LINES = 6
_MOST_TAGS = 20
_STRUCTURES = frozenset({"network", "buckets", "datasets", "tags", "different_tags"})


def run(arguments: Namespace) -> int:
    """Explain each file; 0 when all are networks in order."""
    described: list[dict[str, Any]] = []
    for path in arguments.files:
        facts = describe(path, allow_pickle=arguments.allow_pickle, quick=arguments.quick, progress=progress)
        described.append(facts)
        if facts["status"] == "unreadable" or (arguments.json and facts["error"]):
            trouble(facts["error"])
        if not arguments.json:
            _show(facts)
    if arguments.json:
        say_json(described)
    return OK if all(facts["status"] == "ok" for facts in described) else TROUBLE


def _show(facts: Mapping[str, Any]) -> None:
    """One file for a person."""
    if facts["status"] == "unreadable":
        return
    say(paint(safe(facts["path"]), "bold"))
    fields(list(_rows(facts)))
    say()


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["status"] == "not a network":
        yield "status", paint(safe(facts["error"]), "yellow")
    if facts["algorithms"]:
        yield "base model", f"{facts['family_title']} ({facts['family_confidence']:.0%} sure)"
        yield from (("", safe(sentence)) for sentence in facts["family_evidence"])
        yield "algorithms", _counted(facts["algorithms"], "layer")
    if facts["modifiers"]:
        yield "with", _counted(facts["modifiers"], "layer")
    if facts["ranks"]:
        yield "rank", _ranks(facts["ranks"])
    if facts["components"]:
        yield "parts", _counted({_PARTS[part]: count for part, count in facts["components"].items()}, "layer")
    if facts["dialects"]:
        yield "key names", ", ".join(facts["dialects"])
    yield from _key_rows(facts["keys"])
    for embedding in facts["embeddings"]:
        yield "embedding", f"{safe(embedding['name'])} ({embedding['vectors']} vectors)"
    yield "numbers", f"{_counted(facts['dtypes'], 'tensor')}; {size_text(facts['size'])}"
    if facts["health"] is not None:
        yield from _health_rows(facts["health"])
    if facts["hashes"] is not None:
        hashes = facts["hashes"]
        yield "hashes", f"{hashes['short']} (short), {hashes['autov2']} (AutoV2), {hashes['autov1']} (AutoV1)"
        yield "", f"{hashes['autov3']} (AutoV3)"
        yield "", f"{hashes['sha256']} (SHA-256)"
    yield from _training_rows(facts["training"])
    if facts["metadata"]:
        yield "metadata", f"{len(facts['metadata'])} entries (--json shows them)"


def _key_rows(keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    everything = keys["explained"] == keys["total"]
    summary = f"{keys['explained']} of {keys['total']} explained"
    yield "keys", summary if everything else paint(summary, "yellow")
    for title, name in (("unknown", "unknown_reasons"), ("left out", "skipped")):
        for number, entry in enumerate(keys[name]):
            if number == _MOST_LINES:
                yield "", f"and {len(keys[name]) - number} more reasons"
                break
            example, count = safe(entry["keys"][0], 100), len(entry["keys"])
            which = example if count == 1 else f"{count} keys such as {example}"
            yield "", f"{title}: {which}: {safe(entry['reason'])}"


def _health_rows(health: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "health", paint("good", "green") if health["healthy"] else paint("damaged", "red", "bold")
    yield from (("", line) for line in issue_lines(health["issues"]))


def issue_lines(issues: list[dict[str, Any]]) -> Iterator[str]:
    """The findings of each kind, the first few of them in words."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for issue in issues:
        kinds.setdefault((issue["severity"], issue["kind"]), []).append(issue["message"])
    for (severity, kind), messages in sorted(kinds.items()):
        mark = paint(kind, "red") if severity == "fault" else paint(kind, "dim")
        yield from (f"{mark}: {safe(message)}" for message in messages[:_MOST_LINES])
        if len(messages) > _MOST_LINES:
            yield f"{mark}: and {len(messages) - _MOST_LINES} more"


def _training_rows(training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name = "training"
    for fact, value in training.items():
        if fact not in _STRUCTURES:
            yield name, f"{fact.replace('_', ' ')}: {safe(str(value), 300)}"
            name = ""
    for fact, value in training.get("network", {}).items():
        parts = [f"{key}={part}" for key, part in value.items()] if isinstance(value, dict) else [str(value)]
        yield name, f"network {fact}: {safe(', '.join(parts), 300)}"
        name = ""
    for each in training.get("datasets", ())[:_MOST_LINES]:
        kind = "regularization " if each["regularization"] else ""
        yield name, f"{kind}pictures: {each['images']} × {each['repeats']}  {safe(each['folder'], 80)}"
        name = ""
    if buckets := training.get("buckets"):
        sizes = ", ".join(f"{each['width']}×{each['height']} ({each['images']})" for each in buckets[:_MOST_LINES])
        yield (
            name,
            f"buckets: {sizes}" + (f" and {len(buckets) - _MOST_LINES} more" if len(buckets) > _MOST_LINES else ""),
        )
    if tags := training.get("tags"):
        shown = ", ".join(f"{safe(each['tag'], 40)} ({each['count']})" for each in tags[:_MOST_TAGS])
        yield "tags", f"{shown}; {training['different_tags']} different ones"


def _counted(counts: Mapping[str, int], unit: str) -> str:
    return ", ".join(f"{safe(name)} ({count} {unit}{'' if count == 1 else 's'})" for name, count in counts.items())


def _ranks(ranks: Mapping[str, int]) -> str:
    if len(ranks) == 1:
        return next(iter(ranks))
    shown = ", ".join(f"{rank} ({count} layers)" for rank, count in list(ranks.items())[:_MOST_LINES])
    return shown if len(ranks) <= _MOST_LINES else f"{shown} and {len(ranks) - _MOST_LINES} others"
