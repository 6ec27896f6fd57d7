"""What our script is told about the page it runs in."""

from __future__ import annotations

import json
import re
from html import unescape

from lycopatch.ui.mount import BASE, Mount, Target, new_token


def facts_of(container: str) -> dict[str, object]:
    (facts,) = re.findall(r'data-lycopatch="([^"]*)"', container)
    return json.loads(unescape(facts))


def test_the_container_says_where_the_routes_and_the_prompts_are() -> None:
    targets = [Target("txt2img", "#a textarea", "#b textarea"), Target("img2img", "#c > x", "#d")]
    container = Mount("a1111", "secret").html("tab", targets)
    assert facts_of(container) == {
        "base": BASE,
        "token": "secret",
        "host": "a1111",
        "place": "tab",
        "prompt": ["#a textarea", "#c > x"],
        "negative": ["#b textarea", "#d"],
        "targets": [
            {"title": "txt2img", "prompt": "#a textarea", "negative": "#b textarea"},
            {"title": "img2img", "prompt": "#c > x", "negative": "#d"},
        ],
        "language": "auto",
    }


def test_nothing_ends_the_attribute_too_early() -> None:
    container = Mount("demo", '"><img src=x onerror=alert(1)>').html("page", [])
    assert "<img" not in container
    assert facts_of(container)["token"] == '"><img src=x onerror=alert(1)>'


def test_without_the_script_a_sentence_is_there() -> None:
    assert "They need JavaScript." in Mount("demo", "").html("page", [])


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 32
