"""A network as a card: what a click inserts, and that nothing in a file can leave its place in the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lycopatch.engine.catalog import AdapterFile
from lycopatch.engine.report import Issue
from lycopatch.engine.types import Fingerprint
from lycopatch.hosts.a1111.cards import (
    HostFacts,
    js_string,
    new_card,
    page_name,
    plain_card,
    shown_metadata,
    version_of,
)
from lycopatch.ui.sidecar import Sidecar

FACTS = HostFacts(None, "", "Lora/ink.safetensors", {"default": 3, "name": "ink.safetensors"}, "webp", "text")
EVIL = "<script>alert(1)</script>\"'&lt;\u2028"
HASH = "0123456789abcdef" * 4


def network(path: str = "/Lora/ink.safetensors", **metadata: str) -> AdapterFile:
    stem = Path(path).stem
    return AdapterFile(Path(path), stem, stem, metadata.get("ss_output_name"), Fingerprint(1, 1), metadata)


def prompt(spelling: str = "ink", **words: object) -> str:
    """The text that a click inserts where the host's default weight is 1."""
    card = new_card(network(), Sidecar(**words), FACTS, name="ink", spelling=spelling)  # type: ignore[arg-type]
    parts = card["prompt"].split(" + opts.extra_networks_default_multiplier + ")
    return "1".join(json.loads(part) for part in parts)


def test_a_click_inserts_a_tag_with_the_default_weight() -> None:
    assert prompt() == "<lora:ink:1>"
    card = new_card(network(), Sidecar(), FACTS, name="ink", spelling="ink")
    assert card["prompt"] == '"<lora:ink:" + opts.extra_networks_default_multiplier + ">"'
    assert json.loads(card["negative_prompt"]) == ""
    assert "onclick" not in card


def test_a_click_inserts_the_preferred_weight_and_the_activation_text() -> None:
    assert prompt(preferred_weight=0.75, activation_text="ink, wash") == "<lora:ink:0.75> ink, wash"
    assert prompt(activation_text="two\nlines") == "<lora:ink:1> two lines"


def test_the_negative_text_has_the_form_that_a_second_click_finds_again() -> None:
    card = new_card(network(), Sidecar(negative_text="oil"), FACTS, name="ink", spelling="ink")
    assert json.loads(card["negative_prompt"]) == "(oil:1)"


def test_a_card_has_every_field_that_some_release_reads() -> None:
    card = new_card(network(), Sidecar(description="wet"), FACTS, name="ink", spelling="ink")
    assert card["filename"] == "/Lora/ink.safetensors"
    assert card["local_preview"] == "/Lora/ink.webp"
    assert card["search_term"] == "Lora/ink.safetensors"
    assert card["search_terms"] == ["Lora/ink.safetensors"]
    assert card["shorthash"] == ""
    assert card["description"] == "wet"
    assert card["sort_keys"] == {"default": 3, "name": "ink.safetensors", "SDversion": "Unknown"}
    assert plain_card("x", "why").keys() - {"onclick"} == card.keys()


def test_the_trainers_name_and_the_hash_can_be_searched_for() -> None:
    file = network(ss_output_name="tusche", sshs_model_hash=HASH)
    card = new_card(file, Sidecar(), replace(FACTS, shorthash=HASH[:12]), name="ink", spelling="ink")
    assert card["search_terms"] == ["Lora/ink.safetensors", "tusche", HASH, HASH[:12]]


@pytest.mark.parametrize("text", [EVIL, "</script>", "<!-- ", "line\nend", "back\\slash", "\ud800", '"'])
def test_a_javascript_string_holds_its_text_and_can_not_be_left(text: str) -> None:
    written = js_string(text)
    assert not re.search(r"</|<!|\n|\u2028", written)
    written.encode()
    plain = written.replace("<\\!", "<!")  # JavaScript knows this escape, JSON does not
    assert json.loads(plain) == text.replace("\ud800", "?")


@pytest.mark.parametrize("descriptions", ["text", "html", "raw"])
def test_a_description_is_escaped_by_one_of_us_unless_the_user_wants_html(descriptions: str) -> None:
    facts = replace(FACTS, descriptions=descriptions)  # type: ignore[arg-type]
    file = replace(network(), error=f"damaged: {EVIL}")
    shown = new_card(file, Sidecar(description="<b>mine</b>"), facts, name="ink", spelling="ink")["description"]
    assert ("<script>" in shown) == (descriptions == "text")
    assert ("<b>mine</b>" in shown) == (descriptions != "raw")


def test_a_broken_network_and_broken_words_say_so_on_the_card() -> None:
    file = replace(network(), error="The file ends too early.")
    words = Sidecar(problem=Issue("unreadable_sidecar", "The notes are damaged."))
    card = new_card(file, words, FACTS, name="ink", spelling="ink")
    assert card["description"] == "The file ends too early. The notes are damaged."


def test_a_card_without_a_spelling_says_so_and_a_click_does_nothing() -> None:
    card = new_card(network(), Sidecar(activation_text="ink"), FACTS, name="ink", spelling=None)
    assert "rename the file" in card["description"]
    assert card["onclick"] == "void(0)"
    assert json.loads(card["prompt"]) == ""


def test_what_is_printed_as_it_is_can_not_leave_its_place() -> None:
    file = network(f"/Lora/{EVIL.replace('/', '')}.safetensors", ss_output_name=EVIL, sshs_model_hash=EVIL)
    facts = replace(FACTS, search_path=EVIL, sort_keys={"name": "x onclick=alert(1)\ty", "path": ""})
    card = new_card(file, Sidecar(sd_version="a b"), facts, name="ink", spelling="ink")
    for text in (card["filename"], card["search_term"], *card["search_terms"]):
        assert not set('<>"') & set(text)
    assert card["sort_keys"] == {"name": "x_onclick=alert(1)_y", "path": "_", "SDversion": "a_b"}
    assert new_card(network("/R & B/it's.pt"), Sidecar(), FACTS, name="x", spelling="x")["filename"] == "/R & B/it's.pt"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ink wash v1.0", "ink wash v1.0"),
        ("水墨 😀", "水墨 😀"),
        ("rock & roll", "rock & roll"),
        ("it's", "it’s"),
        ("a&lt;b", "a\uff06lt;b"),
        ("a\nb\ud800", "a\N{REPLACEMENT CHARACTER}b?"),
    ],
)
def test_a_name_stays_as_it_is_where_a_page_can_carry_it(name: str, shown: str) -> None:
    assert page_name(name) == shown


def test_no_name_can_leave_its_place() -> None:
    assert not set("<>\"'\\") & set(page_name(EVIL + "\\"))


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "SD1"),
        ({"ss_v2": "True"}, "SD2"),
        ({"ss_base_model_version": "flux1"}, "Unknown"),
        ({}, "Unknown"),
    ],
)
def test_the_base_model_comes_from_the_metadata_unless_the_user_says_another(
    metadata: dict[str, str], version: str
) -> None:
    assert version_of(network(**metadata), Sidecar()) == version
    assert version_of(network(**metadata), Sidecar(sd_version="Pony")) == "Pony"


def test_the_metadata_shown_are_bounded_with_the_long_lists_last() -> None:
    tags = json.dumps({"10_ink": {f"tag {number}": number for number in range(5000)}})
    shown = shown_metadata(network(ss_tag_frequency=tags, ss_output_name="ink", odd="\udfff", ss_cover="data:image/x"))
    assert list(shown) == ["ss_output_name", "odd", "ss_cover", "ss_tag_frequency"]
    assert len(json.dumps(shown, ensure_ascii=False).encode()) < 3000
    assert shown["odd"] == "?"
