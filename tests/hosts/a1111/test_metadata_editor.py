"""The editor of a card: what it shows, what it saves, and which file it can never touch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from extra_pages import RELEASES, PageHost, Recorder, Seen, Shelves, page_host

EVIL = "<script>alert(1)</script>\"'"
METADATA = {
    "ss_output_name": EVIL,
    "ss_network_dim": "16",
    "ss_network_module": "networks.lora",
    "ss_base_model_version": "sd_v1",
    "ss_tag_frequency": json.dumps({"10_ink": {EVIL: 3, **{f"tag {number}": 1 for number in range(5000)}}}),
}


class GradioError(Exception):
    """What gradio shows as a message."""


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A gradio whose components only remember how they were made; what it warns about is listed."""
    listed: list[str] = []
    gradio = ModuleType("gradio")
    for name in ("HTML", "Textbox", "Slider", "Dropdown"):
        setattr(gradio, name, Recorder)
    gradio.__dict__.update(Error=GradioError, Warning=listed.append, update=lambda **values: values)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    return listed


@pytest.fixture(params=RELEASES)
def host(request: pytest.FixtureRequest, warnings: list[str]) -> Iterator[PageHost]:
    with page_host(request.param) as host:
        yield host


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "Lora" / "ink.safetensors"
    path.parent.mkdir()
    raw = json.dumps({"__metadata__": METADATA, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")
    return path


def open_editor(network: Path) -> Any:
    from lycopatch.hosts.a1111.page import new_page

    settings: Any = SimpleNamespace(prefer_alias=False)
    shelves: Any = Shelves(network.parent)
    page = new_page(shelves, settings, title="Lora")
    page.create_html("txt2img")
    editor = page.create_user_metadata_editor(SimpleNamespace(), "txt2img")
    editor.create_ui()
    return editor


def save(editor: Any, name: str = "ink", **changed: Any) -> None:
    """Save as the button does: with a value for each field, in the order in which they were given to it."""
    fields = {
        "description": "",
        "version": "SD1",
        "activation_text": "",
        "weight": 0.0,
        "negative_text": "",
        "notes": "",
    }
    assert len(editor.saved) == len(fields)
    editor.save_network_metadata(name, *{**fields, **changed}.values())


def words(network: Path) -> Any:
    return json.loads(network.with_suffix(".json").read_text(encoding="utf-8"))


def test_opening_gives_a_value_for_every_component_that_waits_for_one(host: PageHost, network: Path) -> None:
    editor = open_editor(network)
    opened, shown = editor.button_edit.clicks
    assert len(opened["outputs"]) == len(opened["fn"]("ink")) == len(opened["fn"]("no such card"))
    assert shown["outputs"] == [editor.box]


def test_opening_shows_the_users_words_and_how_the_network_was_trained(host: PageHost, network: Path) -> None:
    network.with_suffix(".json").write_text(
        json.dumps({"description": "wet", "activation text": "ink", "preferred weight": 0.5, "notes": EVIL})
    )
    name, file, _, training, trouble, description, version, activation, weight, negative, notes = open_editor(
        network
    ).put_values_into_components("ink")
    assert (name, description, activation, negative, notes) == ("ink", "wet", "ink", "", EVIL)
    assert weight["value"] == 0.5
    assert version["value"] == "SD1"
    assert trouble == ""
    assert "ink.safetensors" in file
    assert "networks.lora" in training
    assert "5,001 tags" in training


def test_the_training_facts_are_escaped_and_bounded(host: PageHost, network: Path) -> None:
    values = open_editor(network).put_values_into_components("ink")
    page = "".join(value for value in values[:5])
    assert "script" not in Seen(page).tags
    assert "&lt;script&gt;" in page
    assert len(page) < 20_000


def test_what_is_beyond_the_choices_is_offered_so_that_it_is_not_lost(host: PageHost, network: Path) -> None:
    network.with_suffix(".json").write_text(json.dumps({"sd version": "Pony", "preferred weight": -3}))
    values = open_editor(network).put_values_into_components("ink")
    assert values[6] == {"choices": ["SD1", "SD2", "SDXL", "SD3", "Unknown", "Pony"], "value": "Pony"}
    assert values[8] == {"value": -3.0, "minimum": -3.0, "maximum": 2.0}


def test_saving_writes_the_keys_of_the_built_in_editor(host: PageHost, network: Path) -> None:
    save(
        open_editor(network),
        description="wet",
        version="SDXL",
        activation_text="ink",
        weight=0.5,
        negative_text="oil",
        notes="mine",
    )
    assert words(network) == {
        "description": "wet",
        "sd version": "SDXL",
        "activation text": "ink",
        "preferred weight": 0.5,
        "negative text": "oil",
        "notes": "mine",
    }


def test_a_base_model_that_only_the_metadata_say_is_not_written_down(host: PageHost, network: Path) -> None:
    save(open_editor(network), notes="mine")
    assert words(network) == {"notes": "mine"}


def test_emptied_fields_become_empty(host: PageHost, network: Path) -> None:
    network.with_suffix(".json").write_text(json.dumps({"notes": "old", "preferred weight": 1.5, "modelId": 7}))
    save(open_editor(network), notes=None, weight=None)
    assert words(network) == {"notes": "", "preferred weight": 0.0, "modelId": 7}


def test_a_damaged_file_is_kept_and_the_user_is_told(host: PageHost, network: Path, warnings: list[str]) -> None:
    network.with_suffix(".json").write_text("[1]")
    editor = open_editor(network)
    assert "holds no JSON object" in editor.put_values_into_components("ink")[4]
    save(editor, notes="mine")
    assert words(network) == {"notes": "mine"}
    assert Path(f"{network.parent}/ink.json.bak").read_text() == "[1]"
    assert len(warnings) == 1
    assert "ink.json.bak" in warnings[0]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "ink.json", "", "no such card", "C:\\x"])
def test_a_name_that_is_no_card_saves_nothing(host: PageHost, network: Path, name: str) -> None:
    editor = open_editor(network)
    (network.parent.parent / "outside.safetensors").write_bytes(network.read_bytes())
    with pytest.raises(GradioError, match="no such network"):
        save(editor, name, notes="mine")
    assert list(network.parent.parent.rglob("*.json")) == []


def test_a_full_disk_is_a_sentence(host: PageHost, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    editor = open_editor(network)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GradioError, match="could not be saved: No space left on device"):
        save(editor, notes="mine")


def test_the_webuis_list_of_files_learns_of_the_new_one(host: PageHost, network: Path) -> None:
    editor = open_editor(network)
    told: list[str] = []
    editor.page.lister = SimpleNamespace(update_file_entry=told.append, exists=os.path.exists)
    save(editor, notes="mine")
    assert told == [str(network.with_suffix(".json"))]


def test_a_name_that_is_escaped_on_its_card_keeps_its_preview(host: PageHost, network: Path) -> None:
    hostile = network.with_name("it's.safetensors")
    hostile.write_bytes(network.read_bytes())
    hostile.with_suffix(".png").write_bytes(b"x")
    editor = open_editor(network)
    assert "<img" in editor.get_card_html("it’s")
    assert "<img" not in editor.get_card_html("ink")
