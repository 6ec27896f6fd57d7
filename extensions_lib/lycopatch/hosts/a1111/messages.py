"""What the user reads under the picture: one plain line per trouble, the engine's own sentences wherever it has one.

The WebUI shows each line as text, in every release from 1.5 on: it escapes what could be markup and begins a new line
at each line break. So lines are not escaped here, and hold no line break.
"""

from __future__ import annotations

from collections.abc import Sequence

from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.engine.wording import plain, shown

_MOST_LINES = 12
_MOST_LINES_PER_TAG = 3
_LONGEST_LINE = 400


def lines(report: Report, *, unet_replacement: str | None = None) -> list[str]:
    """The lines for one activation, none when all is well; few and short enough for any report.

    ``unet_replacement``: what computes instead of the U-Net, if anything does.
    """
    found = [issue.message for issue in report.issues]
    for tag in report.tags:
        found += _lines_of(tag)
    if unet_replacement is not None and any(tag.layers_applied and tag.unet_multiplier for tag in report.tags):
        name = shown(unet_replacement)
        found.append(f"{name} computes in place of the U-Net; networks change only the text encoder meanwhile.")
    return _first(list(dict.fromkeys(map(_one_line, found))), _MOST_LINES)


def _lines_of(tag: TagReport) -> list[str]:
    """The troubles of one tag; the first line says how much of the network is in the model."""
    issues = _explained(tag.issues)
    found = [issue.message for issue in issues]
    if found and tag.layers_applied < tag.layers_total:
        found[0] = f"{plain(tag.name)}: {tag.layers_applied} of {tag.layers_total} layers; {found[0]}"
    return _first(found, _MOST_LINES_PER_TAG, f" about {plain(tag.name)}")


def _explained(issues: Sequence[Issue]) -> Sequence[Issue]:
    """Without what follows from another one: that no layer fits says nothing once the base model is another one."""
    return [issue for issue in issues if issue.kind == "other base model"] or issues


def _first(found: list[str], most: int, about: str = "") -> list[str]:
    """At most so many lines, the last of which says how many were left out."""
    if len(found) <= most:
        return found
    return [*found[: most - 1], f"And {len(found) - most + 1} more{about}, see the LycoPatch tab."]


def _one_line(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: _LONGEST_LINE * 2]).split())
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…"
