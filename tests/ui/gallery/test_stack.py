"""Rows of a prompt and changes of its text: what was not meant stays as it was typed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lycopatch.engine.errors import AdapterNotFound
from lycopatch.engine.request import ParsedPrompt, parse_prompt
from lycopatch.ui.gallery.stack import MOST_ROWS, edited, rows, shortest, stack
from malformed_tags import CASES

SHELF: Mapping[str, dict[str, Any]] = {
    "ink": {
        "id": "1" * 16,
        "label": "LoRA r8",
        "family_title": "Stable Diffusion 1",
        "fit": "yes",
        "reason": "",
        "preview": {"kind": "image", "thumb": "/lycopatch/ui/thumb/1", "full": "x"},
        "weight": 0.7,
        "weight_range": [0.2, 0.9],
    },
    "sea": {"id": "2" * 16, "label": "LoKr f8", "fit": "no", "reason": "It was made for SDXL.", "preview": None},
}


def find(name: str) -> Mapping[str, Any]:
    name = {"Inkwash": "ink"}.get(name.strip(), name.strip())
    if name not in SHELF:
        raise AdapterNotFound(name, ["ink"])
    return SHELF[name]


# --- changes ---------------------------------------------------------------------------------------------------------

CHANGES = [
    # prompt, action, value, the prompt afterwards
    ("a <lora:ink> b", "weight", 0.8, "a <lora:ink:0.8> b"),
    ("a <lyco:ink:0.80> b", "weight", 0.5, "a <lyco:ink:0.5> b"),
    ("a <lora:ink:0.80> b", "weight", 0.8, "a <lora:ink:0.80> b"),
    ("<lora:ink>", "weight", 1, "<lora:ink>"),
    ("<lora: ink : 0.8 >", "weight", 1, "<lora: ink : 1 >"),
    ("<lora:ink:te = 0.8 >", "weight", -1, "<lora:ink:te = -1 >"),
    ("<lora:ink:0.8:1>", "weight", 0, "<lora:ink:0:0>"),
    ("<lora:ink:0.8:1:16>", "weight", 0.25, "<lora:ink:0.25:0.25:16>"),
    ("<lora:ink:unet=0.5>", "weight", 0.7, "<lora:ink:0.7:unet=0.7>"),
    ("<lora:te=0.5:ink>", "weight", 0.7, "<lora:te=0.7:ink>"),
    ("<lora:unet=0.5:ink>", "te", 0.7, "<lora:unet=0.5:ink:0.7>"),
    ("<lora:ink:0.3:te=0.5>", "weight", 0.7, "<lora:ink:0.3:te=0.7>"),
    ("<lora:ink:te=0.5:te=0.6>", "weight", 0.7, "<lora:ink:te=0.5:te=0.7>"),
    ("<lora:a=b>", "weight", 0.7, "<lora:a=b:0.7>"),
    ("<lora:ink:dyn=8>", "weight", 0.7, "<lora:ink:0.7:dyn=8>"),
    ("<lora:ink:0.8>", "te", 0.5, "<lora:ink:0.5:0.8>"),
    ("<lora:ink>", "te", 0.5, "<lora:ink:0.5:1>"),
    ("<lora:ink:te=0.8>", "te", 0.5, "<lora:ink:te=0.5:unet=0.8>"),
    ("<lora:ink:0.8>", "unet", 1, "<lora:ink:0.8:1>"),
    ("<lora:ink>", "unet", 0.5, "<lora:ink:1:0.5>"),
    ("<lora:ink:dyn=8>", "unet", 0.5, "<lora:ink:1:0.5:dyn=8>"),
    ("<lora:ink:0.3:te=0.8>", "unet", 1, "<lora:ink:0.3:te=0.8:unet=1>"),
    ("<lora:ink:0.8>", "split", None, "<lora:ink:0.8:0.8>"),
    ("<lora:ink>", "split", None, "<lora:ink:1:1>"),
    ("<lora:ink:0.8>", "split", 1, "<lora:ink:0.8:1>"),
    ("<lora:ink:0.8:1>", "join", None, "<lora:ink:0.8>"),
    ("<lora:ink:0.8: 1 >", "join", 0.5, "<lora:ink:0.5>"),
    ("<lora:ink:0.8:unet=1:dyn=4>", "join", None, "<lora:ink:0.8:dyn=4>"),
    ("<lora:unet=1:unet=2:ink>", "join", None, "<lora:ink>"),
    ("<lora:ink:unet=0.5>", "join", 0.7, "<lora:ink:0.7>"),
    ("<lora:ink:0.8:1:16>", "join", None, "<lora:ink:0.8:0.8:16>"),
    ("<lora:ink:0.8:1:16:unet=0.5>", "join", None, "<lora:ink:0.8:0.8:16>"),
    ("<lora:ink:0.8:abc:16:unet=0.5>", "join", None, "<lora:ink:0.8:0.8:16>"),
    ("<lora:ink:0.8:0.8>", "join", None, "<lora:ink:0.8>"),
    ("a <lora:ink> b", "remove", None, "a b"),
    ("a, <lora:ink>, b", "remove", None, "a,, b"),
    ("<lora:ink> b", "remove", None, "b"),
    ("a\n<lora:ink> b", "remove", None, "a\nb"),
    ("a<lora:ink:abc>b", "remove", None, "ab"),
    ("<lora:ink:0.8> <lora:sea>", "solo", None, "<lora:ink:0.8> <lora:sea:0>"),
    ("<lora:ink:0> <lora:sea:te=1:unet=2> <lora:x:y>", "solo", 1, "<lora:ink:1> <lora:sea:te=0:unet=0> <lora:x:y>"),
    ("((<lora:ink:0.8>:1.2) BREAK x AND <hypernet:h:1>", "weight", 1, "((<lora:ink:1>:1.2) BREAK x AND <hypernet:h:1>"),
]


@pytest.mark.parametrize(("prompt", "action", "value", "after"), CHANGES)
def test_a_change_writes_nothing_but_its_numbers(prompt: str, action: str, value: float | None, after: str) -> None:
    assert edited(prompt, 0, action, value) == after


REFUSED = [
    ("a cat", 0, "weight", 1, "no such tag"),
    ("<lora:ink>", 1, "weight", 1, "no such tag"),
    ("<lora:ink>", -1, "remove", None, "no such tag"),
    ("<lora:ink>", 0, "explode", 1, 'no change called "explode"'),
    ("<lora:ink>", 0, "weight", None, "A number is missing"),
    ("<lora:ink>", 0, "te", float("nan"), "must be a number"),
    ("<lora:ink>", 0, "unet", True, "must be a number"),
    ("<lora:ink>", 0, "weight", "1", "must be a number"),
    ("<lora:ink>", 0, "weight", 1e9, "far too large"),
    ("<lora:ink:1\na cat -> dog", 0, "weight", 1, "correct it by hand, or remove it"),
    ("<lora::1>", 0, "join", None, "correct it by hand"),
    ("<lora:a<b>", 0, "weight", 0.5, "without changing what else"),
    ("<lora:a<lora:ink>b>", 0, "remove", None, "would be another tag"),
]


@pytest.mark.parametrize(("prompt", "index", "action", "value", "why"), REFUSED)
def test_a_change_that_can_not_be_made_is_refused_with_a_sentence(
    prompt: str, index: int, action: str, value: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        edited(prompt, index, action, value)


@given(st.floats(-1e6, 1e6))
def test_a_number_is_written_as_short_as_reads_back(number: float) -> None:
    assert float(shortest(number)) == number
    assert len(shortest(number)) <= len(repr(number))
    assert (shortest(0.8), shortest(1), shortest(-0.0), shortest(-2.50)) == ("0.8", "1", "0", "-2.5")


# --- properties ------------------------------------------------------------------------------------------------------

WEIGHTS = st.floats(-1e6, 1e6).map(lambda number: number + 0.0) | st.sampled_from([0.0, 1.0, 0.8, -1.0, 0.25])
NAMES = st.sampled_from(
    ["ink", " ink ", "a=b", "水墨 (v2)", "sub/dir\\x.v1", 'it\'s "x"', "&amp;", "a<b", "ink=", "😀"]
)
BLANKS = st.sampled_from(["", "", " ", "\t", "\n"])


@st.composite
def tags(draw: st.DrawFn) -> str:
    def number() -> str:
        text = draw(st.sampled_from(["0.8", ".5", "1", "0.80", "1e-1", "-2", "0", "abc", "", "0,8"]))
        return draw(BLANKS) + text + draw(BLANKS)

    kind = draw(st.sampled_from(["lora", "lora", "lyco", "hypernet", "LORA", "lora "]))
    positional = [draw(NAMES)] + [number() for _ in range(draw(st.integers(0, 2)))]
    named = draw(st.lists(st.sampled_from(["te", "unet", "dyn", "te ", "x"]), max_size=3))
    values = [f"{key}={'4' if key == 'dyn' else number()}" for key in named]
    if draw(st.integers(0, 3)) == 0:
        positional = [draw(NAMES), "0.5", "0.6", "16"]
    items = [*positional, *values]
    if draw(st.booleans()):
        items = draw(st.permutations(items))
    return f"<{kind}:{':'.join(items)}" + draw(st.sampled_from([">", ">", ">", ">", ""]))


PIECES = st.one_of(
    tags(),
    st.sampled_from(
        ["a cat, ", "(ink:1.2) ", "[a|b] ", " BREAK ", " AND ", "\n", "<", ">", "<lo", "ra:x>", "&lt;lora:", ":"]
    ),
    st.text(max_size=8),
)
PROMPTS = st.lists(PIECES, max_size=8).map("".join)
ACTIONS = st.sampled_from(["weight", "te", "unet", "split", "join", "solo", "remove"])


def spans(parsed: ParsedPrompt) -> list[tuple[int, int]]:
    return [(tag.start, tag.end) for tag in parsed.tags]


@given(PROMPTS)
def test_the_tags_of_a_prompt_and_its_text_are_the_whole_prompt(prompt: str) -> None:
    parsed = parse_prompt(prompt)
    rest, done = "", 0
    for start, end in spans(parsed):
        rest, done = rest + prompt[done:start], end
    assert rest + prompt[done:] == parsed.text
    assert [tag.request for tag in parsed.tags if tag.request] == list(parsed.requests)
    assert all(tag.request is None or tag.request.tag == prompt[tag.start : tag.end] for tag in parsed.tags)
    for tag in parsed.tags:
        inside = ":".join(prompt[each.start : each.end] for each in tag.arguments)
        assert prompt[tag.start : tag.end].endswith(f":{inside}>")


@given(PROMPTS, st.data())
def test_whatever_is_changed_everything_outside_the_tag_stays(prompt: str, data: st.DataObject) -> None:
    before = parse_prompt(prompt)
    assume(before.tags)
    index = data.draw(st.integers(0, len(before.tags) - 1))
    action, value = data.draw(ACTIONS.filter(lambda each: each != "solo")), data.draw(WEIGHTS | st.none())
    try:
        text = edited(prompt, index, action, value)
    except ValueError:
        return
    start, end = spans(before)[index]
    if action == "remove":
        left, right = prompt[:start], prompt[end:]
        assert text in (left + right, left[:-1] + right, left + right[1:])
        assert len(left + right) - len(text) in (0, 1)
        assert len(parse_prompt(text).tags) == len(before.tags) - 1
        return
    assert text.startswith(prompt[:start])
    assert text.endswith(prompt[end:])
    after = parse_prompt(text)
    assert len(after.tags) == len(before.tags)
    old, new = before.tags[index].request, after.tags[index].request
    assert old is not None
    assert new is not None
    assert (new.name, new.dyn_dim) == (old.name, old.dyn_dim)
    assert text[start:].partition(":")[0] == prompt[start:].partition(":")[0]
    wanted = {
        "weight": (value, value),
        "te": (value, old.unet_multiplier),
        "unet": (old.te_multiplier, value),
        "split": (old.te_multiplier, old.unet_multiplier if value is None else value),
        "join": (old.te_multiplier if value is None else value,) * 2,
    }[action]
    assert (new.te_multiplier, new.unet_multiplier) == wanted


@given(PROMPTS, PROMPTS, NAMES, WEIGHTS, WEIGHTS, st.sampled_from(["", ":dyn=4", ":x=1", "\n"]))
def test_a_weight_that_is_set_back_gives_the_same_text(
    left: str, right: str, name: str, first: float, second: float, more: str
) -> None:
    """Where a number was written, and as short as it can be."""
    tag = f"<lora:{name}:{shortest(first)}{more}>"
    prompt = f"{left}{tag}{right}"
    places = [prompt[start:end] for start, end in spans(parse_prompt(prompt))]
    assume(tag in places)
    index = places.index(tag)
    assert edited(edited(prompt, index, "weight", second), index, "weight", first) == prompt
    assert edited(edited(prompt, index, "split", second), index, "join") == prompt
    assert shortest(second) in edited(prompt, index, "weight", second)


@given(PROMPTS, st.data())
def test_solo_leaves_one_network(prompt: str, data: st.DataObject) -> None:
    before = parse_prompt(prompt)
    assume(before.tags)
    index = data.draw(st.integers(0, len(before.tags) - 1))
    try:
        after = parse_prompt(edited(prompt, index, "solo"))
    except ValueError:
        return
    assert after.text == before.text
    for number, (old, new) in enumerate(zip(before.tags, after.tags, strict=True)):
        if number == index or old.request is None:
            assert old.request == new.request
        else:
            assert new.request is not None
            assert new.request.te_multiplier == new.request.unet_multiplier == 0


@given(PROMPTS)
def test_there_is_a_row_for_each_tag_and_it_is_ready_for_json(prompt: str) -> None:
    found = rows(prompt, find)
    parsed = parse_prompt(prompt)
    assert [row["index"] for row in found] == list(range(len(parsed.tags)))
    assert json.loads(json.dumps(found).encode("utf-8")) == found
    for row, tag in zip(found, parsed.tags, strict=True):
        assert row["editable"] == (tag.request is not None)
        if tag.request:
            assert (row["te"], row["unet"]) == (tag.request.te_multiplier, tag.request.unet_multiplier)
            assert row["range"][0] <= min(row["te"], row["unet"]) <= max(row["te"], row["unet"]) <= row["range"][1]


def test_any_number_of_tags_is_changed_at_once() -> None:
    prompt = "<lora:ink>" * 3_000
    started = time.perf_counter()
    assert edited(prompt, 7, "solo") == "<lora:ink:0>" * 7 + "<lora:ink>" + "<lora:ink:0>" * 2_992
    assert time.perf_counter() - started < 5


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_tells_the_network_and_its_numbers() -> None:
    (row,) = rows("a <lyco: ink:0.5:0.75:dyn=4>", find)
    assert row == {
        "index": 0,
        "tag": "<lyco: ink:0.5:0.75:dyn=4>",
        "keyword": "lyco",
        "name": "ink",
        "id": "1" * 16,
        "label": "LoRA r8",
        "family_title": "Stable Diffusion 1",
        "fit": "yes",
        "reason": "",
        "te": 0.5,
        "unet": 0.75,
        "split": True,
        "dyn": 4,
        "weight": 0.7,
        "range": [0.2, 0.9],
        "off": False,
        "preview": "/lycopatch/ui/thumb/1",
        "editable": True,
        "issues": [],
    }


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:ink>", [0.2, 1.0]),
        ("<lora:ink:-3:4>", [-3.0, 4.0]),
        ("<lora:sea:0.5>", [-1.0, 2.0]),
        ("<lora:sea:2.5>", [-1.0, 2.5]),
    ],
)
def test_the_range_is_the_users_or_the_usual_one_and_holds_the_numbers(tag: str, expected: list[float]) -> None:
    assert rows(tag, find)[0]["range"] == expected


@pytest.mark.parametrize(
    ("tag", "split"),
    [
        ("<lora:ink>", False),
        ("<lora:ink:0.8>", False),
        ("<lora:ink:0.8:0.8>", True),
        ("<lora:ink:0.8:1>", True),
        ("<lora:ink:unet=1>", True),
        ("<lora:ink:0.8:0.8:16>", False),
        ("<lora:ink:0.8:1:16>", True),
        ("<lora:ink:0.8:unet=0.8:dyn=16>", True),
    ],
)
def test_a_row_is_split_when_two_weights_are_written(tag: str, split: bool) -> None:
    assert rows(tag, find)[0]["split"] is split


def test_a_network_is_off_when_it_does_nothing() -> None:
    assert [row["off"] for row in rows("<lora:ink:0><lora:sea:0:1><lora:sea:0:0><lora:x:y>", find)] == [
        True,
        False,
        True,
        False,
    ]


def test_what_is_wrong_with_a_row_is_said() -> None:
    prompt = "<lora:ink> <lora:Inkwash:0.5> <lora:sea> <lora:inc> <lora:ink:0,8> <lora:ink:1:1:1:1>"
    ink, again, sea, lost, damaged, long = rows(prompt, find)
    times = "This network is in the prompt 3 times; the effects add up."
    assert ink["issues"] == again["issues"] == [times]
    assert (sea["fit"], sea["issues"]) == ("no", ["It was made for SDXL."])
    assert (lost["fit"], lost["id"]) == ("missing", None)
    assert lost["issues"] == [lost["reason"]]
    assert 'Did you mean "ink"?' in lost["reason"]
    assert (damaged["fit"], damaged["te"], damaged["editable"]) == ("damaged", None, False)
    assert damaged["name"] == "ink:0,8"
    assert "write 0.8" in damaged["issues"][0]
    assert long["issues"] == ['"1" in "<lora:ink:1:1:1:1>" is beyond the four values of a tag and was ignored.', times]


def test_a_lost_network_twice_is_twice() -> None:
    first, second = rows("<lora:gone><lora: gone >", find)
    assert first["issues"][1] == second["issues"][1] == "This network is in the prompt 2 times; the effects add up."


def test_what_belongs_to_no_row_is_said_once() -> None:
    found = stack("<lora:ink:x> <lora :ink> <lora:sea><lora:sea>", "bad <lora:ink:0.5>", find)
    assert len(found["rows"]) == 3
    assert len(found["issues"]) == 2
    assert "blank beside its kind" in found["issues"][0]
    assert "The tag <lora:ink:0.5> stands in the negative prompt, where tags do nothing; move it." in found["issues"][1]


def test_too_many_rows_are_not_made_and_that_is_said() -> None:
    found = stack("<lora:ink>" * (MOST_ROWS + 3), "", find)
    assert len(found["rows"]) == MOST_ROWS
    assert found["issues"] == ["The prompt names 3 more networks, which are not listed here."]


def test_each_name_is_looked_up_once() -> None:
    asked = []

    def counting(name: str) -> Mapping[str, Any]:
        asked.append(name)
        return find(name)

    rows("<lora:ink><lyco:ink:2><lora:gone><lora:gone>", counting)
    assert sorted(asked) == ["gone", "ink"]


def test_every_malformed_tag_there_is_can_be_shown_and_removed() -> None:
    for prompt, _ in CASES:
        json.dumps(stack(prompt, "", find)).encode()
        for index in reversed(range(len(parse_prompt(prompt).tags))):
            prompt = edited(prompt, index, "remove")
        assert not parse_prompt(prompt).tags
