"""HTML whose every piece of text is escaped: names, keys and metadata were written by strangers."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

_LONGEST_TEXT = 400


def text(value: object, limit: int = _LONGEST_TEXT) -> str:
    """A value as it may stand in HTML, also in an attribute: one line, bounded, nothing unprintable, escaped."""
    whole = str(value)
    line = "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" for each in whole[:limit]
    )
    return html.escape(f"{line}…" if len(whole) > limit else line, quote=True)


def notice(sentence: str, kind: str = "info") -> str:
    """One sentence that is to be noticed; ``kind`` is info or trouble."""
    return f'<p class="lycopatch-notice lycopatch-{kind}">{text(sentence, 2000)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table of cells that are HTML already; head and caption are plain text."""
    titles = "".join(f'<th scope="col">{text(title)}</th>' for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="lycopatch-scroll"><table class="lycopatch-table"><caption>{text(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def fields(entries: Mapping[str, str]) -> str:
    """Names and values in two columns; the values are HTML already, and those that are empty are left out."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in entries.items() if value)
    return f'<dl class="lycopatch-fields">{rows}</dl>' if rows else ""


def lines(entries: Iterable[str]) -> str:
    """A list; the entries are HTML already."""
    items = "".join(f"<li>{entry}</li>" for entry in entries)
    return f"<ul>{items}</ul>" if items else ""


def folded(title: str, content: str) -> str:
    """Content that opens on a click or with the keyboard; nothing when there is none."""
    return f"<details><summary>{text(title)}</summary>{content}</details>" if content else ""


def counted(count: int, unit: str) -> str:
    """``1 layer``, ``264 layers``."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def first(entries: Sequence[str], most: int) -> list[str]:
    """The first entries, and how many more there are."""
    more = [f"and {len(entries) - most:,} more"] if len(entries) > most else []
    return [*entries[:most], *more]
