"""Who handles the tags: at the start, after "Reload UI", while others want them, and when we are turned off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from a1111_replay import WebUI

Weights = Callable[[WebUI], dict[str, torch.Tensor]]

PLAIN, LORA, LYCO = "a cat", "a cat <lora:ink:0.8>", "a cat <lyco:ink:0.8>"

LIKE_LORACTL = """
import sys
from modules import extra_networks, script_callbacks, scripts

class Control(scripts.Script):
    def title(self): return "control"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def process(self, p, *args):
        base = type(sys.modules["networks"].extra_network_lora)
        extra_networks.extra_network_registry["lora"] = type("LoraControl", (base,), {"__module__": "control"})()
"""

ANOTHER_LOADER = """
from modules import extra_networks, scripts

class Loader(extra_networks.ExtraNetwork):
    def activate(self, p, params_list): self.given = len(params_list)
    def deactivate(self, p): pass

class Control(scripts.Script):
    def title(self): return "loader"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def process(self, p, *args): extra_networks.extra_network_registry["lora"] = LOADER

LOADER = Loader("lora")
"""

LATE = """
from modules import extra_networks, script_callbacks
def before_ui():
    extra_networks.register_extra_network(extra_networks.ExtraNetwork("lyco"))
script_callbacks.on_before_ui(before_ui)
script_callbacks.callback_map["callbacks_before_ui"].sort(key=lambda each: "late" not in str(each.script))
"""


def extension(folder: Path, script: str) -> dict[str, Path]:
    """Another extension with one script, called so that it loads after ours."""
    (folder / "zz_late" / "scripts").mkdir(parents=True)
    (folder / "zz_late" / "scripts" / "late.py").write_text(script)
    return {"zz_late": folder / "zz_late"}


def assert_ours(webui: WebUI) -> None:
    assert type(webui.registry["lora"]).__name__ == "TagHandler"
    assert webui.registry["lyco"] is webui.registry["lora"]


def test_both_kinds_of_tag_are_ours_and_do_the_same(webui: WebUI) -> None:
    assert_ours(webui)
    plain, lora, lyco, again = (webui.txt2img(prompt).images[0] for prompt in (PLAIN, LORA, LYCO, PLAIN))
    assert not torch.equal(plain, lora)
    assert torch.equal(lora, lyco)
    assert torch.equal(plain, again)
    assert webui.errors == []


def test_the_tags_are_ours_without_a_page(install: Callable[..., WebUI], version: str, builtin_lora: bool) -> None:
    with install(version, builtin_lora=builtin_lora, api_only=True) as webui:
        webui.start()
        assert_ours(webui)
        assert not torch.equal(webui.txt2img(PLAIN).images[0], webui.txt2img(LORA).images[0])
        assert webui.errors == []


@pytest.mark.parametrize("model_loads", ["early", "late", "never"])
def test_it_does_not_matter_when_the_model_comes(install: Callable[..., WebUI], version: str, model_loads: str) -> None:
    with install(version, model_loads=model_loads) as webui:
        webui.start()
        tagged, plain = webui.txt2img(LORA).images[0], webui.txt2img(PLAIN).images[0]
        assert not torch.equal(plain, tagged)
        assert webui.errors == []


def test_with_the_data_elsewhere_nothing_is_different(install: Callable[..., WebUI], version: str) -> None:
    with install(version, data_dir_elsewhere=True) as webui:
        webui.start()
        assert_ours(webui)
        assert not torch.equal(webui.txt2img(PLAIN).images[0], webui.txt2img(LORA).images[0])
        assert webui.errors == []


def test_reload_ui_makes_a_new_handler_and_leaves_nothing_of_the_old(
    webui: WebUI, weights: Weights, running: Callable[[WebUI], Any]
) -> None:
    pristine = weights(webui)
    tagged = webui.txt2img(LORA).images[0]
    old, handler = running(webui), webui.registry["lora"]
    hooks = count_hooks(webui)
    webui.reload_ui()
    assert_ours(webui)
    assert webui.registry["lora"] is not handler
    assert running(webui) is not old
    assert same(weights(webui), pristine)
    assert torch.equal(webui.txt2img(LORA).images[0], tagged)
    assert count_hooks(webui) == hooks
    assert webui.errors == []


def test_turning_it_off_gives_back_tags_and_weights_at_once_and_turning_it_on_claims_them(
    webui: WebUI, builtin_lora: bool, weights: Weights
) -> None:
    pristine, ours = weights(webui), webui.txt2img(LORA).images[0]
    assert webui.set_option("lycopatch_enabled", False)
    assert same(weights(webui), pristine)
    assert "lyco" not in webui.registry
    if builtin_lora:
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        for prompt in (LORA, LYCO):
            assert torch.allclose(webui.txt2img(prompt).images[0], ours, atol=1e-4)
    else:
        assert "lora" not in webui.registry
    assert webui.set_option("lycopatch_enabled", True)
    assert_ours(webui)
    assert torch.equal(webui.txt2img(LORA).images[0], ours)
    webui.txt2img(PLAIN)
    assert same(weights(webui), pristine)
    assert webui.errors == []


def test_turned_off_in_the_settings_it_does_not_touch_tags_or_cards(
    install: Callable[..., WebUI], version: str, builtin_lora: bool
) -> None:
    with install(version, builtin_lora=builtin_lora, settings={"lycopatch_enabled": False}) as webui:
        webui.start()
        assert ("lora" in webui.registry) is builtin_lora
        assert "lyco" not in webui.registry
        assert [type(page).__name__ for page in networks_pages(webui)] == ["ExtraNetworksPageLora"] * builtin_lora
        assert webui.errors == []


def test_who_registers_after_us_while_the_webui_starts_does_not_keep_the_tag(
    install: Callable[..., WebUI], version: str, tmp_path: Path
) -> None:
    with install(version, extensions=extension(tmp_path, LATE)) as webui:
        webui.start()
        assert_ours(webui)
        webui.set_option("lycopatch_enabled", False)
        assert type(webui.registry["lyco"]).__name__ == "ExtraNetwork"


@pytest.mark.parametrize("version", ["1.6", "1.10"])
def test_for_an_extension_that_builds_on_the_built_in_we_stand_aside_and_say_so_once(
    install: Callable[..., WebUI],
    version: str,
    tmp_path: Path,
    weights: Weights,
    running: Callable[[WebUI], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with install(version, extensions=extension(tmp_path, LIKE_LORACTL)) as webui:
        webui.start()
        pristine = weights(webui)
        first, second = webui.txt2img(LORA), webui.txt2img(LORA)
        assert "Another extension (control.LoraControl) took over" in first.comments
        assert "LycoPatch stands aside" in running(webui).standing_aside
        assert "LycoPatch" not in second.comments
        assert torch.equal(first.images[0], second.images[0])
        assert not torch.equal(webui.txt2img(PLAIN).images[0], first.images[0])
        assert same(weights(webui), pristine)
        assert "lyco" not in webui.registry
        assert [record.getMessage() for record in caplog.records].count(running(webui).standing_aside) == 1
        assert webui.errors == []


@pytest.mark.parametrize("version", ["1.6", "1.10"])
def test_both_kinds_of_tag_in_the_prompt_that_makes_us_stand_aside_do_not_mix_two_loaders(
    install: Callable[..., WebUI], version: str, tmp_path: Path, weights: Weights
) -> None:
    with install(version, extensions=extension(tmp_path, LIKE_LORACTL)) as webui:
        webui.start()
        pristine = weights(webui)
        webui.txt2img("a cat <lyco:ink:0.3> <lora:ink:0.8>")
        webui.txt2img(PLAIN)
        assert same(weights(webui), pristine)


def test_another_loader_gets_its_tag_and_is_reported_once(
    install: Callable[..., WebUI], version: str, tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    with install(version, extensions=extension(tmp_path, ANOTHER_LOADER)) as webui:
        webui.start()
        pristine = weights(webui)
        first, second, lyco = webui.txt2img(LORA), webui.txt2img(LORA), webui.txt2img(LYCO)
        assert webui.registry["lora"].given == 0
        assert "handles &lt;lora:…&gt; tags from now on" in first.comments.replace("<", "&lt;").replace(">", "&gt;")
        assert second.comments == ""
        assert len([record for record in caplog.records if "Loader" in record.getMessage()]) == 1
        assert torch.equal(first.images[0], webui.txt2img(PLAIN).images[0])
        assert not torch.equal(first.images[0], lyco.images[0])
        webui.set_option("lycopatch_enabled", False)
        assert type(webui.registry["lora"]).__name__ == "Loader"
        assert "lyco" not in webui.registry
        assert same(weights(webui), pristine)
        assert webui.errors == []


def test_in_the_forge_family_nothing_is_touched_and_the_tab_says_why(
    install: Callable[..., WebUI],
    monkeypatch: pytest.MonkeyPatch,
    running: Callable[[WebUI], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "modules_forge", ModuleType("modules_forge"))
    with install("1.10") as webui:
        webui.start()
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        assert [type(page).__name__ for page in networks_pages(webui)] == ["ExtraNetworksPageLora"]
        assert "belongs to the Forge family" in running(webui).standing_aside
        assert [record.getMessage() for record in caplog.records] == [running(webui).standing_aside]
        assert caplog.records[0].levelno == logging.WARNING
        assert webui.client().get("/lycopatch/v1/networks").status_code == 200
        webui.reload_ui()
        assert webui.errors == []


def test_a_room_that_fails_is_reported_and_takes_nothing_else_down(install: Callable[..., WebUI], version: str) -> None:
    with install(version) as webui:
        sys.modules["gradio"].Tabs = None
        webui.start()
        assert_ours(webui)
        (error,) = webui.errors
        assert error.message == "LycoPatch: the LycoPatch tab failed; everything else goes on"
        assert not torch.equal(webui.txt2img(PLAIN).images[0], webui.txt2img(LORA).images[0])
        assert webui.client().get("/lycopatch/v1/networks").status_code == 200
        assert "lycopatch-gallery" in webui.cards()["Lora"]


def test_a_start_that_fails_half_way_leaves_no_callback(
    install: Callable[..., WebUI], version: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not today")

    with install(version, builtin_lora=False) as webui:
        webui.module("script_callbacks").on_infotext_pasted = refuse
        webui.start()
        left = [each for several in webui.module("script_callbacks").callback_map.values() for each in several]
        assert not [each for each in left if "lycopatch" in str(each.script)]
        assert "lora" not in webui.registry
        assert webui.txt2img(LORA).images
    assert "could not start, and the WebUI goes on without it: RuntimeError: not today" in caplog.text


def networks_pages(webui: WebUI) -> list[Any]:
    pages = webui.module("ui_extra_networks").extra_pages
    return [page for page in pages if type(page).__name__ in ("NetworksPage", "ExtraNetworksPageLora")]


def count_hooks(webui: WebUI) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._load_state_dict_pre_hooks) for module in webui.model.modules()
    )


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
