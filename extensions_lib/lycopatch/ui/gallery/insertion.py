"""What a click on a network puts into the prompts, and takes out of them again.

A click adds a tag at the end of the prompt with the user's words for the network behind it, and his negative text at
the end of the negative prompt. The next click takes away exactly these, wherever the user typed since: two clicks give
the very same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lycopatch.engine.request import WrittenTag, parse_prompt
from lycopatch.engine.tag import LARGEST_WEIGHT

_AFTER_NEGATIVE = ", "
"""Between what stands in a negative prompt and what is added to it; tags and words are added after a blank."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Addition:
    """What a network adds to the prompts: a tag, and the texts that the user wants with it (often none)."""

    tag: str
    words: str = ""
    negative: str = ""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Both prompts after a click, and what it put in (``added``) or took out."""

    prompt: str
    negative: str
    added: bool
    inserted: Addition


def addition(name: str, weight: float, words: str, negative: str, default_weight: float = 1.0) -> Addition:
    """What to add for a network that tags call ``name``. Texts of several lines become one line.

    ``weight``: the one that the user prefers; 0 or one that no tag may have is ``default_weight``.
    """
    number = weight if 0 < abs(weight) <= LARGEST_WEIGHT else default_weight
    return Addition(f"<lora:{name}:{number:g}>", _one_line(words), _one_line(negative))


def added(prompt: str, negative: str, new: Addition) -> Prompts:
    """The prompts with a network at their ends."""
    prompt = " ".join(filter(None, (prompt, new.tag, new.words)))
    return Prompts(prompt, _AFTER_NEGATIVE.join(filter(None, (negative, new.negative))), True, new)


def named(prompt: str, is_it: Callable[[str], bool]) -> bool:
    """Whether a tag in the prompt has a name for which ``is_it`` is true."""
    return any(is_it(request.name) for request in parse_prompt(prompt).requests)


def removed(
    prompt: str, negative: str, is_it: Callable[[str], bool], usual: Addition, undo: Addition | None = None
) -> Prompts:
    """The prompts without a network: without the tags for whose name ``is_it`` is true, and the texts added with them.

    ``undo``: what was inserted, if that is known. Its tag alone is taken out, as long as it is still as it was, and
    its texts also where the user typed between them. Else all tags go, with the texts of ``usual`` only where they
    still stand as a click puts them: words behind their tag, negative text between commas.
    """
    written = [tag for tag in parse_prompt(prompt).tags if tag.request and is_it(tag.request.name)]
    known = undo or usual
    places = list(_with_words(prompt, written, known.words))
    if undo:
        places = [place for place in places if prompt.startswith(undo.tag, place[0])][-1:] or places
        places += _lost_words(prompt, places, undo.words)
    for place in reversed(places):
        prompt = _without(prompt, place, " ")
    stands = _is_alone if undo else _is_between_commas
    found = [place for place in _places(negative, known.negative) if stands(negative, *place)]
    shorter = _without(negative, found[-1], _AFTER_NEGATIVE) if found else negative
    return Prompts(prompt, shorter, False, known)


def _with_words(prompt: str, tags: Iterable[WrittenTag], words: str) -> Iterator[Span]:
    """Where the tags stand, each with the words if they are right behind it."""
    end = 0
    for tag in tags:
        if tag.start < end:
            continue  # it is among the words of another
        end = tag.end
        if words and prompt.startswith(f" {words}", end) and _ends_alone(prompt, end + 1 + len(words)):
            end += 1 + len(words)
        yield tag.start, end


def _lost_words(prompt: str, tags: Sequence[Span], words: str) -> list[Span]:
    """Where the words stand that are not right behind their tag any more: behind what was typed between."""
    if not tags or prompt[slice(*tags[-1])].endswith(f"> {words}"):
        return []
    return [place for place in _places(prompt, words, tags[-1][1]) if _is_alone(prompt, *place)][:1]


def _places(text: str, words: str, start: int = 0) -> Iterator[Span]:
    """Where the words stand from ``start`` on, also as a part of others; none when there are no words."""
    while words and (start := text.find(words, start)) >= 0:
        yield start, start + len(words)
        start += 1


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether this part of the text begins and ends where words do."""
    return not (start and text[start - 1].isalnum() and text[start].isalnum()) and _ends_alone(text, end)


def _ends_alone(text: str, end: int) -> bool:
    return not (text[end - 1].isalnum() and text[end : end + 1].isalnum())


def _is_between_commas(text: str, start: int, end: int) -> bool:
    """Whether this part of a text is a whole entry of a list."""
    return (start == 0 or text.endswith(_AFTER_NEGATIVE, 0, start)) and text[end : end + 1] in ("", ",")


def _without(text: str, place: Span, separator: str) -> str:
    """The text without a part of it and what separates it: in front of it or, at the very beginning, behind it."""
    before, after = text[: place[0]], text[place[1] :]
    if before.endswith(separator):
        return before.removesuffix(separator) + after
    return before + (after if before else after.removeprefix(separator))


def _one_line(text: str) -> str:
    return " ".join(text.split())
