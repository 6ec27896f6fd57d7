"""One network as a card of the WebUI's extra-networks page: plain data, made safe for where the WebUI puts it.

The WebUI escapes some values of a card and not others, differently in each release. What it prints as it is (file
names, search words, sort keys; names and descriptions in 1.5 and 1.6) can not hold anything here that ends its place.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lycopatch.engine.catalog import AdapterFile
from lycopatch.engine.catalog_index import hash_digits
from lycopatch.engine.metadata import cut, presentable
from lycopatch.engine.recognise import family_in_metadata
from lycopatch.engine.wording import printable
from lycopatch.ui.sidecar import Sidecar, stem_path

UNKNOWN_VERSION = "Unknown"
VERSIONS = ("SD1", "SD2", "SDXL", "SD3", UNKNOWN_VERSION)
"""The base models as the WebUI's own cards and files beside networks call them."""

_VERSION_OF_FAMILY = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sdxl_refiner": "SDXL", "sd3": "SD3"}

_LOOK_ALIKES = str.maketrans({"'": "\u2019", '"': "\u201d", "<": "\u2039", ">": "\u203a", "\\": "\u29f5"})
"""Curly quotes, angle quotes, a mathematical backslash: nearly the same to read, and harmless in a page."""

_REFERENCE = re.compile(r"&(?=[#\w])")
_WIDE_AMPERSAND = "\uff06"
"""Instead of one that a page would read as the beginning of ``&lt;``."""

_UNUSABLE = "No tag can name this file, because its name holds characters that tags are made of; rename the file."
_CLICK_DOES_NOTHING = "void(0)"
"""Fits behind ``onclick=`` with quotes around it (from 1.8) and without (before). A card with an empty prompt would
instead take every blank out of the user's prompt."""

_BULKY = 200


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the WebUI says about one file."""

    preview: str | None
    shorthash: str
    search_path: str
    sort_keys: Mapping[str, object]
    picture_format: str
    descriptions: Literal["text", "html", "raw"]
    """The WebUI escapes descriptions; or the user wants them to be HTML; or it prints them as they are (1.5, 1.6)."""


def new_card(
    file: AdapterFile, sidecar: Sidecar, facts: HostFacts, *, name: str, spelling: str | None
) -> dict[str, Any]:
    """The item that shows a network. ``name``: from ``page_name``; ``spelling``: what a tag calls it, if it can."""
    card: dict[str, Any] = {
        "name": name,
        "filename": _path_text(str(file.path)),
        "shorthash": facts.shorthash,
        "preview": facts.preview,
        "description": _description(file, sidecar, spelling, facts),
        **_search_terms(file, facts),
        "local_preview": f"{stem_path(file.path)}.{facts.picture_format}",
        "metadata": shown_metadata(file),
        "user_metadata": dict(sidecar.contents),
        "sort_keys": {key: _sort_text(value) for key, value in facts.sort_keys.items()},
        "sd_version": version_of(file, sidecar),
        "prompt": _prompt(spelling, sidecar),
        "negative_prompt": _negative_prompt(sidecar),
    }
    card["sort_keys"]["SDversion"] = _sort_text(card["sd_version"])
    if spelling is None:
        card["onclick"] = _CLICK_DOES_NOTHING
    return card


def plain_card(name: str, reason: str) -> dict[str, Any]:
    """The item in place of one that can not be made. It says why, and a click does nothing."""
    return {
        "name": name,
        "filename": "",
        "shorthash": "",
        "preview": None,
        "description": html.escape(printable(reason)),
        "search_term": "",
        "search_terms": [],
        "local_preview": "",
        "metadata": {},
        "user_metadata": {},
        "sort_keys": {},
        "sd_version": UNKNOWN_VERSION,
        "prompt": js_string(""),
        "negative_prompt": js_string(""),
        "onclick": _CLICK_DOES_NOTHING,
    }


def page_name(name: str) -> str:
    """A name as the card carries it: what could end an attribute or a JavaScript string is replaced by a look-alike."""
    plain = "".join(char if char >= " " and char != "\x7f" else "\N{REPLACEMENT CHARACTER}" for char in printable(name))
    return _REFERENCE.sub(_WIDE_AMPERSAND, plain.translate(_LOOK_ALIKES))


def version_of(file: AdapterFile, sidecar: Sidecar) -> str:
    """The base model a network is for: what the user wrote, else what its metadata say."""
    return printable(sidecar.sd_version) or _VERSION_OF_FAMILY.get(
        family_in_metadata(file.metadata) or "", UNKNOWN_VERSION
    )


def shown_metadata(file: AdapterFile) -> dict[str, str]:
    """What the "i" button shows: bounded, short facts before long lists."""
    shown = presentable(file.metadata)
    return {key: printable(shown[key]) for key in sorted(shown, key=lambda key: len(shown[key]) > _BULKY)}


def js_string(text: str) -> str:
    """A text as a JavaScript string that is safe in any script or handler; the WebUI escapes it for HTML."""
    quoted = json.dumps(printable(text), ensure_ascii=False).replace("</", "<\\/").replace("<!", "<\\!")
    return quoted.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _path_text(path: str) -> str:
    """The file's path; where the WebUI would print it into a page as it is, escaped.

    Such a file has a card and is not in the folder tree, which would print its name as well.
    """
    plain = printable(path)
    return html.escape(plain) if plain != path or any(char in plain for char in '<>"') else path


def _description(file: AdapterFile, sidecar: Sidecar, spelling: str | None, facts: HostFacts) -> str:
    """Ours first: why the network or the user's words can not be used. Then the user's words."""
    ours = [file.error, sidecar.problem and sidecar.problem.message, None if spelling is not None else _UNUSABLE]
    trouble, words = printable(" ".join(filter(None, ours))), cut(sidecar.description)
    if facts.descriptions != "text":
        trouble = html.escape(trouble)
    if facts.descriptions == "raw":
        words = html.escape(words)
    return " ".join(filter(None, (trouble, words)))


def _search_terms(file: AdapterFile, facts: HostFacts) -> dict[str, Any]:
    """What the search box looks at: one text (before 1.8) and a list of texts; both are printed as they are."""
    texts = (facts.search_path, cut(file.alias or "", 200), *filter(None, map(hash_digits, file.stated_hashes)))
    terms = [html.escape(printable(text)) for text in dict.fromkeys((*texts, facts.shorthash)) if text]
    return {"search_term": " ".join(terms), "search_terms": terms}


def _sort_text(value: object) -> int | str:
    """A value of a ``data-sort-…`` attribute, which some releases print without quotes around it."""
    return value if isinstance(value, int) else re.sub(r"\s", "_", printable(str(value))) or "_"


def _prompt(spelling: str | None, sidecar: Sidecar) -> str:
    """The JavaScript expression for what a click adds to the prompt."""
    if spelling is None:
        return js_string("")
    words = _one_line(sidecar.activation_text)
    ending = f"> {words}" if words else ">"
    if sidecar.preferred_weight:
        return js_string(f"<lora:{spelling}:{sidecar.preferred_weight:g}{ending}")
    return f"{js_string(f'<lora:{spelling}:')} + opts.extra_networks_default_multiplier + {js_string(ending)}"


def _negative_prompt(sidecar: Sidecar) -> str:
    """With a weight: only so does the WebUI find it again, to take it out at the second click."""
    words = _one_line(sidecar.negative_text)
    return js_string(f"({words}:1)" if words else "")


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
