"""How a network was trained, for a page: the facts of ``engine.training`` by name, and as labelled lines.

The labels are English and the same for all files, so that a page can translate them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lycopatch.engine.wording import plain

_MOST_PARTS = 12
_RATES = {"all": "learning_rate", "U-Net": "unet_learning_rate", "text encoder": "text_encoder_learning_rate"}


def training(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, ``rows`` ([label, text], most wanted first) among it; facts that nobody stated are None."""
    network = facts.get("network", {})
    sets = [each for each in facts.get("datasets", ()) if not each["regularization"]]
    return {
        "images": facts.get("images"),
        "repeats": sorted({each["repeats"] for each in sets}) or None,
        "regularisation": facts.get("regularization_images"),
        "resolution": facts.get("resolution"),
        "buckets": facts.get("buckets"),
        "steps": facts.get("steps", facts.get("max_steps")),
        "epochs": facts.get("epoch", facts.get("epochs")),
        "rank": network.get("dim"),
        "alpha": network.get("alpha"),
        "learning_rates": {name: facts[fact] for name, fact in _RATES.items() if fact in facts} or None,
        "optimizer": facts.get("optimizer"),
        "scheduler": facts.get("scheduler"),
        "base_model": facts.get("base_model", facts.get("base_model_version")),
        "tool": facts.get("tool"),
        "finished": facts.get("finished", facts.get("date")),
        "rows": [[label, text] for label, value in _rows(facts) if (text := _text(value))],
    }


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    network = facts.get("network", {})
    yield "Title", facts.get("title")
    yield "Author", facts.get("author")
    yield "Trained with", facts.get("tool")
    yield "Method", network.get("module")
    yield "Base model", _both(facts.get("base_model"), facts.get("base_model_version"))
    yield "VAE", facts.get("vae")
    yield "Images", facts.get("images")
    yield "Repeats", _listed(_folders(facts, regularization=False))
    yield "Regularisation images", facts.get("regularization_images")
    yield "Regularisation repeats", _listed(_folders(facts, regularization=True))
    yield "Resolution", _resolution(facts.get("resolution"))
    sizes = [f"{each['width']}×{each['height']} ({each['images']})" for each in facts.get("buckets", ())]
    yield "Buckets", _listed(sizes)
    yield "Batch size", facts.get("batch_size")
    yield "Steps", _of(facts.get("steps"), facts.get("max_steps"))
    yield "Epochs", _of(facts.get("epoch"), facts.get("epochs"))
    yield "Rank", network.get("dim")
    yield "Alpha", network.get("alpha")
    yield "Network arguments", _listed([f"{name}={_text(value)}" for name, value in network.get("args", {}).items()])
    yield "Dropout", network.get("dropout")
    for label, fact in _RATES.items():
        yield "Learning rate" if label == "all" else f"Learning rate, {label}", facts.get(fact)
    yield "Optimizer", facts.get("optimizer")
    yield "Scheduler", facts.get("scheduler")
    yield "Warm-up steps", facts.get("warmup_steps")
    yield "Precision", facts.get("precision")
    yield "Seed", facts.get("seed")
    yield "Clip skip", facts.get("clip_skip")
    yield "Noise offset", facts.get("noise_offset")
    yield "Min-SNR gamma", facts.get("min_snr_gamma")
    yield "Prediction", facts.get("prediction_type")
    yield "Started", facts.get("started")
    yield "Finished", facts.get("finished", facts.get("date"))
    yield "Different tags", facts.get("different_tags")
    yield "Merged from", facts.get("merged_from")
    yield "Usage", facts.get("usage_hint")
    yield "License", facts.get("license")
    yield "Comment", facts.get("comment")


def _folders(facts: Mapping[str, Any], *, regularization: bool) -> list[str]:
    return [
        f"{each['repeats']} × {each['images']} {plain(each['folder'])}".strip()
        for each in facts.get("datasets", ())
        if each["regularization"] == regularization
    ]


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_PARTS
    return ", ".join([*texts[:_MOST_PARTS], *([f"… ({more})"] if more > 0 else [])])


def _both(name: object, detail: object) -> str:
    return f"{name} ({detail})" if name and detail else str(name or detail or "")


def _of(done: object, wanted: object) -> str:
    """``8 / 10``: training may end early."""
    if done is None or wanted is None or done == wanted:
        return _text(wanted if done is None else done)
    return f"{_text(done)} / {_text(wanted)}"


def _resolution(value: object) -> str:
    """Trainers write ``(512, 768)``, ``512x768`` and ``512``."""
    return _text(value).strip("()").replace(", ", "×").replace("x", "×")


def _text(value: object) -> str:
    """A number without digits that nobody trained with; nothing for nothing."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
