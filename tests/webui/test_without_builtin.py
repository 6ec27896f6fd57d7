"""Inside a real WebUI whose built-in Lora extension the user turned off: everything has to come from us."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webui.made_networks import HOSTILE, TAGS
from webui.process import PROMPT, Refused, WebUI

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("as_it_was")]

INK = TAGS[0]


@pytest.fixture(scope="module")
def webui(start, reference, right_weights) -> Iterator[WebUI]:
    with start("without the built-in", disabled_extensions=["Lora"]) as running:
        yield running


def test_pictures_and_weights_are_those_with_the_builtin(webui, reference, first):
    assert "networks" not in webui.state()["available_networks"]
    plain = webui.generate(PROMPT)
    assert plain.pixels == reference.pictures[""].pixels
    picture = webui.generate(PROMPT + INK)
    first.holds(INK)
    assert picture.distance(reference.pictures[INK]) < 1
    assert picture.hashes() == reference.pictures[INK].hashes()
    assert webui.generate(f"{PROMPT}<lyco:ink:1>").pixels == picture.pixels
    assert webui.generate(PROMPT).pixels == plain.pixels
    first.holds("")


def test_turned_off_nobody_handles_tags_and_nothing_fails(webui, first):
    plain = webui.generate(PROMPT)
    webui.generate(PROMPT + INK)
    webui.set(lycopatch_enabled=False)
    first.holds("")
    state = webui.state()
    assert not {"lora", "lyco"} & {*state["registry"], *state["aliases"]}
    assert state["hooks"] == 0
    assert webui.generate(PROMPT + INK).pixels == plain.pixels
    webui.set(lycopatch_enabled=True)
    webui.generate(PROMPT + INK)
    first.holds(INK)
    webui.generate(PROMPT)


def test_the_routes_of_the_builtin_are_there(webui):
    networks = webui.get("/sdapi/v1/loras")
    assert {network["name"] for network in networks} >= {"ink", "kron", "magnitude", "charm"}
    ink = next(network for network in networks if network["name"] == "ink")
    assert ink.keys() == {"name", "alias", "path", "metadata"}
    assert ink["alias"] == "inkwash"
    new = webui.installation.networks / "late.safetensors"
    new.write_bytes((webui.installation.networks / "ink.safetensors").read_bytes())
    try:
        webui.post("/sdapi/v1/refresh-loras")
        assert "late" in {network["name"] for network in webui.get("/sdapi/v1/loras")}
    finally:
        new.unlink()
        webui.post("/sdapi/v1/refresh-loras")


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_each_network_has_a_card_and_none_of_them_brings_markup(webui, tab):
    for name in ("ink", "kron", "torn", "evil"):
        card = webui.get("/sd_extra_networks/get-single-card", page="lora", tabname=tab, name=name)["html"]
        assert name in card
        assert HOSTILE not in card
        assert "<img src=x" not in card


def test_previews_are_served_and_nothing_else(webui):
    networks = webui.installation.networks
    card = webui.get("/sd_extra_networks/get-single-card", page="lora", tabname="txt2img", name="ink")["html"]
    assert "thumb?filename=" in card
    assert webui.get_bytes("/sd_extra_networks/thumb", filename=networks / "ink.preview.png").startswith(b"\x89PNG")
    for forbidden in (networks / "ink.safetensors", webui.installation.data / "config.json"):
        with pytest.raises(Refused):
            webui.get_bytes("/sd_extra_networks/thumb", filename=forbidden)


def test_reload_ui_keeps_everything_right(webui, first):
    webui.generate(PROMPT + INK)
    before = webui.state()
    webui.reload()
    after = webui.state()
    for what in ("registry", "pages", "callbacks", "model"):
        assert after[what] == before[what], what
    first.holds("")
    webui.generate(PROMPT + INK)
    first.holds(INK)
    assert webui.state()["hooks"] == before["hooks"]


def test_nothing_of_ours_went_wrong_in_all_this(webui):
    assert not webui.errors_of_ours()
