"""How text of strangers appears in sentences: names and keys may be megabytes of control codes."""

from __future__ import annotations

_SHOWN_CHARACTERS = 120


def shown(text: str) -> str:
    """``text`` in quotes, on one line, shortened, with nothing in it that a terminal or a page could obey."""
    return f'"{plain(text)}"'


def plain(text: str) -> str:
    """``text`` on one line, shortened, unprintable characters replaced."""
    cut = text[:_SHOWN_CHARACTERS]
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)
    return f"{line}…" if len(text) > len(cut) else line


def size_text(count: int) -> str:
    """Bytes as people say them: 3.1 MB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def printable(text: str) -> str:
    """The text without the halves of characters that JSON and file names may hold and no page or file can."""
    return text.encode("utf-8", "replace").decode("utf-8")
