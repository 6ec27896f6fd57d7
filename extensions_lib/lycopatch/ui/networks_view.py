"""The table of networks, and what is wrong with their folders and files."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lycopatch.engine.report import Issue
from lycopatch.engine.wording import size_text
from lycopatch.ui.markup import counted, first, folded, lines, notice, table, text
from lycopatch.ui.networks import NetworkRow, Page

_HEAD = ("Name", "Base model", "Algorithm", "Trigger words", "Size", "Date")
_MOST_PROBLEMS = 50


def networks_html(page: Page, problems: Sequence[Issue]) -> str:
    """One page of the catalog with its problems."""
    return _problems(problems) + (table(_HEAD, map(_cells, page.rows), _caption(page)) if page.rows else _nothing(page))


def _caption(page: Page) -> str:
    which = counted(page.found, "network") if page.found == page.total else f"{page.found:,} of {page.total:,} networks"
    if len(page.rows) < page.found:
        return f"The first {len(page.rows):,} of {page.found:,} networks; search for more words to see the others."
    return which


def _nothing(page: Page) -> str:
    if page.total:
        return notice(f"None of the {counted(page.total, 'network')} has all of these words.")
    return notice("There is no network in the folders. Put .safetensors files into models/Lora and press Refresh.")


def _cells(row: NetworkRow) -> list[str]:
    file = row.file
    folder = file.relative.rpartition("/")[0]
    below = [f"{text(folder, 120)}/"] if folder else []
    below += [f"trained as {text(file.alias, 80)}"] if file.alias and file.alias != file.stem else []
    name = (
        f'<button type="button" class="lycopatch-pick" data-lycopatch-name="{text(row.name, 2000)}">'
        f"{text(file.stem, 100)}</button>"
    )
    if below:
        name += f"<small>{' · '.join(below)}</small>"
    if file.error:
        name += f'<small class="lycopatch-trouble">{text(file.error)}</small>'
    return [
        name,
        text(row.base_model, 60),
        text(row.algorithm, 30),
        text(", ".join(row.trigger_words), 120),
        f"<span>{size_text(file.fingerprint.size)}</span>",
        f"<span>{_date(row.modified)}</span>",
    ]


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a file system may hold any number
        return ""


def _problems(problems: Sequence[Issue]) -> str:
    if not problems:
        return ""
    title = f"{counted(len(problems), 'problem')} with files and folders"
    shown = first([text(issue.message, 1000) for issue in problems], _MOST_PROBLEMS)
    return f'<div class="lycopatch-notice lycopatch-trouble">{folded(title, lines(shown))}</div>'
