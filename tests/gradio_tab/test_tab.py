"""The tab inside another page, as in a WebUI, served by a real gradio; its buttons are pressed over HTTP."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.report import Report, TagReport
from lycopatch.ui.mount import Mount, Target
from lycopatch.ui.networks import Networks
from lycopatch.ui.pages import Pages
from networks import write_network

pytestmark = [pytest.mark.gradio, pytest.mark.filterwarnings("error:::lycopatch")]

TOKEN = "t0ken"
LAYERS = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768)}


class Served:
    """The page with the tab in it, and somebody who presses its buttons."""

    def __init__(self, page: Any, tab: Any, opened: int) -> None:
        import gradio_client

        self.page, self.tab, self.opened = page, tab, opened
        self.config = page.get_config_file()
        self._client = gradio_client.Client(page.local_url, **_quiet(gradio_client.Client))

    def component(self, elem_id: str) -> dict[str, Any]:
        return next(each for each in self.config["components"] if each["props"].get("elem_id") == elem_id)

    def do(self, elem_id: str, event: str, *values: str) -> str:
        """What comes of an event of a component."""
        target = self.component(elem_id)["id"]
        for number, dependency in enumerate(self.config["dependencies"]):
            targets = dependency["targets"]
            named = [target, event] in [list(each) for each in targets if not isinstance(each, int)]
            if named or (target in targets and dependency["trigger"] == event):
                return self._client.predict(*values, fn_index=number)
        raise AssertionError(f"nothing happens on {event} of {elem_id}")


def _quiet(client: Any) -> dict[str, bool]:
    return {"verbose": False} if "verbose" in client.__init__.__code__.co_varnames else {}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from lycopatch.ui.tab import build_tab

    folder: Path = tmp_path_factory.mktemp("Lora")
    write_network(folder / "ink wash.safetensors", LAYERS, "lora", metadata={"ss_output_name": "<b>Ink</b>"})
    write_network(folder / "mist.safetensors", LAYERS, "loha")
    (folder / "cut.safetensors").write_bytes((folder / "mist.safetensors").read_bytes()[:3000])
    opened: list[Catalog] = []
    catalog = Catalog([folder])

    def open_catalog() -> Catalog:
        opened.append(catalog)
        return catalog

    tag = TagReport("<lora:mist:1>", "mist", layers_applied=1, layers_total=1)
    last = SimpleNamespace(report=Report([tag]), when=1.7e9, model="v1-5", bytes_held=0)
    pages = Pages(Networks(open_catalog), lambda: last, lambda: False, lambda: None)
    tab = build_tab(pages, Mount("a1111", TOKEN).html("tab", [Target("txt2img", "#prompt", "#negative")]))
    opened_by_building = len(opened)
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(), gr.TabItem("LycoPatch"):
        tab.render()
    page.queue()
    page.launch(prevent_thread_lock=True, quiet=True, show_error=True, server_name="127.0.0.1")
    yield Served(page, tab, opened_by_building)
    page.close()


def test_this_is_the_gradio_that_was_asked_for() -> None:
    import gradio

    assert gradio.__version__ == os.environ["GRADIO"]


def test_building_the_tab_reads_nothing(served: Served) -> None:
    assert served.opened == 0


def test_no_component_is_kept_in_the_webui_s_own_configuration(served: Served) -> None:
    assert all(each.do_not_save_to_config for each in served.tab.blocks.values())


def test_every_id_is_ours_and_there_once(served: Served) -> None:
    ids = [each["props"].get("elem_id") for each in served.config["components"]]
    ids = [each for each in ids if each]
    assert all(each.startswith("lycopatch_") for each in ids)
    assert len(set(ids)) == len(ids)


def test_the_script_finds_every_id_it_looks_for(served: Served) -> None:
    script = Path(__file__).resolve().parents[2] / "javascript" / "lycopatch.js"
    wanted = set(re.findall(r"\blycopatch_\w+", script.read_text(encoding="utf-8")))
    assert wanted == {"lycopatch_report", "lycopatch_report_refresh"}
    for elem_id in wanted:
        assert served.component(elem_id)


def test_the_library_s_place_reaches_the_browser_with_its_token(served: Served) -> None:
    place = served.component("lycopatch_library_html")["props"]["value"]
    (facts,) = re.findall(r'data-lycopatch="([^"]*)"', place)
    assert json.loads(html.unescape(facts))["token"] == TOKEN
    assert "They need JavaScript." in place


@pytest.mark.parametrize(("elem_id", "event"), [("lycopatch_name", "submit"), ("lycopatch_inspect", "click")])
def test_inspecting_shows_the_file(served: Served, elem_id: str, event: str) -> None:
    page = served.do(elem_id, event, "mist")
    assert "LoHa" in page
    assert "SHA-256" not in page
    assert "no network named" in served.do(elem_id, event, "mists of time")


def test_a_check_reads_the_whole_file(served: Served) -> None:
    page = served.do("lycopatch_check", "click", "mist")
    assert "SHA-256" in page
    assert "good" in page
    assert "the download is incomplete" in served.do("lycopatch_check", "click", "cut")


def test_the_report_shows_the_last_picture(served: Served) -> None:
    assert "1 of 1 layer" in served.do("lycopatch_report_refresh", "click")
