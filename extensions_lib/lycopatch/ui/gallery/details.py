"""Everything about one network as JSON for a page.

What the file says, what the user says, what Civitai says, and what the loaded model makes of it. Texts of strangers are
short and no markup; no folder of this computer is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lycopatch.engine import description
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.catalog import AdapterFile
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.influence import Effect, influence_of
from lycopatch.engine.metadata import cut
from lycopatch.engine.patching import Progress
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.recognise import TITLES
from lycopatch.engine.report import LeftOut
from lycopatch.engine.session import Session
from lycopatch.engine.wording import plain
from lycopatch.ui.answers import without_place
from lycopatch.ui.civitai import CivitaiInfo, read_civitai
from lycopatch.ui.gallery.training import training
from lycopatch.ui.sidecar import Sidecar, read_sidecar

MOST_EXAMPLES = 5
MOST_GROUPS = 100
_LONGEST_REASON = 400
_UNUSUAL = "a model of an unusual structure"


def details(
    card: Mapping[str, Any],
    file: AdapterFile,
    *,
    session: Session | None = None,
    model: str | None = None,
    allow_pickle: bool = False,
    hashes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What there is to say about a network. Never raises for a bad file: ``error`` says what is wrong with it.

    ``card``: the network's, whose ``name`` is what a tag calls it (None: nothing can). ``session``: of the model that
    is loaded now, which people know as ``model``. ``hashes``: those that are known; none are made here.
    """
    facts = description.describe(file.path, allow_pickle=allow_pickle, quick=True)
    readable = facts["status"] != "unreadable"
    trained = facts.get("training", {})
    words = read_sidecar(file.path)
    civitai = read_civitai(file.path, (hashes or {}).get("sha256"))
    return {
        "card": dict(card),
        "tag": f"<lora:{card['name']}:1>" if card.get("name") else None,
        "file": {
            "path_below": file.relative + file.path.suffix,
            "size": file.fingerprint.size,
            "modified": file.fingerprint.mtime_ns / 1e9,
            "dtypes": facts.get("dtypes", {}),
            "keys": facts["keys"]["total"] if readable else 0,
            "hashes": dict(hashes) if hashes else None,
        },
        "words": words_of(words),
        "tags": [[each["tag"], each["count"]] for each in trained.get("tags", ())],
        "trigger": trained.get("trigger_phrase"),
        "civitai": None if civitai is None else _civitai(civitai),
        "training": training(trained),
        "what": _what(facts) if readable else None,
        "matched": _matched(file.path, session, model) if readable and session is not None else None,
        "embeddings": facts.get("embeddings", []),
        "error": facts["error"],
        "problem": None if words.problem is None else without_place(words.problem),
        "metadata": facts.get("metadata", {}),
    }


def influence(
    path: Path,
    *,
    session: Session | None = None,
    model: str | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Where a network acts, on the model of ``session`` or else on none. What ``progress`` raises ends it.

    Raises AdapterError, which says why it can not be measured.
    """
    if session is not None:
        found = session.influence(path, progress)
    else:
        with open_tensor_file(path, allow_pickle=allow_pickle) as file:
            found = influence_of(parse_adapter(file), file, progress=progress)
    blocks = [{"block": name, "part": effect.component, **_effect(effect)} for name, effect in found.blocks.items()]
    return {
        "blocks": blocks,
        "parts": {component: _effect(effect) for component, effect in found.parts.items()},
        "unmeasured": [
            {"reason": cut(reason, _LONGEST_REASON), "count": count}
            for reason, count in list(found.unmeasured.items())[:MOST_GROUPS]
        ],
        "seconds": found.seconds,
        "against": (model or TITLES.get(found.family or "", _UNUSUAL)) if found.against_model else None,
    }


def health(path: Path, *, allow_pickle: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """``{status, issues}``: every number of the file was looked at. Never raises for a bad file."""

    def progress_of(_what: str) -> AbstractContextManager[Progress]:
        return nullcontext(progress or (lambda _done, _total: None))

    found = description.checked(path, allow_pickle=allow_pickle, progress=progress_of)
    return {"status": found["status"], "issues": found["issues"]}


def words_of(words: Sidecar) -> dict[str, Any]:
    """The user's words as the page edits them."""
    return {
        "description": words.description,
        "notes": words.notes,
        "activation_text": words.activation_text,
        "negative_text": words.negative_text,
        "preferred_weight": words.preferred_weight,
        "sd_version": words.sd_version,
        "weight_range": None if words.weight_range is None else list(words.weight_range),
        "groups": [{"name": group.name, "words": list(group.words)} for group in words.groups],
        "problem": None if words.problem is None else without_place(words.problem),
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "relative": effect.relative,
        "delta": effect.delta,
        "spectral": effect.spectral,
        "layers": effect.layers,
    }


def _civitai(found: CivitaiInfo) -> dict[str, Any]:
    return {
        "title": found.title,
        "creator": found.creator,
        "version": found.version,
        "base_model": found.base_model,
        "trained_words": list(found.trained_words),
        "description_text": found.description,
        "url": found.url,
        "nsfw": found.nsfw,
        "source": found.source,
    }


def _what(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What kind of network it is."""
    names = ("algorithms", "ranks", "components", "modifiers", "dialects")
    return {name: facts[name] for name in names} | {
        "family": facts["family"],
        "evidence": facts["family_evidence"],
        "confidence": facts["family_confidence"],
    }


def _matched(path: Path, session: Session, model: str | None) -> dict[str, Any] | None:
    """What becomes of the file's keys in the loaded model, and why some of them are left out."""
    try:
        report = session.match(path)
    except UnreadableAdapter:
        return None  # it changed since it was described
    groups = sorted(reason_groups(report.left_out), key=lambda group: -group["count"])
    return {
        "model": model or TITLES.get(session.index.model.family, _UNUSUAL),
        **{outcome: len(keys) for outcome, keys in report.keys.items()},
        "layers": {"applied": report.layers_applied, "total": report.layers_total},
        "groups": groups[:MOST_GROUPS],
    }


def reason_groups(left_out: list[LeftOut]) -> Iterator[dict[str, Any]]:
    """Each reason once: what it means for how many keys, with some of the layers (or keys) it is about."""
    found: dict[tuple[str, str], list[LeftOut]] = {}
    for each in left_out:
        found.setdefault((each.outcome, each.reason), []).append(each)
    for (outcome, reason), several in found.items():
        yield {
            "outcome": outcome,
            "reason": cut(reason, _LONGEST_REASON),
            "count": sum(each.keys for each in several),
            "examples": [plain(each.what) for each in several[:MOST_EXAMPLES]],
        }
