"""One file's header, and the words beside it, as the facts that cards, filters and searches need."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lycopatch.engine.catalog_entry import Header, alias_of, stated_hashes, trouble, unfinished, usable
from lycopatch.engine.catalog_index import fold
from lycopatch.engine.catalog_scan import SeenFile
from lycopatch.engine.catalog_structure import Structure, Structures, with_rank
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.metadata import PICTURES
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.reading.opening import refused_pickle
from lycopatch.engine.recognise import family_in_metadata
from lycopatch.engine.training import training_facts
from lycopatch.engine.wording import printable, shown

MOST_TAGS = 20
"""Of a network's training tags that filters and cards know, the most frequent ones."""

_MOST_TEXT = 4000
_BASE_MODEL = re.compile(r"[a-z0-9_.-]{1,40}")
_VARIANTS = {
    "noobai": (r"noob", r"(?<![a-z])noob(?:ai|xl)?(?![a-z])"),
    "illustrious": (r"illustrious|ilxl", r"illustrious|(?<![a-z])il(?:lu|xl)?(?![a-z])"),
    "pony": (r"pony|pdxl", r"(?<![a-z])(?:pony(?:xl|v6|diffusion)?|pdxl)(?![a-z])"),
}
"""Variant of SDXL → how the names of its base models and those of networks for it contain it."""
_PONY_TAGS = re.compile(r"score_\d(?:_up)?|source_(?:pony|furry|anime|cartoon)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Words:
    """What a person or a site wrote about a network. ``text``: all that a search should find besides."""

    title: str = ""
    activation_text: str = ""
    weight: float = 0.0
    tags: tuple[str, ...] = ()
    base_model: str = ""
    text: str = ""


ReadWords = Callable[[Path], Words]
"""The words beside a network. Never raises."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The columns of ``files`` that a header and its neighbours decide, and what belongs into the other tables."""

    error: str | None = None
    problem: str | None = None
    alias: str | None = None
    stated_hashes: list[str] = field(default_factory=list[str])
    structure: Structure | None = None
    kind: str | None = None
    label: str | None = None
    family: str | None = None
    family_title: str | None = None
    variant: str | None = None
    trigger: str | None = None
    tags: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    own_tags: tuple[str, ...] = ()
    weight: float | None = None
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    searched: str = ""


def read_facts(seen: SeenFile, structures: Structures, read_words: ReadWords | None) -> Facts:
    """Read a file's header and the words beside it. Never raises: what is wrong is its ``error``."""
    words = read_words(seen.path) if read_words is not None and seen.beside.has_words else Words()
    if seen.is_pickle:
        return _facts(seen, words, Header())
    try:
        with open_tensor_file(seen.path) as file:
            metadata = {key: value for key, value in file.metadata.items() if key not in PICTURES}
            seen.size, seen.mtime_ns = file.fingerprint.size, file.fingerprint.mtime_ns
            structure = structures.of(file)
    except UnreadableAdapter as unreadable:
        return _facts(seen, words, trouble(seen, unreadable))
    except Exception as error:  # a bug of ours must not keep the other files from being listed
        _log.exception("The header of %s could not be understood", printable(seen.place))
        reason = f"its header could not be understood ({type(error).__name__})."
        return _facts(seen, words, Header(error=str(UnreadableAdapter(seen.path, reason)), problem="damaged"))
    if seen.beside.downloading == "surely":
        return _facts(seen, words, unfinished(seen))
    if structure.not_a_network is not None:
        error = f"{shown(seen.path.name)} is {structure.not_a_network}."
        return _facts(seen, words, Header(metadata, error, "not a network"), structure)
    return _facts(seen, words, Header(metadata), structure)


def refused(seen: SeenFile) -> Facts:
    """The facts of a pickle that is listed only to say that it is not used."""
    return _facts(seen, Words(), Header(error=str(refused_pickle(seen.path)), problem="pickle"))


def _facts(seen: SeenFile, words: Words, header: Header, structure: Structure | None = None) -> Facts:
    metadata = header.metadata
    training = training_facts(metadata) if metadata else {}
    tags = [(str(each["tag"]), int(each["count"])) for each in training.get("tags", ())[:MOST_TAGS]]
    alias = alias_of(metadata)
    kind, label = (structure.kind, structure.label) if structure else (None, None)
    if structure and kind == "lora" and _is_dylora(training):
        kind, label = "dylora", with_rank("DyLoRA", structure.rank)
    family, family_title = _family(structure, metadata)
    variant = _variant(seen, family, alias, training, words, tags)
    trigger = words.activation_text or str(training.get("trigger_phrase", "")) or None
    title = words.title or str(training.get("title", "")) or None
    names = (seen.label, seen.relative, usable(alias), title, label, kind, family_title, variant)
    about = (trigger, *(tag for tag, _ in tags), *words.tags, words.text, training.get("description"))
    return Facts(
        error=header.error,
        problem=header.problem,
        alias=alias,
        stated_hashes=stated_hashes(metadata),
        structure=structure,
        kind=kind,
        label=label,
        family=family,
        family_title=family_title,
        variant=variant,
        trigger=trigger,
        tags=tags,
        own_tags=words.tags,
        weight=words.weight or None,
        title=title,
        metadata=metadata,
        searched=_searched((*names, *about)),
    )


def _searched(parts: Iterable[object]) -> str:
    """One folded text; the parts on lines of their own, so that no word goes from one into the next."""
    text = "\n".join(str(part) for part in parts if part)
    return fold(printable(text[:_MOST_TEXT]).replace("\0", " "))


def _is_dylora(training: Mapping[str, Any]) -> bool:
    network = training.get("network", {})
    named = str(network.get("args", {}).get("algo", "")), str(network.get("module", "")).rpartition(".")[2]
    return "dylora" in named


def _family(structure: Structure | None, metadata: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The base model: what the shapes say, else a name that only the trainer knows."""
    if structure is None or structure.family or not structure.layers:
        return (structure.family, structure.family_title) if structure else (None, None)
    named = metadata.get("ss_base_model_version", "")
    if _BASE_MODEL.fullmatch(named) and family_in_metadata(metadata) is None:
        return named, named
    return None, None


def _variant(
    seen: SeenFile,
    family: str | None,
    alias: str | None,
    training: Mapping[str, Any],
    words: Words,
    tags: Iterable[tuple[str, int]],
) -> str | None:
    """Which fine-tune of SDXL it was made for; the trainer's word counts more than a name."""
    if family != "sdxl":
        return None
    base = f"{training.get('base_model', '')}\n{words.base_model}".lower()
    name = "\n".join(filter(None, (seen.stem, alias, words.title, str(training.get("title", ""))))).lower()
    for variant, (pattern, _) in _VARIANTS.items():
        if re.search(pattern, base):
            return variant
    for variant, (_, pattern) in _VARIANTS.items():
        if re.search(pattern, name):
            return variant
    return "pony" if any(_PONY_TAGS.fullmatch(tag) for tag, _ in tags) else None
