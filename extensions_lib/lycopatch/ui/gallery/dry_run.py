"""A dry run as a page shows it: per tag what becomes of its file, and sentences about networks that meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.dry_run import DryRun, resolve_only
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.overlap import BlockOverlap, Overlap
from lycopatch.engine.patching import Progress
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.request import negative_prompt_issues, parse_prompt
from lycopatch.engine.session import Session
from lycopatch.engine.wording import printable, shown
from lycopatch.ui.answers import without_place
from lycopatch.ui.gallery.details import reason_groups
from lycopatch.ui.gallery.stack import Find
from lycopatch.ui.markup import counted

MOST_TAGS = 50
MOST_REASONS = 20
NO_MODEL = "No model is loaded, so only the files were looked up."

_TELLING = 0.2
"""A cosine that people should know of; networks that have nothing to do with each other stay below 0.1."""

_SMALL = 0.02
"""A block with a smaller share of the common change is not worth a word."""

_MOST_RUNS = 4


def dry_run(
    prompt: str,
    negative: str,
    find: Find,
    *,
    session: Session | None,
    catalog: Catalog,
    model: str | None,
    progress: Progress | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """The dry run of a prompt, see ``dry_run_view``. ``session``: of the model called ``model``, None without one.

    What ``progress`` raises while networks are compared ends the work.
    """
    parsed = parse_prompt(prompt)
    requests, issues = parsed.requests[:MOST_TAGS], list(parsed.issues)
    if len(parsed.requests) > MOST_TAGS:
        message = f"Only the first {MOST_TAGS} of {len(parsed.requests):,} networks in the prompt were looked at."
        issues.append(Issue("too_many", message))
    if session is None:
        model = None
        found = resolve_only(catalog, requests, issues, allow_pickle=allow_pickle)
    else:
        found = session.dry_run(requests, issues, progress, catalog)
    return dry_run_view(found, find, model=model, negative=negative)


def dry_run_view(found: DryRun, find: Find, *, model: str | None, negative: str = "") -> dict[str, Any]:
    """``{tags, conflicts, estimate, issues, model}``, ready for JSON. ``model``: the title of the one it was run on.

    Where there was no model there is no estimate, and ``layers_applied`` is None. A pair of which nothing could be
    measured is an issue, no conflict.
    """
    has_model = found.estimate is not None
    measured = [each for each in found.overlaps if each.cosine is not None]
    return {
        "tags": [_tag(tag, find, has_model=has_model) for tag in found.tags],
        "conflicts": [_conflict(each, *_names(found, each)) for each in measured],
        "estimate": asdict(found.estimate) if found.estimate else None,
        "issues": [*_issues(found, negative), *([] if has_model else [NO_MODEL])],
        "model": model and printable(model),
    }


def verdict(overlap: Overlap, a: str, b: str) -> str:
    """What a person should know of two networks, called ``a`` and ``b``, on common weights."""
    return " ".join([_direction(overlap, f"{shown(a)} and {shown(b)}"), *_reservations(overlap)])


def _issues(found: DryRun, negative: str) -> list[str]:
    """What belongs to no single tag."""
    issues = [without_place(each) for each in [*found.issues, *negative_prompt_issues(negative)]]
    for each in found.overlaps:
        if each.unmeasured and not each.measured:
            a, b = _names(found, each)
            issues.append(" ".join([f"{shown(a)} and {shown(b)} change the same weights.", *_reservations(each)]))
    if found.pairs_left_out:
        issues.append(f"{counted(found.pairs_left_out, 'more pair')} of networks that share weights: not compared.")
    return [printable(issue) for issue in issues]


def _tag(tag: TagReport, find: Find, *, has_model: bool) -> dict[str, Any]:
    card: Mapping[str, Any] = {}
    if not tag.failed:
        try:
            card = find(tag.name)
        except AdapterError:  # it went away meanwhile; the report tells of the file that was looked at
            card = {}
    groups = sorted(reason_groups(tag.left_out), key=lambda group: -group["count"])[:MOST_REASONS]
    return {
        "tag": printable(tag.tag),
        "name": printable(tag.name).strip(),
        "file": printable(Path(tag.path).name) if tag.path else None,
        "id": card.get("id"),
        "label": card.get("label") or "",
        "family_title": card.get("family_title") or "",
        "layers_applied": tag.layers_applied if has_model else None,
        "layers_total": tag.layers_total,
        "keys": {outcome: len(keys) for outcome, keys in tag.keys.items()},
        "reasons": [
            {"reason": group["reason"], "count": group["count"], "example": next(iter(group["examples"]), "")}
            for group in groups
        ],
        "issues": [without_place(issue) for issue in tag.issues],
        "failed": tag.failed,
    }


def _names(found: DryRun, overlap: Overlap) -> tuple[str, str]:
    a, b = (printable(found.tags[place].name).strip() for place in (overlap.a, overlap.b))
    return a, b


def _conflict(overlap: Overlap, a: str, b: str) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "blocks": [asdict(block) for block in overlap.blocks],
        "cosine": overlap.cosine,
        "share": overlap.share,
        "verdict": verdict(overlap, a, b),
    }


def _direction(overlap: Overlap, both: str) -> str:
    """Whether they pull the same way: everywhere, in some blocks, or nowhere that matters."""
    total = overlap.cosine or 0.0
    against = [block for block in overlap.blocks if _counts(block) and (block.cosine or 0) <= -_TELLING]
    along = [block for block in overlap.blocks if _counts(block) and (block.cosine or 0) >= _TELLING]
    if against and along:
        places = [_places(several, overlap, total) for several in (against, along)]
        return f"{both} pull in opposite directions {places[0]}, and in the same direction {places[1]}."
    if against:
        places = _places(against, overlap, total)
        return f"{both} pull in opposite directions {places}: each takes back part of what the other does."
    if along:
        places = _places(along, overlap, total)
        return f"{both} pull in the same direction {places}: their effects add up; consider lower weights."
    return f"{both} change the same weights in ways that have little in common (cosine {_number(total)})."


def _counts(block: BlockOverlap) -> bool:
    return block.share >= _SMALL


def _places(blocks: Sequence[BlockOverlap], overlap: Overlap, total: float) -> str:
    """Where that is and how much: ``in OUT03–OUT05 (cosine −0.62)``."""
    if len(blocks) > 1 and len(blocks) == sum(map(_counts, overlap.blocks)):
        return f"wherever both act (cosine {_number(total)})"
    strongest = max((block.cosine or 0.0 for block in blocks), key=abs)
    most = "" if len(blocks) == 1 else "down to " if strongest < 0 else "up to "
    return f"in {_listed(_runs(blocks, overlap.blocks))} (cosine {most}{_number(strongest)})"


def _runs(blocks: Sequence[BlockOverlap], among: Sequence[BlockOverlap]) -> list[str]:
    """Blocks that follow each other are named by the first and the last of them."""
    runs: list[list[str]] = []
    before: BlockOverlap | None = None
    for block in among:
        if block in blocks:
            if runs and before in blocks and _part(before) == _part(block):
                runs[-1].append(block.block)
            else:
                runs.append([block.block])
        before = block
    return [run[0] if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]


def _part(block: BlockOverlap | None) -> str:
    """The text encoder a block belongs to; empty for the U-Net."""
    return block.block.rpartition(".")[0] if block else ""


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MOST_RUNS:
        return f"{', '.join(names[:_MOST_RUNS])} and elsewhere"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _reservations(overlap: Overlap) -> list[str]:
    """What of the common weights was not looked at."""
    left_out = [
        f"{counted(count, 'weight')} could not be compared: {reason}." for reason, count in overlap.unmeasured.items()
    ]
    looked_at = overlap.measured + sum(overlap.unmeasured.values())
    if looked_at < overlap.common:
        left_out.append(
            f"Only {looked_at:,} of {counted(overlap.common, 'weight')} were looked at in the time there is."
        )
    return left_out


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
