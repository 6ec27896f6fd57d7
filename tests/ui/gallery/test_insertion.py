"""What a click puts into the prompts, and that the next one takes exactly this out again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycopatch.ui.gallery.insertion import Addition, Prompts, added, addition, named, removed

INK = Addition("<lora:ink:0.8>", "ink wash", "blurry, bad")


def is_ink(name: str) -> bool:
    return name.strip() == "ink"


def test_the_tag_goes_to_the_end_with_the_words_behind_it_and_the_negative_text() -> None:
    assert added("a cat", "low", INK) == Prompts(
        "a cat <lora:ink:0.8> ink wash", "low, blurry, bad", added=True, inserted=INK
    )
    assert added("", "", Addition("<lora:ink:1>")) == Prompts("<lora:ink:1>", "", True, Addition("<lora:ink:1>"))


@pytest.mark.parametrize(
    ("weight", "tag"),
    [(0.65, "<lora:a:0.65>"), (-1.0, "<lora:a:-1>"), (0.0, "<lora:a:0.7>"), (1e9, "<lora:a:0.7>"), (2, "<lora:a:2>")],
)
def test_the_weight_is_the_preferred_one_or_the_usual_one(weight: float, tag: str) -> None:
    assert addition("a", weight, "", "", default_weight=0.7).tag == tag


def test_texts_of_several_lines_become_one_line() -> None:
    new = addition("a", 0, " ink\n wash\r\n\tdark\u2028x ", "bad\n\nworse")
    assert (new.words, new.negative) == ("ink wash dark x", "bad worse")


PIECES = [*"ab ,.<>:()\\\n\"'=", "\u00e9", "\u58a8", "\U0001f600", "<lora:", "<lora:other:1>"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=15).map("".join)
WORDS = TEXTS.map(lambda text: " ".join(text.split()))


@pytest.mark.parametrize("remembered", [True, False], ids=["remembered", "not remembered"])
@given(prompt=TEXTS, negative=TEXTS, words=WORDS, unwanted=WORDS)
def test_two_clicks_give_the_very_same_texts(
    prompt: str, negative: str, words: str, unwanted: str, *, remembered: bool
) -> None:
    new = Addition("<lora:ink:0.8>", words, unwanted)
    once = added(prompt, negative, new)
    assert named(once.prompt, is_ink)
    twice = removed(once.prompt, once.negative, is_ink, new, new if remembered else None)
    assert (twice.prompt, twice.negative) == (prompt, negative)


@given(before=st.text("ab ,\n"), between=st.text("ab,\n"), after=st.text("ab ,\n"))
def test_nothing_is_lost_of_what_was_typed_around_the_tag(before: str, between: str, after: str) -> None:
    typed = f"{before} <lora:ink:0.8>{between} ink wash{after}"
    left = removed(typed, "", is_ink, INK, INK).prompt
    words = after[:1].isalnum()  # then "ink wash" is the beginning of other words
    assert left == before + between + (f" ink wash{after}" if words else after)


def test_the_tag_is_taken_out_also_when_its_weight_was_changed_since() -> None:
    assert removed("a <lora:ink:0.65> ink wash, b", "", is_ink, INK, INK).prompt == "a, b"
    assert removed("a <lyco:ink:te=1:unet=0> b", "", is_ink, INK, INK).prompt == "a b"


def test_only_the_tag_that_was_inserted_is_taken_out_beside_one_that_the_user_wrote() -> None:
    assert removed("<lora:ink:0.3> a <lora:ink:0.8> ink wash", "", is_ink, INK, INK).prompt == "<lora:ink:0.3> a"


def test_without_memory_every_tag_of_the_network_goes_and_others_stay() -> None:
    prompt = "<lora:ink:1> a <lora:other:1> <lyco:ink:0.5> ink wash"
    assert removed(prompt, "", is_ink, INK).prompt == "a <lora:other:1>"


def test_without_memory_words_that_stand_elsewhere_are_the_user_s_own() -> None:
    left = removed("ink wash <lora:ink:0.8> a, ink wash", "not blurry, bad", is_ink, INK)
    assert (left.prompt, left.negative) == ("ink wash a, ink wash", "not blurry, bad")
    assert removed("<lora:ink:0.8>", "low, blurry, bad, ugly", is_ink, INK).negative == "low, ugly"


def test_words_that_go_on_are_other_words() -> None:
    assert removed("a <lora:ink:0.8> ink washing", "", is_ink, INK, INK).prompt == "a ink washing"
    dot = Addition("<lora:ink:0.8>", "x", "bad")
    assert removed("<lora:ink:0.8>", "badly, bad, notbad", is_ink, dot, dot).negative == "badly, notbad"


def test_words_that_hold_the_network_s_own_tag_go_as_one() -> None:
    own = Addition("<lora:ink:0.8>", "<lora:ink:0.8> wash")
    once = added("a", "", own)
    for undo in (own, None):
        assert removed(once.prompt, "", is_ink, own, undo).prompt == "a"


def test_two_networks_with_the_same_words_do_not_take_each_other_s() -> None:
    mist = Addition("<lora:mist:1>", "ink wash", "blurry, bad")
    both = added(*_texts(added("a", "", INK)), mist)
    left = removed(both.prompt, both.negative, is_ink, INK, INK)
    assert (left.prompt, left.negative) == ("a <lora:mist:1> ink wash", "blurry, bad")


def test_a_prompt_made_to_be_slow_is_not() -> None:
    slow = Addition("<lora:ink:0.8>", "a", "a")
    started = time.monotonic()
    removed("<lora:ink:0.8>" + "ba" * 100_000, "ba" * 100_000, is_ink, slow, slow)
    removed("<lora:ink:0.8> a" * 10_000, "a,a" * 50_000, is_ink, slow)
    assert time.monotonic() - started < 5


def _texts(prompts: Prompts) -> tuple[str, str]:
    return prompts.prompt, prompts.negative
