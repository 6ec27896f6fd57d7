"""Prompt → requests: what the grammar means, and one sentence for everything that is not of it."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycopatch.engine.request import AdapterRequest, duplicate_issues, parse_prompt

OUT = "so the tag was left out"
WRITE = "write <lora:name:0.8>."

UNDERSTOOD = [
    ("<lora:inkwash>", ("inkwash", 1.0, 1.0, None)),
    ("<lyco:inkwash:0.8>", ("inkwash", 0.8, 0.8, None)),
    ("<lora:inkwash:0.8:1>", ("inkwash", 0.8, 1.0, None)),
    ("<lora:inkwash:0.8:1:16>", ("inkwash", 0.8, 1.0, 16)),
    ("<lora:inkwash:0.8:1:dyn=16>", ("inkwash", 0.8, 1.0, 16)),
    ("<lora:inkwash:unet=0.5>", ("inkwash", 1.0, 0.5, None)),
    ("<lora:inkwash:te=0.5>", ("inkwash", 0.5, 0.5, None)),
    ("<lora:inkwash:0.3:te=0.5>", ("inkwash", 0.5, 0.5, None)),
    ("<lora:inkwash:0.3:0.4:8:unet=0.5:dyn=2>", ("inkwash", 0.3, 0.5, 2)),
    ("<lora:te=0.5:inkwash>", ("inkwash", 0.5, 0.5, None)),
    ("<lora:inkwash:-1.5>", ("inkwash", -1.5, -1.5, None)),
    ("<lora:inkwash:0>", ("inkwash", 0.0, 0.0, None)),
    ("<lora:inkwash:1e-1>", ("inkwash", 0.1, 0.1, None)),
    ("<lora:inkwash: 0.8 : 1 : 4 >", ("inkwash", 0.8, 1.0, 4)),
    ("<lora:inkwash: te = 0.8 >", ("inkwash", 0.8, 0.8, None)),
    ("<lora:inkwash:\t0.8\n>", ("inkwash", 0.8, 0.8, None)),
    ("<lora: inkwash >", (" inkwash ", 1.0, 1.0, None)),
    ("<lora:a=b:0.8>", ("a=b", 0.8, 0.8, None)),
    ("<lora:a=b=c:0.8>", ("a=b=c", 0.8, 0.8, None)),
    ("<lora:lbw=x>", ("lbw=x", 1.0, 1.0, None)),
    ("<lora:sub/dir\\ink.v1,2 (old):1>", ("sub/dir\\ink.v1,2 (old)", 1.0, 1.0, None)),
    ("<lora:水墨画😀:0.8>", ("水墨画😀", 0.8, 0.8, None)),
    ("<lora:{}>", ("{}", 1.0, 1.0, None)),
    ("<lora:2:0.5>", ("2", 0.5, 0.5, None)),
]

# tag, kind of the issue, the sentence or (when it begins or ends with …) a part of it
REFUSED = [
    ("<lora::1>", "missing_name", f'The tag "<lora::1>" names no network; {WRITE}'),
    ("<lora: :1>", "missing_name", f'The tag "<lora: :1>" names no network; {WRITE}'),
    ("<lora: >", "missing_name", f'The tag "<lora: >" names no network; {WRITE}'),
    ("<lora::>", "missing_name", f'The tag "<lora::>" names no network; {WRITE}'),
    ("<lora:\n>", "missing_name", f'The tag "<lora: >" names no network; {WRITE}'),
    ("<lora:te=0.5>", "missing_name", f'The tag "<lora:te=0.5>" names no network; {WRITE}'),
    ("<lora:a:>", "bad_number", f'The TE weight in "<lora:a:>" is empty, {OUT}; write a number such as 0.8.'),
    ("<lora:a::1>", "bad_number", f'The TE weight in "<lora:a::1>" is empty, {OUT}; write a number such as 0.8.'),
    ("<lora:a:1:>", "bad_number", f'The UNet weight in "<lora:a:1:>" is empty, {OUT}; write a number such as 0.8.'),
    ("<lora:a:1:1:>", "bad_number", f'The rank (dyn) in "<lora:a:1:1:>" is empty, {OUT}; write a number such as 16.'),
    ("<lora:a:te=>", "bad_number", '…The TE weight in "<lora:a:te=>" is empty…'),
    ("<lora:a:abc>", "bad_number", f'The TE weight "abc" in "<lora:a:abc>" is not a number, {OUT}; …'),
    ("<lora:a:1:abc>", "bad_number", '…The UNet weight "abc"…'),
    ("<lora:a:te=abc>", "bad_number", '…The TE weight "abc"…'),
    ("<lora:a:unet=abc>", "bad_number", '…The UNet weight "abc"…'),
    ("<lora:a:0,8>", "bad_number", f'The TE weight "0,8" in "<lora:a:0,8>" is not a number, {OUT}; write 0.8.'),
    ("<lora:a:unet=0,75>", "bad_number", "…write 0.75."),
    ("<lora:a:\uff0c8>", "bad_number", "…write 0.8."),
    ("<lora:a:\uff10\uff0e\uff18>", "bad_number", "…write 0.8."),
    ("<lora:a:0。8>", "bad_number", "…write 0.8."),
    ("<lora:a:\u0660\u066b\u0668>", "bad_number", "…write 0.8."),
    ("<lora:a:−1>", "bad_number", "…write -1."),
    ("<lora:a:–0,5>", "bad_number", "…write -0.5."),
    ("<lora:a:80%>", "bad_number", "…write 0.8."),
    ("<lora:a:(0.8)>", "bad_number", "…write 0.8."),
    ('<lora:a:"0.8">', "bad_number", "…write 0.8."),
    ("<lora:a:'0.8'>", "bad_number", "…write 0.8."),
    ("<lora:a:0.8.>", "bad_number", "…write 0.8."),
    ("<lora:a:0.8\u200b>", "bad_number", "…write 0.8."),
    ("<lora:a:=0.8=1>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:1/2>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:1,2,3>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:--1>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:1 0>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:0x1>", "bad_number", "…write a number such as 0.8."),
    ("<lora:a:True>", "bad_number", '…"True"…'),
    ("<lora:a:None>", "bad_number", '…"None"…'),
    ("<lora:a:😀>", "bad_number", '…"😀"…'),
    ("<lora:a:高>", "bad_number", '…"高"…'),
    ("<lora:a:{}>", "bad_number", 'The TE weight "{}" in "<lora:a:{}>" is not a number, …'),
    ("<lora:{}:{0}>", "bad_number", 'The TE weight "{0}" in "<lora:{}:{0}>" is not a number, …'),
    ("<lora:a\0b:x>", "bad_number", 'The TE weight "x" in "<lora:a b:x>" is not a number, …'),
    ("<lora:a:b=c=d>", "bad_number", '…"b=c=d"…'),
    ("<lora:a:ALL>", "bad_number", '…"ALL"…'),
    (
        "<lora:a:nan>",
        "bad_number",
        f'The TE weight "nan" in "<lora:a:nan>" is not finite and would spoil the picture, {OUT}…',
    ),
    ("<lora:a:1:NaN>", "bad_number", '…The UNet weight "NaN"…is not finite…'),
    ("<lora:a:inf>", "bad_number", "…is not finite…"),
    ("<lora:a:te=-Infinity>", "bad_number", "…is not finite…"),
    ("<lora:a:1e999>", "bad_number", "…is not finite…"),
    (
        "<lora:a:1:1:0>",
        "bad_number",
        f'The rank (dyn) "0" in "<lora:a:1:1:0>" would leave nothing of the network, {OUT}; …',
    ),
    ("<lora:a:dyn=-1>", "bad_number", "…would leave nothing of the network…"),
    ("<lora:a:dyn=16.0>", "bad_number", "…is not a whole number, so the tag was left out; write 16."),
    ("<lora:a:dyn=16.5>", "bad_number", "…write a number such as 16."),
    ("<lora:a:dyn=-2.0>", "bad_number", "…write a number such as 16."),
    ("<lora:a:dyn=inf>", "bad_number", "…write a number such as 16."),
    ("<lora:a:dyn=auto>", "bad_number", '…"auto"…write a number such as 16.'),
    ("<lora:a:dyn=" + "9" * 5000 + ".5>", "bad_number", "…write a number such as 16."),
    ("<lora:a:0@0,1@0.5>", "unsupported", '…"0@0,1@0.5"…is a schedule over the steps, which is not supported yet…'),
    ("<lora:a:1:0~0;1~0.5>", "unsupported", "…is a schedule over the steps…"),
    ("<lora:a:" + ",".join("1" * 17) + ">", "unsupported", "…is a list of block weights, which is not supported yet…"),
    (
        "<lora:a:1\na cat looking -> right",
        "unclosed",
        "The tag \"<lora:a:1 a cat looking ->\" is not closed with '>', so it was left out.",
    ),
    ("<lora:" + "x" * 10_000 + ">", "name_too_long", "…has 10000 characters; no file is called so…"),
    ("<lora:a:" + "z" * 10_000 + ">", "bad_number", '…z…" in …is not a number…'),
    ("<lora:a:" + "1" * 10_000 + ">", "bad_number", "…is not finite…"),
]

# text that is no tag of ours, though it was probably meant as one: it stays in the prompt
LOOKALIKES = [
    ("<lora:>", "missing_name", f'The tag "<lora:>" names no network; {WRITE}'),
    ("<lora>", "missing_name", f'The tag "<lora>" names no network; {WRITE}'),
    ("<lora", "unclosed", "The tag \"<lora\" is not closed with '>', so it was left out."),
    ("<lora:", "unclosed", "The tag \"<lora:\" is not closed with '>', so it was left out."),
    ("<lora:a:1", "unclosed", "The tag \"<lora:a:1\" is not closed with '>', so it was left out."),
    ("<lora:a:1, a cat, best quality", "unclosed", '…"<lora:a:1, a cat, best quality" is not closed…'),
    ("<LORA:a:1", "unclosed", "…is not closed…"),
    ("<Lora:a:1>", "unknown_kind", 'The tag "<Lora:a:1>" must begin in small letters; write "<lora:a:1>".'),
    ("<LYCO:a>", "unknown_kind", '…write "<lyco:a>".'),
    ("<lycoris:a:1>", "unknown_kind", 'The tag "<lycoris:a:1>" is not for networks; write "<lora:a:1>".'),
    ("<locon:a:1>", "unknown_kind", '…write "<lora:a:1>".'),
    ("<LoHa:a>", "unknown_kind", '…write "<lora:a>".'),
    ("<loras:a:1>", "unknown_kind", '…write "<lora:a:1>".'),
    ("< lora:a:1>", "malformed", 'The tag "< lora:a:1>" has a blank beside its kind; write "<lora:a:1>".'),
    ("<lora :a:1>", "malformed", "…has a blank beside its kind…"),
    ("<\nlora:a:1>", "malformed", "…has a blank beside its kind…"),
    ("<lora a 1>", "malformed", 'The tag "<lora a 1>" has no colon after its kind; write <lora:name:0.8>.'),
    ("<lora=a>", "malformed", "…has no colon after its kind…"),
    ("<lora：a：1>", "wide_colon", 'The tag "<lora：a：1>" has a wide colon; did you mean \':\'? Write "<lora:a:1>".'),
    ("<lora：a:1>", "wide_colon", '…Write "<lora:a:1>".'),
    ("＜lora:a:1＞", "malformed", "The tag that begins with \"＜lora:\" has no plain '<'; write <lora:name:0.8>."),
    ("〈lora：a：1〉", "malformed", "…has no plain '<'…"),
    ("&lt;lora:a:1&gt;", "malformed", "…\"&lt;lora:\" has no plain '<'…"),
]

REMARKED = [
    ("<lora:a:1:lbw=ALL>", "unknown_argument", '"lbw=" in "<lora:a:1:lbw=ALL>" is not supported yet and was ignored.'),
    ("<lora:a:1:start=3>", "unknown_argument", '…"start="…'),
    ("<lora:a:1:step=1-5>", "unknown_argument", '…"step="…'),
    ("<lora:a:1:hr=0.5>", "unknown_argument", '…"hr="…'),
    ("<lora:a:1:weight=2>", "unknown_argument", '…"weight="…'),
    ("<lora:a:1:=2>", "unknown_argument", '"="…'),
    ("<lora:a:1:TE=0.5>", "unknown_argument", "…was ignored; write te= in small letters."),
    (
        "<lora:a:1:1:8:9>",
        "too_many_arguments",
        '"9" in "<lora:a:1:1:8:9>" is beyond the four values of a tag and was ignored.',
    ),
    ("<lora:a:1:1:8:x:y>", "too_many_arguments", '"x:y" in …'),
    ("<lora:a:te=3:te=1>", "duplicate_argument", 'The tag "<lora:a:te=3:te=1>" has "te=" twice; the last one counts.'),
    ("<lora:a：0.8>", "wide_colon", "The name in \"<lora:a：0.8>\" holds a wide colon; did you mean ':'?"),
]


def matches(message: str, pattern: str) -> bool:
    """Whether the message is the pattern, where … at an end or inside stands for any text."""
    if "…" not in pattern:
        return message == pattern
    parts = pattern.split("…")
    if not message.startswith(parts[0]) or not message.endswith(parts[-1]):
        return False
    place = 0
    for part in parts:
        place = message.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def is_a_sentence(message: str) -> bool:
    return (
        message[0] in '"ABCDEFGHIJKLMNOPQRSTUVWXYZ'
        and message[-1] in ".?"
        and message.isprintable()
        and len(message) < 300
    )


def values(request: AdapterRequest) -> tuple[str, float, float, int | None]:
    return request.name, request.te_multiplier, request.unet_multiplier, request.dyn_dim


def test_there_are_enough_odd_tags() -> None:
    assert len(REFUSED) + len(LOOKALIKES) >= 60


@pytest.mark.parametrize(("tag", "expected"), UNDERSTOOD)
def test_a_good_tag_is_understood_without_a_remark(tag: str, expected: tuple[str, float, float, int | None]) -> None:
    parsed = parse_prompt(f"a cat {tag} in ink")
    assert [values(request) for request in parsed.requests] == [expected]
    assert [request.tag for request in parsed.requests] == [tag]
    assert parsed.text == "a cat  in ink"
    assert parsed.issues == ()


@pytest.mark.parametrize(("tag", "kind", "sentence"), REFUSED, ids=lambda value: value[:40])
def test_a_bad_tag_gives_a_sentence_and_spoils_only_itself(tag: str, kind: str, sentence: str) -> None:
    parsed = parse_prompt(f"<lora:first:0.5> {tag} <lora:last:0.25>")
    assert [request.name for request in parsed.requests] == ["first", "last"]
    [issue] = parsed.issues
    assert issue.kind == kind
    assert matches(issue.message, sentence), issue.message
    assert is_a_sentence(issue.message), issue.message
    assert issue.tag == tag[: tag.index(">") + 1]
    assert parsed.text == f" {tag[tag.index('>') + 1 :]} "


@pytest.mark.parametrize(("text", "kind", "sentence"), LOOKALIKES, ids=lambda value: value[:40])
def test_what_only_looks_like_a_tag_stays_in_the_prompt_with_a_sentence(text: str, kind: str, sentence: str) -> None:
    parsed = parse_prompt(f"<lora:first>{text}<lora:last>")
    assert [request.name for request in parsed.requests] == ["first", "last"]
    assert parsed.text == text
    [issue] = parsed.issues
    assert issue.kind == kind
    assert matches(issue.message, sentence), issue.message
    assert is_a_sentence(issue.message), issue.message


@pytest.mark.parametrize(("tag", "kind", "sentence"), REMARKED)
def test_an_odd_tag_is_used_with_a_remark(tag: str, kind: str, sentence: str) -> None:
    parsed = parse_prompt(tag)
    assert [request.te_multiplier for request in parsed.requests] == [1.0]
    [issue] = parsed.issues
    assert issue.kind == kind
    assert matches(issue.message, sentence), issue.message
    assert is_a_sentence(issue.message), issue.message


@pytest.mark.parametrize(
    "text", ["a cat", "", "1 < 2 > 0", "<3", "a <b:c> d", "<hypernet:x:1>", "<lorax:a>", "<br>", "x<y:z"]
)
def test_text_without_our_tags_is_left_alone(text: str) -> None:
    parsed = parse_prompt(text)
    assert (parsed.text, parsed.requests, parsed.issues) == (text, (), ())


def test_tags_of_other_kinds_stay_in_the_text() -> None:
    parsed = parse_prompt("<hypernet:h:1> <lora:a:1> <other:b>")
    assert parsed.text == "<hypernet:h:1>  <other:b>"
    assert [request.name for request in parsed.requests] == ["a"]


def test_requests_are_in_prompt_order_whatever_their_kind() -> None:
    parsed = parse_prompt("<lyco:c><lora:a><lyco:b>")
    assert [request.name for request in parsed.requests] == ["c", "a", "b"]


def test_issues_are_in_prompt_order() -> None:
    parsed = parse_prompt("<lora:a:x> &lt;lora:b&gt; <lora> <lora:c:y>")
    assert [issue.kind for issue in parsed.issues] == ["bad_number", "malformed", "missing_name", "bad_number"]


@pytest.mark.parametrize("opening", ["<lora:a:1 ", "<lora:a ", "<hypernet:a:1 ", "<lora:", "<"])
def test_a_tag_that_is_not_closed_does_not_take_the_next_one_with_it(opening: str) -> None:
    parsed = parse_prompt(f"{opening}<lora:b:0.5>")
    assert [values(request) for request in parsed.requests] == [("b", 0.5, 0.5, None)]
    assert parsed.text == opening
    assert [issue.kind for issue in parsed.issues] == (["unclosed"] if "lora" in opening else [])


def test_every_fault_of_a_tag_is_named() -> None:
    parsed = parse_prompt("<lora:a:x:y:z:w:q=1>")
    assert parsed.requests == ()
    assert [issue.kind for issue in parsed.issues] == [
        "too_many_arguments", "unknown_argument", "bad_number", "bad_number", "bad_number",
    ]  # fmt: skip


def test_the_same_name_twice_stays_twice_with_its_own_weights_and_one_remark() -> None:
    parsed = parse_prompt("<lora:a:1> <lyco: a :0.5> <lora:a:2> <lora:b>")
    assert [values(request)[:2] for request in parsed.requests] == [("a", 1.0), (" a ", 0.5), ("a", 2.0), ("b", 1.0)]
    assert [(issue.kind, issue.message) for issue in parsed.issues] == [
        ("duplicate", '"a" is named 3 times in the prompt; the effects add up.')
    ]


def test_a_host_can_ask_for_duplicates_of_its_own_list() -> None:
    request = AdapterRequest("a", 1.0, 1.0, None, "<lora:a>")
    assert duplicate_issues([request]) == []
    assert [issue.kind for issue in duplicate_issues([request, request])] == ["duplicate"]


def test_a_request_can_not_be_changed() -> None:
    [request] = parse_prompt("<lora:a>").requests
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.name = "b"  # type: ignore[misc]


@given(st.text(alphabet=st.sampled_from("<>:=：＜ lora\n,.1@ayc~-\0😀"), max_size=60))
def test_no_prompt_makes_the_parser_fail(prompt: str) -> None:
    parsed = parse_prompt(prompt)
    assert all(is_a_sentence(issue.message) for issue in parsed.issues)
    for request in parsed.requests:
        assert request.tag in prompt
        assert request.name.strip()
        assert math.isfinite(request.te_multiplier)
        assert math.isfinite(request.unet_multiplier)
        assert request.dyn_dim is None or request.dyn_dim > 0


@pytest.mark.parametrize("unit", ["<lora", "<lora:a ", "<", "< ", "<lora:a:1>", "&lt;lora:", "<a:"])
def test_a_prompt_of_a_hundred_thousand_characters_is_parsed_at_once(unit: str) -> None:
    prompt = unit * (100_000 // len(unit))
    begin = time.perf_counter()
    parse_prompt(prompt)
    assert time.perf_counter() - begin < 5
