"""Our settings in the WebUI: there whenever they are needed, and never trusted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from a1111_replay import WebUI

DEFAULTS = {
    "enabled": True,
    "extra_folders": (),
    "keep_builtin_page": False,
    "gallery_on_page": True,
    "add_hashes": True,
    "prefer_alias": False,
    "allow_pickle": False,
    "originals": "automatic",
    "show_messages": True,
}


@pytest.fixture
def webui(install: Callable[..., WebUI]) -> Iterator[WebUI]:
    with install("1.10") as webui:
        yield webui.start()


def values(settings: Any) -> dict[str, object]:
    return {name: getattr(settings, name) for name in DEFAULTS}


def test_the_defaults(webui: WebUI, running: Callable[[WebUI], Any]) -> None:
    assert values(running(webui).settings) == DEFAULTS


def test_they_have_a_page_of_their_own_with_a_word_of_explanation_each(
    install: Callable[..., WebUI], version: str
) -> None:
    with install(version) as webui:
        webui.start()
        ours = {key: info for key, info in webui.opts.data_labels.items() if key.startswith("lycopatch_")}
        assert ours.keys() == {f"lycopatch_{name}" for name in DEFAULTS}
        assert {tuple(info.section[:2]) for info in ours.values()} == {("lycopatch", "LycoPatch")}
        assert all(info.label and "<span" in info.comment_after for info in ours.values())
        built = {component.elem_id for component in webui.gradio.components}
        assert {f"setting_{key}" for key in ours} <= built


def test_nothing_is_known_without_a_page_and_all_have_their_defaults(
    install: Callable[..., WebUI], version: str, running: Callable[[WebUI], Any]
) -> None:
    with install(version, api_only=True) as webui:
        webui.start()
        assert values(running(webui).settings) == DEFAULTS


@pytest.mark.parametrize("nonsense", [None, 1.5, "off", ["a"], {"b": 1}])
def test_nonsense_in_the_file_counts_as_the_default(
    install: Callable[..., WebUI], running: Callable[[WebUI], Any], nonsense: object
) -> None:
    wrong = {name: nonsense for name in DEFAULTS if not (name == "extra_folders" and isinstance(nonsense, str))}
    with install("1.10", settings={f"lycopatch_{name}": value for name, value in wrong.items()}) as webui:
        webui.start()
        assert values(running(webui).settings) == DEFAULTS


def test_folders_are_one_per_line_absolute_and_without_quotation_marks(
    install: Callable[..., WebUI], running: Callable[[WebUI], Any], tmp_path: Path
) -> None:
    text = f'\n  "{tmp_path / "with blanks"}"  \nbelow\n\n~nobody-of-this-name/x\nbad\0name\n'
    with install("1.10", settings={"lycopatch_extra_folders": text}, data_dir_elsewhere=True) as webui:
        webui.start()
        assert running(webui).settings.extra_folders == (
            tmp_path / "with blanks",
            webui.data / "below",
            webui.data / "~nobody-of-this-name" / "x",
        )


def test_the_built_in_settings_for_hashes_counts_as_well(
    install: Callable[..., WebUI], version: str, builtin_lora: bool, running: Callable[[WebUI], Any]
) -> None:
    """When the built-in is off, what it once was set to is still in the file, and nobody can see or change it."""
    with install(version, builtin_lora=builtin_lora, settings={"lora_add_hashes_to_infotext": False}) as webui:
        webui.start()
        assert running(webui).settings.add_hashes is not builtin_lora


def test_a_change_counts_at_once(webui: WebUI, running: Callable[[WebUI], Any]) -> None:
    webui.set_option("lycopatch_show_messages", False)
    assert running(webui).settings.show_messages is False
    assert webui.txt2img("<lora:no such network:1>").comments == ""
    webui.set_option("lycopatch_show_messages", True)
    assert "no such network" in webui.txt2img("<lora:no such network:1>").comments


def test_an_extension_that_comes_with_reload_ui_has_its_settings(
    install: Callable[..., WebUI], version: str, running: Callable[[WebUI], Any]
) -> None:
    """The WebUI keeps another table of settings from the first page on."""
    with install(version, settings={"disabled_extensions": ["LycoPatch"]}) as webui:
        webui.start()
        assert "lycopatch_enabled" not in webui.opts.data_labels
        webui.set_option("disabled_extensions", [])
        webui.reload_ui()
        assert values(running(webui).settings) == DEFAULTS
        assert webui.set_option("lycopatch_enabled", False)
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        assert webui.errors == []


def test_an_extension_that_goes_with_reload_ui_leaves_no_handler_behind(
    install: Callable[..., WebUI], version: str
) -> None:
    with install(version) as webui:
        webui.start()
        webui.txt2img("<lora:ink:1>")
        webui.set_option("disabled_extensions", ["LycoPatch"])
        webui.reload_ui()
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        assert webui.opts.data_labels["lycopatch_enabled"].onchange is None
        assert webui.set_option("lycopatch_enabled", False)
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        assert webui.errors == []


def test_turning_it_off_waits_for_the_picture_that_is_being_made(install: Callable[..., WebUI]) -> None:
    with install("1.10") as webui:
        webui.start()
        order: list[str] = []
        handler = webui.registry["lora"]

        def turn_off() -> None:
            webui.set_option("lycopatch_enabled", False)
            order.append("off")

        thread = threading.Thread(target=turn_off)

        def on_step(_p: object, step: int) -> None:
            if step == 0:
                thread.start()
                thread.join(0.1)
            order.append(f"step {step}, {'ours' if webui.registry.get('lora') is handler else 'not ours'}")

        webui.txt2img("<lora:ink:1>", on_step=on_step)
        thread.join(10)
        assert order == ["step 0, ours", "step 1, ours", "off"]
        assert webui.registry["lora"] is not handler


def test_folders_and_pickles_can_not_be_set_over_the_network(webui: WebUI) -> None:
    labels = webui.opts.data_labels
    restricted = {key for key in labels if key.startswith("lycopatch_") and getattr(labels[key], "restrict_api", False)}
    assert restricted == {"lycopatch_extra_folders", "lycopatch_allow_pickle"}


def test_gradio_is_not_imported_by_the_settings_themselves(install: Callable[..., WebUI]) -> None:
    with install("1.10", api_only=True) as webui:
        webui.start()
        module = sys.modules["lycopatch.hosts.a1111.settings"]
        assert not [name for name in vars(module) if name in ("gradio", "gr")]
        assert not [each for each in webui.gradio.components if "lycopatch" in str(each.elem_id)]
