"""One file for a person, from the facts of ``engine.description.describe``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lycopatch.engine.wording import size_text
from lycopatch.ui.markup import counted, fields, first, folded, lines, notice, text
from lycopatch.ui.networks import NetworkRow
from lycopatch.ui.report_view import grouped

_PARTS = {"unet": "U-Net", "te1": "text encoder", "te2": "second text encoder", "te3": "third text encoder"}
_MOST_REASONS = 20
_MOST_ENTRIES = 30
_STRUCTURES = frozenset({"network", "buckets", "datasets", "tags", "different_tags"})


def file_html(row: NetworkRow, facts: Mapping[str, Any]) -> str:
    """Everything known about a file. ``facts`` with ``health`` and ``hashes`` None: they were not asked for."""
    title = f"<h3>{text(row.file.stem)}</h3><p><code>{text(f'<lora:{row.name}:1>')}</code></p>"
    trouble = notice(facts["error"], "trouble") if facts.get("error") else ""
    if facts["status"] == "unreadable":
        return title + trouble
    body = fields(dict(_facts(row, facts)))
    return title + trouble + body + _keys(facts["keys"]) + _training(facts["training"]) + _metadata(facts["metadata"])


def _facts(row: NetworkRow, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["algorithms"]:
        sure = f"{text(facts['family_title'])} ({facts['family_confidence']:.0%} sure)"
        yield "Base model", sure + lines(map(text, facts["family_evidence"]))
        yield "Algorithm", _counts(facts["algorithms"], "layer")
        yield "With", _counts(facts["modifiers"], "layer")
        yield "Rank", _ranks(facts["ranks"])
        yield "Parts", _counts({_PARTS[part]: count for part, count in facts["components"].items()}, "layer")
    yield "Written by", text(", ".join(facts["dialects"]))
    embeddings = [f"{text(each['name'])} ({counted(each['vectors'], 'vector')})" for each in facts["embeddings"]]
    yield "Textual inversions", lines(first(embeddings, _MOST_ENTRIES))
    yield "Numbers", f"{_counts(facts['dtypes'], 'tensor')}; {size_text(facts['size'])}"
    if facts["health"] is not None:
        verdict = "good" if facts["health"]["healthy"] else "damaged"
        found = grouped((each["kind"], each["message"]) for each in facts["health"]["issues"])
        yield "Health", f"{verdict}{found}"
    if facts["hashes"] is not None:
        names = {
            "short": "in infotexts",
            "autov2": "AutoV2",
            "autov1": "AutoV1",
            "autov3": "AutoV3",
            "sha256": "SHA-256",
        }
        yield "Hashes", lines(f"<code>{text(facts['hashes'][key])}</code> {title}" for key, title in names.items())
    yield "Trainer's name", text(row.file.alias or "")
    yield "Trigger words", text(", ".join(row.trigger_words))


def _keys(keys: Mapping[str, Any]) -> str:
    summary = f"{keys['explained']:,} of {counted(keys['total'], 'key')} explained"
    found: list[str] = []
    for title, name in (("not understood", "unknown_reasons"), ("left out", "skipped")):
        for entry in keys[name]:
            example, more = text(entry["keys"][0], 200), len(entry["keys"]) - 1
            others = f" and {more:,} more" if more else ""
            found.append(f"{title}: <code>{example}</code>{others}: {text(entry['reason'])}")
    return folded(summary, lines(first(found, _MOST_REASONS)) or "<p>Nothing is left over.</p>")


def _training(training: Mapping[str, Any]) -> str:
    entries = {fact.replace("_", " "): text(value, 600) for fact, value in training.items() if fact not in _STRUCTURES}
    for fact, value in training.get("network", {}).items():
        parts = [f"{key}={part}" for key, part in value.items()] if isinstance(value, dict) else [str(value)]
        entries[f"network {fact}"] = text(", ".join(parts))
    sets = [
        f"{'regularization ' if each['regularization'] else ''}{each['images']} × {each['repeats']} "
        f"{text(each['folder'], 120)}"
        for each in training.get("datasets", ())
    ]
    entries["pictures"] = lines(first(sets, _MOST_ENTRIES))
    sizes = [f"{each['width']}×{each['height']} ({each['images']})" for each in training.get("buckets", ())]
    entries["sizes"] = ", ".join(first(sizes, _MOST_ENTRIES))
    tags = [f"{text(each['tag'], 60)} ({each['count']})" for each in training.get("tags", ())]
    entries["tags"] = ", ".join(first(tags, _MOST_ENTRIES))
    return folded("Training", fields(entries))


def _metadata(metadata: Mapping[str, str]) -> str:
    entries = {key: f"<code>{text(value, 2100)}</code>" for key, value in metadata.items()}
    return folded(
        f"Metadata: {len(metadata):,} entries" if len(metadata) != 1 else "Metadata: 1 entry", fields(entries)
    )


def _counts(counts: Mapping[str, int], unit: str) -> str:
    if len(counts) == 1:
        return text(next(iter(counts)))
    return ", ".join(f"{text(name)} ({counted(count, unit)})" for name, count in counts.items())


def _ranks(ranks: Mapping[str, int]) -> str:
    shown: Sequence[str] = [f"{rank} ({counted(count, 'layer')})" for rank, count in ranks.items()]
    return next(iter(ranks)) if len(ranks) == 1 else ", ".join(first(shown, 6))
