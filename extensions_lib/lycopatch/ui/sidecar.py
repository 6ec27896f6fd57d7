"""The user's own words about a network: the ``.json`` file beside it, as the WebUI and other tools write it.

Users have thousands of these files, and other tools keep keys of their own in them. So nothing is lost here: unknown
keys stay, values that the user did not change stay as they were written, and a damaged file is moved aside first.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lycopatch.engine.metadata import as_dict, as_list, as_number, json_value
from lycopatch.engine.report import Issue
from lycopatch.engine.tag import LARGEST_WEIGHT
from lycopatch.engine.wording import printable, shown

MOST_BYTES = 4 << 20
"""More than any person or tool writes about one network."""

MOST_GROUPS = 100
_LONGEST_NAME = 200
_MOST_WORDS = 200
_LONGEST_WORD = 2000
_MOST_DESCRIPTION = 1 << 16
_DESCRIPTIONS = (".txt", ".description.txt")
_KEYS = {
    "description": "description",
    "notes": "notes",
    "activation_text": "activation text",
    "preferred_weight": "preferred weight",
    "negative_text": "negative text",
    "sd_version": "sd version",
}
"""Our field → the key in the file."""

_OURS = "lycopatch"


@dataclass(frozen=True, slots=True)
class TriggerGroup:
    """Words (or phrases) that go into the prompt together."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the user wrote about a network. Texts are empty and the weight is 0 where nothing was written."""

    description: str = ""
    notes: str = ""
    activation_text: str = ""
    preferred_weight: float = 0.0
    negative_text: str = ""
    sd_version: str = ""
    groups: tuple[TriggerGroup, ...] = ()
    weight_range: tuple[float, float] | None = None
    """The smallest and the largest weight that make sense."""
    contents: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False, repr=False)
    """Everything in the file, as it is there."""
    problem: Issue | None = field(default=None, compare=False)
    """Why the file was not understood, if so."""


def sidecar_path(network: Path) -> Path:
    """Where the words about a network are kept: ``a.b.safetensors`` → ``a.b.json``."""
    return Path(stem_path(network) + ".json")


def stem_path(network: Path) -> str:
    """The path without its last extension, as previews and descriptions are called beside a network."""
    return os.path.splitext(network)[0]


def read_sidecar(network: Path, exists: Callable[[str], bool] = os.path.exists) -> Sidecar:
    """What the user wrote about a network. Never raises: what can not be understood is a ``problem``.

    Without a description of its own, it has that of ``.txt`` or ``.description.txt``. ``exists``: whether there is a
    file of this path, for callers that know the whole folder already.
    """
    contents, problem = read_json(sidecar_path(network), exists)
    found = _understood(contents)
    if "description" not in contents:
        found["description"] = _description(network, exists)
    return Sidecar(**found, contents=contents, problem=problem)


def write_sidecar(network: Path, wanted: Sidecar) -> Issue | None:
    """Write what the user changed; return what he should know about it. Raises OSError when that is not possible.

    ``wanted.contents`` is not looked at. The file is replaced as a whole or not at all.
    """
    path = sidecar_path(network)
    before = read_sidecar(network)
    contents = dict(before.contents)
    for name, key in _KEYS.items():
        if getattr(wanted, name) != getattr(before, name):
            contents[key] = getattr(wanted, name)
    _put_ours(contents, before, wanted)
    kept = None
    if before.problem is not None:
        backup = _unused(path)
        os.replace(path, backup)
        message = f"{before.problem.message} It was kept as {shown(backup.name)} and a new one was written."
        kept = Issue("sidecar_kept", message, file=str(path))
    if contents != before.contents or kept:
        _replace(path, _encoded(contents))
    return kept


def read_json(path: Path, exists: Callable[[str], bool]) -> tuple[dict[str, Any], Issue | None]:
    """The JSON object in a file beside a network, or an empty one and the reason why there is none. Never raises."""
    if not exists(str(path)):
        return {}, None
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        return {}, _problem(path, f"can not be read: {error.strerror or error}")
    if len(data) > MOST_BYTES:
        return {}, _problem(path, f"has more than {MOST_BYTES >> 20} MiB and was not read")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return {}, _problem(path, "is not UTF-8 text")
    value = json_value(text) if text else {}
    if not isinstance(value, dict):
        return {}, _problem(path, "holds no JSON object")
    return value, None


def _problem(path: Path, reason: str) -> Issue:
    return Issue("unreadable_sidecar", f"The file {shown(path.name)} beside the network {reason}.", file=str(path))


def _understood(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields out of a file, whatever types are in it."""
    found: dict[str, Any] = {name: _text(contents.get(key)) for name, key in _KEYS.items()}
    found["preferred_weight"] = float(as_number(contents.get("preferred weight")) or 0.0)
    ours = as_dict(contents.get(_OURS))
    found["groups"] = as_groups(ours.get("groups"))
    found["weight_range"] = as_range(ours.get("weight_range"))
    return found


def as_groups(value: object) -> tuple[TriggerGroup, ...]:
    """Groups out of a list of ``{"name": …, "words": […]}``; what is none, or lacks one of the two, is left out."""
    found: list[TriggerGroup] = []
    for each in map(as_dict, as_list(value)[:MOST_GROUPS]):
        words = each.get("words")
        phrases = [words] if isinstance(words, str) else as_list(words)[:_MOST_WORDS]
        texts = (_text(phrase).strip()[:_LONGEST_WORD] for phrase in phrases)
        group = TriggerGroup(_text(each.get("name")).strip()[:_LONGEST_NAME], tuple(filter(None, texts)))
        if group.name and group.words:
            found.append(group)
    return tuple(found)


def as_range(value: object) -> tuple[float, float] | None:
    """Two weights, the smaller first; None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    low, high = map(as_number, value)
    if low is None or high is None or not -LARGEST_WEIGHT <= low < high <= LARGEST_WEIGHT:
        return None
    return float(low), float(high)


def _put_ours(contents: dict[str, Any], before: Sidecar, wanted: Sidecar) -> None:
    """What no other tool has a key for lies together under one of our own."""
    ours = dict(as_dict(contents.get(_OURS)))
    if wanted.groups != before.groups:
        ours["groups"] = [{"name": group.name, "words": list(group.words)} for group in wanted.groups]
    if wanted.weight_range != before.weight_range:
        ours["weight_range"] = wanted.weight_range and list(wanted.weight_range)
    if ours != as_dict(contents.get(_OURS)):
        contents[_OURS] = {key: value for key, value in ours.items() if value not in (None, [])}


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_text, value)))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return printable(str(value))


def _description(network: Path, exists: Callable[[str], bool]) -> str:
    for ending in _DESCRIPTIONS:
        path = stem_path(network) + ending
        if exists(path):
            with contextlib.suppress(OSError), open(path, encoding="utf-8-sig", errors="replace") as file:
                return file.read(_MOST_DESCRIPTION)
    return ""


def _unused(path: Path) -> Path:
    """A name for a copy: ``x.json.bak``, or ``x.json.bak2`` … when there are copies already."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak{'' if number == 1 else number}")).exists():
        number += 1
    return backup


def _encoded(contents: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(contents, indent=4, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a character in somebody's key; as an escape it can be written
        return json.dumps(contents, indent=4).encode("utf-8")
    except RecursionError as error:
        raise OSError("the file is nested too deeply to be written again") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that others see the old one or the new one, never a part."""
    temporary = path.with_name(f".lycopatch-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
