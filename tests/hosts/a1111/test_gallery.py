"""The library in a WebUI's pages: its routes answer its own pages, and it knows the model and what was used."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest

from a1111_replay import WebUI

WAIT = 20.0
TOKEN = "X-LycoPatch-Token"


@pytest.fixture
def webui(install: Callable[..., WebUI], version: str) -> Iterator[WebUI]:
    with install(version) as webui:
        yield webui.start()


def token_of(webui: WebUI) -> str:
    """What a browser finds in the page."""
    (facts,) = re.findall(r'data-lycopatch="([^"]*)"', webui.cards("txt2img", refresh=True)["Lora"])
    return json.loads(unescape(facts))["token"]


def networks(webui: WebUI, token: str = "", **wanted: object) -> Any:
    answer = webui.client().post("/lycopatch/ui/networks", json=wanted, headers={TOKEN: token or token_of(webui)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_pages_of_a_webui_list_its_networks(webui: WebUI) -> None:
    until(lambda: not networks(webui)["scanning"]["running"])
    found = networks(webui, prompt="a cat <lora:ink:1>")
    assert [(row["name"], row["chosen"]) for row in found["rows"]] == [("ink", True)]
    assert found["loaded"]["title"] == "alpha"
    assert webui.errors == []


def test_the_tab_and_both_pages_have_the_same_token_and_nobody_else_has(webui: WebUI) -> None:
    tokens = {json.loads(unescape(facts))["token"] for facts in facts_in_all_pages(webui)}
    assert tokens == {token_of(webui)}
    for wrong in ("", "x" * 32):
        refused = webui.client().post("/lycopatch/ui/networks", json={}, headers={TOKEN: wrong})
        assert refused.status_code == 403
        assert "reload it" in refused.json()["error"]


def facts_in_all_pages(webui: WebUI) -> list[str]:
    pages = [webui.cards(tabname)["Lora"] for tabname in ("txt2img", "img2img")]
    pages += [str(component.value) for component in webui.gradio.components if hasattr(component, "value")]
    return re.findall(r'data-lycopatch="([^"]*)"', "\n".join(pages))


def test_after_reload_ui_there_is_a_new_token_and_the_old_library_is_closed(
    webui: WebUI, running: Callable[[WebUI], Any]
) -> None:
    before, old = token_of(webui), running(webui).library
    until(lambda: not old.reading.running)
    webui.reload_ui()
    assert token_of(webui) != before
    assert webui.client().post("/lycopatch/ui/networks", json={}, headers={TOKEN: before}).status_code == 403
    assert networks(webui)["total"] == 1
    until(lambda: not running(webui).library.reading.running)
    assert not [thread for thread in threading.enumerate() if thread.name == "lycopatch-library"]
    assert webui.errors == []


def test_the_index_and_the_users_own_data_are_in_the_cache_folder(webui: WebUI) -> None:
    networks(webui)
    folder = webui.data / "cache" / "lycopatch"
    assert {"index.sqlite3", "user.sqlite3"} <= {file.name for file in folder.iterdir()}


def test_a_network_is_counted_once_for_each_picture(webui: WebUI) -> None:
    def used() -> int:
        return networks(webui)["rows"][0]["used"]

    webui.txt2img("<lora:ink:1>", n_iter=2)
    until(lambda: used() == 2)
    webui.txt2img("<lora:ink:1>", enable_hr=True, denoising_strength=0.5, hr_prompt="<lora:ink:0.5>")
    until(lambda: used() == 3)
    webui.txt2img("<lora:nothing of this name:1>")
    webui.txt2img("no network")
    assert used() == 3
    assert webui.errors == []


def test_without_a_page_the_routes_are_there_and_no_model_is_loaded_for_them(install: Callable[..., WebUI]) -> None:
    with install("1.10", api_only=True, model_loads="never") as webui:
        webui.start()
        assert webui.client().post("/lycopatch/ui/networks", json={}).status_code == 403
        assert webui.model is None


def test_details_say_what_a_network_is_to_the_loaded_model_and_leave_it_alone(
    webui: WebUI, weights: Callable[[WebUI], Any]
) -> None:
    before = weights(webui)
    token = token_of(webui)
    until(lambda: not networks(webui, token)["scanning"]["running"])
    (row,) = networks(webui, token)["rows"]
    details = webui.client().get(f"/lycopatch/ui/networks/{row['id']}", headers={TOKEN: token}).json()
    assert details["matched"]["applied"] == 2 * 3
    after = weights(webui)
    assert all(after[name].equal(value) for name, value in before.items())
    assert webui.errors == []
