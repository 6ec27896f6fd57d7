"""Step 1: what a prompt asks for. ``<lora:name:te:unet:dyn>`` becomes an ``AdapterRequest``, trouble becomes sentences.

The grammar is that of the WebUI's built-in networks, without its traps:

- A tag is ``<kind:arguments>``; arguments are separated by colons, and one with a single ``=`` is a named one.
- Position 0 is the name, 1 the TE weight (1.0), 2 the UNet weight (the TE weight), 3 the rank to use (all of it).
  The names are ``te``, ``unet`` and ``dyn``; a named value beats a positional one.
- A tag that can not be understood spoils only itself: it gives an ``Issue`` and no request, never an exception.
- A file name may hold ``=``: the first argument is the name, unless it is ``te=``, ``unet=`` or ``dyn=``.
- A rank below 1 would leave nothing of the network; the tag is left out with a sentence, which makes the same picture.
- A tag that is not closed ends where the next one begins, and does not take that one with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lycopatch.engine.report import Issue
from lycopatch.engine.tag import Tag, quote

TAG_KINDS = ("lora", "lyco")
"""The tags that are ours. They mean the same."""

MAX_NAME = 1024
"""Longest name taken seriously, in characters: file systems and fingers end well before."""

_ARGUMENTS: tuple[str, ...] = ("te", "unet", "dyn")
_MISSPELT = frozenset(["loras", "lyoc", "loar", "lroa", "lycoris", "locon", "loha", "lokr"])

_WIDE_COLON = "\uff1a"
_CANDIDATE = re.compile(
    r"<(?P<before>\s*)(?P<kind>\w+)(?P<after>\s*)(?P<colon>[:\uff1a]?)"
    r"(?P<args>(?:(?!<\s*(?:\w+\s*[:\uff1a]|(?:lora|lyco)\b))[^>])*)(?P<end>>?)",
    re.IGNORECASE,
)
"""Anything that may have been meant as a tag; it ends where the next one begins."""

_ODD_BRACKET = re.compile(r"(?:[\uff1c\u3008\u300a]|&lt;)\s*(?:lora|lyco)\s*[:\uff1a]", re.IGNORECASE)
"""A tag that opens with a wide or escaped ``<``, as input methods and web pages produce it."""

_WIDE_COLON_AND_WEIGHT = re.compile(_WIDE_COLON + r"\s*[-+]?[\d.,]+\s*$")


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """What one tag asks for. The multipliers are finite; ``dyn_dim`` is at least 1, or None for the whole rank."""

    name: str
    """As written, blanks included: the catalog tries it exactly before it trims."""
    te_multiplier: float
    unet_multiplier: float
    dyn_dim: int | None
    tag: str
    """The tag's text, for reports."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tag where it stands in the prompt; an end is the index after the last character."""

    key: str | None
    """What was written in front of ``=``; None for a positional one."""
    position: int
    """Which of the positional arguments it is (0 = the name); of a named one, how many were before it."""
    start: int
    end: int
    value_start: int
    """The value without the blanks around it: behind ``=``, or the whole argument."""
    value_end: int


@dataclass(frozen=True, slots=True)
class WrittenTag:
    """One of our tags where it stands in the prompt, understood (``request``) or not."""

    start: int
    end: int
    request: AdapterRequest | None
    issues: tuple[Issue, ...]
    arguments: tuple[Argument, ...]

    def argument(self, name: str) -> Argument | None:
        """The argument that counts for ``te``, ``unet`` or ``dyn``: the last named one, else the positional one."""
        named = [each for each in self.arguments if each.key == name]
        place = 1 + _ARGUMENTS.index(name)
        positional = [each for each in self.arguments if each.key is None and each.position == place]
        return next(reversed(named or positional), None)


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """A prompt without our tags, the requests in prompt order, and what could not be understood."""

    text: str
    requests: tuple[AdapterRequest, ...]
    issues: tuple[Issue, ...]
    tags: tuple[WrittenTag, ...] = field(default=(), compare=False)
    """Every tag that was taken out, in prompt order, also those that could not be understood."""


def parse_prompt(prompt: str) -> ParsedPrompt:
    """Take our tags out of a prompt. Never raises.

    Text that only looks like one of our tags stays in the prompt, with an issue; tags of other kinds stay, without.
    """
    text: list[str] = []
    tags: list[WrittenTag] = []
    found = [(odd.start(), _odd_bracket(odd[0])) for odd in _ODD_BRACKET.finditer(prompt)]
    end = 0
    for match in _CANDIDATE.finditer(prompt):
        if _is_ours(match):
            text.append(prompt[end : match.start()])
            end = match.end()
            arguments = tuple(_split(match["args"], match.start("args")))
            request, issues = _parse_tag(prompt, Tag(match[0]), arguments)
            tags.append(WrittenTag(match.start(), end, request, tuple(issues), arguments))
        else:
            issues = _lookalike(match)
        found.extend((match.start(), issue) for issue in issues)
    text.append(prompt[end:])
    in_order = [issue for _, issue in sorted(found, key=lambda pair: pair[0])]
    requests = tuple(tag.request for tag in tags if tag.request is not None)
    return ParsedPrompt("".join(text), requests, (*in_order, *duplicate_issues(requests)), tuple(tags))


def duplicate_issues(requests: Iterable[AdapterRequest]) -> list[Issue]:
    """One issue for each name that several requests share. All of them count, so the effects add up."""
    counts = Counter(request.name.strip() for request in requests)
    return [
        Issue("duplicate", f"{quote(name)} is named {count} times in the prompt; the effects add up.")
        for name, count in counts.items()
        if count > 1
    ]


def negative_prompt_issues(negative_prompt: str) -> list[Issue]:
    """One issue for each tag in a negative prompt, where no WebUI looks for them."""
    return [
        Issue(
            "no effect", f"The tag {each.tag} stands in the negative prompt, where tags do nothing; move it.", each.tag
        )
        for each in parse_prompt(negative_prompt).requests
    ]


def _is_ours(match: re.Match[str]) -> bool:
    """Whether a candidate is a tag of ours: what a host's ``<(\\w+):([^>]+)>`` would take out of the prompt."""
    exact = not match["before"] and not match["after"] and match["colon"] == ":"
    return exact and match["kind"] in TAG_KINDS and bool(match["args"] and match["end"])


def _lookalike(match: re.Match[str]) -> list[Issue]:
    """Why a candidate is no tag of ours, if it was probably meant as one."""
    tag, kind, args = Tag(match[0]), match["kind"].lower(), match["args"].strip()
    if kind in _MISSPELT and match["colon"] and match["end"]:
        return [tag.issue("unknown_kind", f"The tag {tag} is not for networks; write {quote(f'<lora:{args}>')}.")]
    if kind not in TAG_KINDS:
        return []
    if not match["end"]:
        return [tag.unclosed()]
    if not args:
        return [_missing_name(tag)]
    right = quote(f"<{kind}:{args.replace(_WIDE_COLON, ':')}>")
    if match["colon"] == _WIDE_COLON:
        return [tag.issue("wide_colon", f"The tag {tag} has a wide colon; did you mean ':'? Write {right}.")]
    if not match["colon"]:
        return [tag.issue("malformed", f"The tag {tag} has no colon after its kind; write <{kind}:name:0.8>.")]
    if match["before"] or match["after"]:
        return [tag.issue("malformed", f"The tag {tag} has a blank beside its kind; write {right}.")]
    return [tag.issue("unknown_kind", f"The tag {tag} must begin in small letters; write {right}.")]


def _split(args: str, start: int) -> Iterator[Argument]:
    """Cut a tag's inside, which begins at ``start``, into its arguments."""
    position = 0
    for index, item in enumerate(args.split(":")):
        end = start + len(item)
        before, equals, after = item.partition("=")
        key = before.strip()
        is_named = bool(equals) and "=" not in after and (index > 0 or key in _ARGUMENTS)
        value = after if is_named else item
        begin = end - len(value.lstrip())
        yield Argument(key if is_named else None, position, start, end, begin, begin + len(value.strip()))
        position += not is_named
        start = end + 1


def _parse_tag(prompt: str, tag: Tag, arguments: Sequence[Argument]) -> tuple[AdapterRequest | None, list[Issue]]:
    """Make the request of a tag's arguments."""
    positional: list[str] = []
    named: dict[str, str] = {}
    issues: list[Issue] = []
    for argument in arguments:
        item = prompt[argument.start : argument.end]
        key = argument.key
        if key is None:
            positional.append(item)
            continue
        if key in named:
            message = f"The tag {tag} has {quote(key + '=')} twice; the last one counts."
            issues.append(tag.issue("duplicate_argument", message))
        named[key] = item.partition("=")[2]
    request, more = _build(tag, positional, named)
    return request, issues + more


def _build(tag: Tag, positional: Sequence[str], named: Mapping[str, str]) -> tuple[AdapterRequest | None, list[Issue]]:
    """Check the arguments of one tag and make its request."""
    name = positional[0] if positional else ""
    if not name.strip():
        return None, [_missing_name(tag)]
    if len(name) > MAX_NAME:
        message = f"The name in {tag} has {len(name)} characters; no file is called so, and the tag was left out."
        return None, [tag.issue("name_too_long", message)]
    issues = _remarks(tag, positional, named)
    given = dict(zip(_ARGUMENTS, positional[1:], strict=False))
    given.update({key.strip(): text for key, text in named.items()})
    te = tag.weight("TE weight", given.get("te"), 1.0)
    unet = tag.weight("UNet weight", given.get("unet"), 1.0 if isinstance(te, Issue) else te)
    dyn = tag.rank(given.get("dyn"))
    if isinstance(te, Issue) or isinstance(unet, Issue) or isinstance(dyn, Issue):
        return None, issues + [fault for fault in (te, unet, dyn) if isinstance(fault, Issue)]
    return AdapterRequest(name, te, unet, dyn, tag.written), issues


def _remarks(tag: Tag, positional: Sequence[str], named: Mapping[str, str]) -> list[Issue]:
    """What is odd about a tag without spoiling it."""
    issues: list[Issue] = []
    if _WIDE_COLON_AND_WEIGHT.search(positional[0]):
        issues.append(tag.issue("wide_colon", f"The name in {tag} holds a wide colon; did you mean ':'?"))
    if len(positional) > 4:
        message = f"{quote(':'.join(positional[4:]))} in {tag} is beyond the four values of a tag and was ignored."
        issues.append(tag.issue("too_many_arguments", message))
    for key in (key.strip() for key in named):
        if key not in _ARGUMENTS:
            advice = f"; write {key.lower()}= in small letters" if key.lower() in _ARGUMENTS else ""
            message = f"{quote(key + '=')} in {tag} is not supported yet and was ignored{advice}."
            issues.append(tag.issue("unknown_argument", message))
    return issues


def _missing_name(tag: Tag) -> Issue:
    return tag.issue("missing_name", f"The tag {tag} names no network; write <lora:name:0.8>.")


def _odd_bracket(opening: str) -> Issue:
    tag = Tag(opening)
    return tag.issue("malformed", f"The tag that begins with {tag} has no plain '<'; write <lora:name:0.8>.")
