"""Everything there is to say about one network file, as a dict that is ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lycopatch.engine.adapter import Adapter, AdapterLayer, parse_adapter
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.health import HealthIssue, Progress, check_health, is_healthy, unreadable_kind
from lycopatch.engine.metadata import cut, presentable
from lycopatch.engine.reading import TensorFile, file_hashes, open_tensor_file
from lycopatch.engine.recognise import TITLES, Verdict, recognise, reference_indexes
from lycopatch.engine.training import training_facts
from lycopatch.engine.types import COMPONENTS

ProgressOf = Callable[[str], AbstractContextManager[Progress]]
"""What is being done → a function to tell (done, total), for as long as the ``with`` block lasts."""

_LONGEST_KEY = 300


def untold(what: str) -> AbstractContextManager[Progress]:
    """The ``ProgressOf`` of those who do not want to know."""
    return nullcontext(lambda done, total: None)


def describe(path: Path, *, allow_pickle: bool, quick: bool, progress: ProgressOf = untold) -> dict[str, Any]:
    """Explain a file. Never raises for a bad one: ``status`` and ``error`` say what is wrong with it.

    ``status``: ok, damaged, unreadable, "not a network". With ``quick``, ``health`` and ``hashes`` are None.
    """
    try:
        with open_tensor_file(path, allow_pickle=allow_pickle) as file:
            return _describe(file, progress, quick=quick)
    except UnreadableAdapter as error:
        return {"path": str(path), "status": "unreadable", "kind": unreadable_kind(error), "error": str(error)}


def checked(path: Path, *, allow_pickle: bool, progress: ProgressOf = untold) -> dict[str, Any]:
    """The health of a file alone: ``{path, status, issues}``. Never raises for a bad one."""
    try:
        with open_tensor_file(path, allow_pickle=allow_pickle) as file:
            adapter = parse_adapter(file)
            issues = _issues(file, adapter, progress)
            return {"path": str(path), "status": _status(adapter, issues), "issues": [_issue(each) for each in issues]}
    except UnreadableAdapter as error:
        issue = HealthIssue(unreadable_kind(error), str(error))
        return {"path": str(path), "status": "unreadable", "issues": [_issue(issue)]}


def _describe(file: TensorFile, progress: ProgressOf, *, quick: bool) -> dict[str, Any]:
    adapter = parse_adapter(file)
    verdict = recognise(adapter)
    issues = None if quick else _issues(file, adapter, progress)
    status = _status(adapter, issues or ())
    errors = [issue.message for issue in issues or () if issue.severity == "fault"]
    if adapter.not_a_network is not None:
        errors = [f'"{file.path.name}" is {adapter.not_a_network}.']
    return {
        "path": str(file.path),
        "status": status,
        "error": errors[0] if errors else None,
        "size": file.fingerprint.size,
        "family": verdict.family,
        "family_title": verdict.title,
        "family_confidence": verdict.confidence,
        "family_evidence": list(verdict.evidence),
        "dialects": [name for name, _ in Counter(adapter.dialects).most_common()],
        "algorithms": dict(Counter(adapter.algorithms).most_common()),
        "ranks": {str(rank): count for rank, count in ranks(adapter).items()},
        "components": {part: verdict.components[part] for part in COMPONENTS if part in verdict.components},
        "modifiers": dict(Counter(name for layer in adapter.layers for name in layer.modifiers).most_common()),
        "dtypes": dict(Counter(spec.dtype for spec in file.specs.values()).most_common()),
        "keys": _keys(adapter, verdict),
        "embeddings": [_embedding(file, embedding.name, embedding.keys) for embedding in adapter.embeddings],
        "health": None
        if issues is None
        else {"healthy": is_healthy(issues), "issues": [_issue(each) for each in issues]},
        "hashes": None if quick else _hashes(file, progress),
        "metadata": presentable(file.metadata),
        "training": training_facts(file.metadata),
    }


def ranks(adapter: Adapter) -> Counter[int]:
    """Rank → layers, the most frequent first; layers without a rank are not counted."""
    counts = Counter(layer.rank for layer in adapter.layers if layer.rank is not None)
    return Counter(dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))))


def _issues(file: TensorFile, adapter: Adapter, progress: ProgressOf) -> list[HealthIssue]:
    with progress(f"{file.path.name}: numbers") as told:
        return check_health(file, adapter, told)


def _status(adapter: Adapter, issues: Sequence[HealthIssue]) -> str:
    if adapter.not_a_network is not None:
        return "not a network"
    return "ok" if is_healthy(list(issues)) and adapter.layers else "damaged"


def _issue(issue: HealthIssue) -> dict[str, Any]:
    return {"kind": issue.kind, "severity": issue.severity, "layer": issue.layer, "message": cut(issue.message)}


def _hashes(file: TensorFile, progress: ProgressOf) -> dict[str, str]:
    with progress(f"{file.path.name}: hashes") as told:
        found = file_hashes(file.path, told)
    return {
        "sha256": found.sha256,
        "autov1": found.autov1,
        "autov2": found.autov2,
        "autov3": found.autov3,
        "short": found.short,
    }


def _keys(adapter: Adapter, verdict: Verdict) -> dict[str, Any]:
    """How many keys there are, how many are understood, and each other one with the reason.

    A key is explained when its algorithm is known and its layer is one of the base model's, also where the layer is
    not applied for a stated reason; and when it is known to be no part of a layer.
    """
    explained: set[str] = {key for embedding in adapter.embeddings for key in embedding.keys.values()}
    unknown: dict[str, str] = {}
    skipped: dict[str, str] = {}
    known_name = _name_test(verdict)
    for layer in adapter.layers:
        keys = layer.keys.values()
        if known_name(layer):
            explained.update(keys)
            if layer.refusal is not None:
                skipped.update((key, layer.refusal) for key in keys)
        else:
            unknown.update((key, f"no layer of {verdict.title} is called so") for key in keys)
    for leftover in adapter.leftovers:
        if leftover.outcome == "unknown":
            unknown[leftover.key] = leftover.reason
        else:
            explained.add(leftover.key)
            skipped[leftover.key] = leftover.reason
    for key in explained & unknown.keys():  # a matrix that layers share, one of which is known
        del unknown[key]
    return {
        "total": adapter.total_keys,
        "explained": len(explained),
        "unknown": [cut(key, _LONGEST_KEY) for key in unknown],
        "skipped": list(_reasons(skipped)),
        "unknown_reasons": list(_reasons(unknown)),
    }


def _reasons(keys: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Each reason once, with the keys it holds for: layers have many keys, and files many layers."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in keys.items():
        by_reason.setdefault(reason, []).append(cut(key, _LONGEST_KEY))
    return ({"reason": cut(reason), "keys": several} for reason, several in by_reason.items())


def _name_test(verdict: Verdict) -> Callable[[AdapterLayer], bool]:
    """Tells whether a layer's name is one of the base model's; always, where the base model is only known by name."""
    if verdict.family is not None and verdict.family not in TITLES:
        return lambda layer: True
    families = verdict.candidates if verdict.family is not None else tuple(TITLES)
    indexes = [reference_indexes()[name] for name in families]

    def known(layer: AdapterLayer) -> bool:
        return any(index.find(layer.name) for index in indexes)

    return known


def _embedding(file: TensorFile, name: str, keys: Mapping[str, str]) -> dict[str, Any]:
    shapes = {part: list(file.specs[key].shape) for part, key in keys.items()}
    vectors = max((shape[0] if len(shape) > 1 else 1 for shape in shapes.values()), default=0)
    return {"name": cut(name, _LONGEST_KEY), "vectors": vectors, "parts": shapes}
