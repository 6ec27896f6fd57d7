"""Inside a real WebUI without pages (``--nowebui``), where some events never come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webui.made_networks import TAGS
from webui.process import PROMPT, WebUI

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("as_it_was")]

INK = TAGS[0]


@pytest.fixture(scope="module")
def webui(start, reference, right_weights) -> Iterator[WebUI]:
    with start("without pages", "--nowebui") as running:
        yield running


def test_both_tags_work(webui, first):
    plain = webui.generate(PROMPT)
    picture = webui.generate(PROMPT + INK)
    first.holds(INK)
    assert webui.generate(f"{PROMPT}<lyco:ink:1>").pixels == picture.pixels
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_our_settings_can_be_changed_and_count(webui, first, reference):
    webui.set(lycopatch_enabled=False)
    # WebUI 1.5 does not start its built-in loader without pages
    theirs = INK if "lora" in webui.state()["registry"] else ""
    assert webui.generate(PROMPT + INK).pixels == reference.pictures[theirs].pixels
    webui.set(lycopatch_enabled=True)
    webui.generate(PROMPT + INK)
    first.holds(INK)


def test_our_routes_answer(webui):
    webui.generate(PROMPT + INK)
    assert webui.get("/lycopatch/v1/networks")["total"] >= 5
    assert webui.get("/lycopatch/v1/report")["tags"]


def test_nothing_of_ours_went_wrong_in_all_this(webui):
    assert not webui.errors_of_ours()
