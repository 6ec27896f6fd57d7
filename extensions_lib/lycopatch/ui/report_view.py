"""What the last activation did: per tag what matched, what did not and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from lycopatch.engine.recognise import TITLES
from lycopatch.engine.report import Issue, Outcome, Report, TagReport
from lycopatch.engine.wording import size_text
from lycopatch.ui.markup import counted, fields, first, folded, lines, notice, text

_MOST_MESSAGES = 5
_MOST_KEYS = 20

_OUTCOMES: tuple[tuple[Outcome, str], ...] = (
    ("applied", "applied"),
    ("embedding", "bundled textual inversion"),
    ("unmatched", "of layers this model lacks"),
    ("unknown", "not understood"),
    ("skipped", "left out"),
)
_REFUSED: tuple[Outcome, ...] = ("unmatched", "unknown", "skipped")


class Activation(Protocol):
    """What a host remembers of its last activation."""

    @property
    def report(self) -> Report: ...
    @property
    def when(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def model(self) -> str: ...
    @property
    def bytes_held(self) -> int:
        """Memory used for originals."""
        ...


def report_html(last: Activation | None) -> str:
    """The last activation for a person."""
    if last is None:
        return notice("No picture was made yet. Write <lora:name:0.8> in a prompt and generate one.")
    report = last.report
    tags = "".join(map(_tag, report.tags)) or notice("The last prompt named no network.")
    return _facts(last) + _issues(report.issues) + tags


def _facts(last: Activation) -> str:
    report = last.report
    written = [counted(report.tensors_written, "tensor") + " written"]
    written += [counted(report.tensors_restored, "tensor") + " restored"] if report.tensors_restored else []
    return fields(
        {
            "When": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.when)),
            "Model": text(last.model),
            "Changed": f"{', '.join(written)} in {report.seconds:.2f} s; {report.tensors_active:,} in use",
            "Memory for originals": size_text(last.bytes_held),
        }
    )


def _tag(tag: TagReport) -> str:
    nothing = tag.failed or (tag.layers_total > 0 and tag.layers_applied == 0)
    state = "trouble" if nothing else "part" if tag.issues else "good"
    layers = f"{tag.layers_applied:,} of {counted(tag.layers_total, 'layer')}" if tag.layers_total else ""
    keys = ", ".join(f"{len(tag.keys[outcome]):,} {title}" for outcome, title in _OUTCOMES if tag.keys[outcome])
    same = tag.te_multiplier == tag.unet_multiplier
    weight = f"{tag.te_multiplier:g}" if same else f"TE {tag.te_multiplier:g}, UNet {tag.unet_multiplier:g}"
    made_for = TITLES.get(tag.family, tag.family) if tag.family else ""
    shown = fields({"Layers": layers, "Weight": weight, "Keys": keys, "Made for": text(made_for)})
    return (
        f'<section class="lycopatch-card lycopatch-{state}"><h4>{text(tag.tag)}</h4>{shown}{_issues(tag.issues)}'
        f"{''.join(map(_keys, _REFUSED, [tag] * len(_REFUSED)))}</section>"
    )


def _keys(outcome: Outcome, tag: TagReport) -> str:
    title = f"{counted(len(tag.keys[outcome]), 'key')} {dict(_OUTCOMES)[outcome]}"
    return folded(title, lines(first([f"<code>{text(key, 200)}</code>" for key in tag.keys[outcome]], _MOST_KEYS)))


def _issues(issues: Sequence[Issue]) -> str:
    """The sentences of each kind of trouble, the first few of them."""
    return grouped((issue.kind, issue.message) for issue in issues)


def grouped(findings: Iterable[tuple[str, str]]) -> str:
    """Kinds with their sentences: a kind's first few, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for kind, message in findings:
        kinds.setdefault(kind, []).append(text(message, 1000))
    shown = [line for messages in kinds.values() for line in first(messages, _MOST_MESSAGES)]
    return f'<div class="lycopatch-issues">{lines(shown)}</div>' if shown else ""
