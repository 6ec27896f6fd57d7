"""The page's own texts: each is there in Japanese, and nothing is translated that nobody says any more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JAVASCRIPT = ROOT / "javascript"
PACKAGE = ROOT / "extensions_lib" / "lycopatch"

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_SAYS = re.compile(rf"(?<![\w$])t\(\s*({_STRING})")
_TABLES = re.compile(r"(?:const (?:NAMES|FITS)|lycopatch\.ORDERS) = [\[{].*?[\]}];", re.DOTALL)
_ENTRY = re.compile(rf"^ {{12}}({_STRING}):\s*({_STRING}),$", re.MULTILINE)
_PLACE = re.compile(r"\{\w+\}")


def _sources() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(JAVASCRIPT.glob("*.js"))}


def _japanese(part: str) -> dict[str, str]:
    """``texts`` or ``said`` of the dictionary; fails for one that is there twice."""
    source = (JAVASCRIPT / "lycopatch_words_ja.js").read_text(encoding="utf-8")
    block = re.search(rf"^ {{8}}{part}: \{{\n(.*?)^ {{8}}\}},$", source, re.DOTALL | re.MULTILINE)
    assert block is not None, f"the dictionary has no {part}"
    pairs = [(json.loads(english), json.loads(japanese)) for english, japanese in _ENTRY.findall(block[1])]
    assert len(pairs) == len(re.findall(rf"^ {{12}}{_STRING}:", block[1], re.MULTILINE))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _said_by_the_page() -> set[str]:
    """Every text that goes through ``t``, and the titles in tables that do."""
    found: set[str] = set()
    for source in _sources().values():
        found.update(json.loads(text) for text in _SAYS.findall(source))
    return found


def test_every_text_of_the_page_is_there_in_japanese() -> None:
    said = _said_by_the_page()
    assert len(said) > 100
    assert sorted(said - _japanese("texts").keys()) == []


def test_every_title_in_a_table_is_there_in_japanese() -> None:
    texts = _japanese("texts")
    tables = "".join(table for source in _sources().values() for table in _TABLES.findall(source))
    titles = {json.loads(text) for text in re.findall(_STRING, tables)}
    titles = {title for title in titles if title[:1].isupper()}
    assert len(titles) > 15
    assert sorted(titles - texts.keys()) == []


def test_nothing_is_translated_that_the_page_does_not_say() -> None:
    others = "".join(source for name, source in _sources().items() if name != "lycopatch_words_ja.js")
    unused = [text for text in _japanese("texts") if json.dumps(text, ensure_ascii=False) not in others]
    assert unused == []


@pytest.mark.parametrize("part", ["texts", "said"])
def test_a_translation_has_no_place_to_fill_that_the_english_text_has_not(part: str) -> None:
    for english, japanese in _japanese(part).items():
        assert set(_PLACE.findall(japanese)) <= set(_PLACE.findall(english)), english


def test_every_sentence_of_the_server_that_is_translated_is_one_that_it_says() -> None:
    python = "".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", python)
    for english in _japanese("said"):
        for piece in re.split(_PLACE, english):
            escaped = piece.replace('"', '\\"')
            assert piece in joined or escaped in joined, english
