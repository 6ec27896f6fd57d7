"""The networks of a prompt as rows, and changes of a row as changes of the prompt's text.

The text is the truth: a change writes the numbers of that one tag, or takes that one tag away, and leaves every other
character as it was typed. A change that could not be made so is refused.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lycopatch.engine.errors import AdapterError
from lycopatch.engine.report import Issue
from lycopatch.engine.request import AdapterRequest, Argument, WrittenTag, negative_prompt_issues, parse_prompt
from lycopatch.engine.tag import LARGEST_WEIGHT, quote
from lycopatch.engine.wording import printable

ACTIONS = ("weight", "te", "unet", "split", "join", "remove", "solo")
MOST_ROWS = 200
USUAL_RANGE = (-1.0, 2.0)

Find = Callable[[str], Mapping[str, Any]]
"""What a tag's name means: a gallery card, with ``weight_range`` (two numbers) where the user has set one.

Raises AdapterError, whose sentence the row shows.
"""

_Edit = tuple[int, int, str]
"""Where a piece of the prompt begins and ends, and what comes in its place."""

_GONE = "The prompt has no such tag any more. Look at it again."


def stack(prompt: str, negative: str, find: Find) -> dict[str, Any]:
    """``{rows, issues}`` of a prompt; the issues are those that belong to no row, as sentences."""
    parsed = parse_prompt(prompt)
    of_rows = {id(issue) for tag in parsed.tags for issue in tag.issues}
    issues = [issue for issue in parsed.issues if id(issue) not in of_rows and issue.kind != "duplicate"]
    issues += negative_prompt_issues(negative)
    hidden = len(parsed.tags) - MOST_ROWS
    if hidden > 0:
        issues.append(Issue("too_many", f"The prompt names {hidden} more networks, which are not listed here."))
    return {"rows": rows(prompt, find), "issues": [printable(issue.message) for issue in issues]}


def rows(prompt: str, find: Find) -> list[dict[str, Any]]:
    """A row for each tag of ours, in prompt order (``MOST_ROWS`` at most), ready for JSON.

    The row of a tag that could not be understood is not ``editable``: it has no numbers and can only be removed.
    """
    tags = parse_prompt(prompt).tags[:MOST_ROWS]
    names = {tag.request.name for tag in tags if tag.request}
    known = {name: _looked_up(name, find) for name in names}
    identities = [_identity(tag, known) for tag in tags]
    times = Counter(identities)
    shown = []
    for index, (tag, identity) in enumerate(zip(tags, identities, strict=True)):
        card, error = known[tag.request.name] if tag.request else ({}, None)
        row = _row(index, prompt, tag, card, error)
        if identity is not None and times[identity] > 1:
            row["issues"].append(f"This network is in the prompt {times[identity]} times; the effects add up.")
        shown.append(row)
    return shown


def edited(prompt: str, index: int, action: str, value: float | None = None) -> str:
    """The prompt after a change of the row with this index.

    ``weight``: both numbers; ``te``, ``unet``: one of them; ``split``: write both (``value``: the U-Net's); ``join``:
    write one (``value``: which); ``remove``; ``solo``: 0 for all others. A network is switched off by weight 0.
    Raises ValueError with a sentence when that is not possible.
    """
    tags = parse_prompt(prompt).tags
    if not 0 <= index < len(tags):
        raise ValueError(_GONE)
    tag = tags[index]
    _check_value(action, value)
    if action == "remove":
        return _removed(prompt, tags, index)
    wanted: dict[int, tuple[float, float]] = {}
    edits: list[_Edit] = []
    if action == "solo":
        others = [number for number, each in enumerate(tags) if number != index and each.request is not None]
        wanted = dict.fromkeys(others, (0.0, 0.0))
        edits = [edit for number in others for edit in _numbers(prompt, tags[number], 0.0, 0.0)]
        if value is None:
            return _applied(prompt, edits, wanted)
    if tag.request is None:
        written = quote(prompt[tag.start : tag.end])
        raise ValueError(f"The tag {written} could not be understood; correct it by hand, or remove it.")
    te, unet = tag.request.te_multiplier, tag.request.unet_multiplier
    match action:
        case "te":
            te = te if value is None else value
        case "unet" | "split":
            unet = unet if value is None else value
        case "join":
            te = unet = te if value is None else value
        case _:
            te, unet = (te, unet) if value is None else (value, value)
    split = {"split": True, "join": False}.get(action)
    wanted[index] = te, unet
    return _applied(prompt, [*edits, *_numbers(prompt, tag, te, unet, split=split)], wanted)


def shortest(number: float) -> str:
    """A number with as few characters as give the same number again: 0.8, 1, -0.25."""
    return repr(float(number)).removesuffix(".0") if number else "0"


def _looked_up(name: str, find: Find) -> tuple[Mapping[str, Any], str | None]:
    try:
        return find(name), None
    except AdapterError as error:
        return {}, str(error)


def _identity(tag: WrittenTag, known: Mapping[str, tuple[Mapping[str, Any], str | None]]) -> str | None:
    """What two tags of one network have in common, by whatever name they call it."""
    if tag.request is None:
        return None
    card, _ = known[tag.request.name]
    return f"id {card['id']}" if card.get("id") else f"name {tag.request.name.strip()}"


def _row(index: int, prompt: str, tag: WrittenTag, card: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    request = tag.request
    written = prompt[tag.start : tag.end]
    te = request.te_multiplier if request else None
    unet = request.unet_multiplier if request else None
    issues = [issue.message for issue in tag.issues]
    fit, reason = card.get("fit", "unknown"), card.get("reason") or ""
    if request is None:
        fit, reason = "damaged", issues[0] if issues else ""
    elif error is not None:
        fit, reason = "missing", error
    if fit in ("no", "damaged", "missing") and reason and reason not in issues:
        issues.append(reason)
    return {
        "index": index,
        "tag": printable(written),
        "keyword": written[1:].partition(":")[0],
        "name": printable(request.name if request else written[1:-1].partition(":")[2]).strip(),
        "id": card.get("id"),
        "label": card.get("label") or "",
        "family_title": card.get("family_title") or "",
        "fit": fit,
        "reason": printable(reason),
        "te": te,
        "unet": unet,
        "split": _is_split(tag),
        "dyn": request.dyn_dim if request else None,
        "weight": card.get("weight") or None,
        "range": _range(card.get("weight_range"), te, unet),
        "off": te == unet == 0,
        "preview": (card.get("preview") or {}).get("thumb"),
        "editable": request is not None,
        "issues": [printable(issue) for issue in issues],
    }


def _range(preferred: Sequence[float] | None, *values: float | None) -> list[float]:
    """From where to where a slider goes; never without the numbers that are written."""
    low, high = preferred or USUAL_RANGE
    numbers = [low, high, *(value for value in values if value is not None)]
    return [min(numbers), max(numbers)]


def _is_split(tag: WrittenTag) -> bool:
    """Whether the U-Net's weight is written beside the text encoder's, other than to make room for a rank."""
    unet = tag.argument("unet")
    if tag.request is None or unet is None:
        return False
    return tag.request.te_multiplier != tag.request.unet_multiplier or unet is not _needed(tag)


def _needed(tag: WrittenTag) -> Argument | None:
    """The positional weight of the U-Net where a positional rank follows, so that it can not be left out."""
    positional = [each for each in tag.arguments if each.key is None]
    return positional[2] if len(positional) > 3 else None


def _check_value(action: str, value: object) -> None:
    if action not in ACTIONS:
        raise ValueError(f"There is no change called {quote(str(action))}.")
    if value is None:
        if action in ("weight", "te", "unet"):
            raise ValueError("A number is missing.")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("A weight must be a number.")
    elif abs(value) > LARGEST_WEIGHT:
        raise ValueError("This weight is far too large and would spoil the picture.")


def _numbers(prompt: str, tag: WrittenTag, te: float, unet: float, *, split: bool | None = None) -> Iterator[_Edit]:
    """What to change so that a tag has these weights. ``split``: whether to write two; None: as it is, if possible."""
    name = next(each for each in tag.arguments if each.key is None)
    of_te, of_unet = tag.argument("te"), tag.argument("unet")
    adds_unet = of_unet is None and (split or te != unet)
    if of_te is not None:
        yield from _replaced(prompt, of_te.value_start, of_te.value_end, te)
        if adds_unet:
            yield of_te.end, of_te.end, f":{'unet=' if of_te.key else ''}{shortest(unet)}"
    elif te != 1 or adds_unet:
        yield name.end, name.end, f":{shortest(te)}" + (f":{shortest(unet)}" if adds_unet else "")
    if split is False:
        yield from _without_unet(tag)
        of_unet = _needed(tag)
    if of_unet is not None:
        yield from _replaced(prompt, of_unet.value_start, of_unet.value_end, unet)


def _replaced(prompt: str, start: int, end: int, number: float) -> Iterator[_Edit]:
    """Write a number, unless what stands there means the same."""
    with contextlib.suppress(ValueError):  # a positional one may be anything where a named one counts
        if float(prompt[start:end]) == number:
            return
    yield start, end, shortest(number)


def _without_unet(tag: WrittenTag) -> Iterator[_Edit]:
    """Take the arguments for the U-Net's weight away, each with one colon."""
    needed, leading = _needed(tag), True
    for each in tag.arguments:
        if each.key == "unet" or (each.key is None and each.position == 2 and each is not needed):
            yield (each.start, each.end + 1, "") if leading else (each.start - 1, each.end, "")
        else:
            leading = False


def _applied(prompt: str, edits: Sequence[_Edit], wanted: Mapping[int, tuple[float, float]]) -> str:
    """The prompt with these edits; ``wanted``: the weights that the tags have then, all others being as before."""
    pieces: list[str] = []
    done = 0
    for start, end, piece in sorted(edits):
        pieces += prompt[done:start], piece
        done = end
    text = "".join([*pieces, prompt[done:]])
    before, after = parse_prompt(prompt).tags, parse_prompt(text).tags
    same = len(before) == len(after) and all(
        _became(old.request, new.request, wanted[index])
        if index in wanted
        else prompt[old.start : old.end] == text[new.start : new.end]
        for index, (old, new) in enumerate(zip(before, after, strict=True))
    )
    if not same:
        raise ValueError("The number can not be written there without changing what else is in the prompt.")
    return text


def _became(old: AdapterRequest | None, new: AdapterRequest | None, weights: tuple[float, float]) -> bool:
    if old is None or new is None:
        return False
    same = (old.name, old.dyn_dim) == (new.name, new.dyn_dim)
    return same and (new.te_multiplier, new.unet_multiplier) == weights


def _removed(prompt: str, tags: Sequence[WrittenTag], index: int) -> str:
    """Without one tag and one blank beside it: the one before, or at the beginning of a line the one after."""
    before, after = prompt[: tags[index].start], prompt[tags[index].end :]
    if before.endswith(" "):
        before = before[:-1]
    elif not before or before.endswith("\n"):
        after = after.removeprefix(" ")
    text = before + after
    others = [prompt[tag.start : tag.end] for number, tag in enumerate(tags) if number != index]
    if [text[tag.start : tag.end] for tag in parse_prompt(text).tags] != others:
        raise ValueError("Without the tag, what stands around it would be another tag; change the prompt by hand.")
    return text
