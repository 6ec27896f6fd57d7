"""The extra-networks page in the two ways in which the WebUI renders it, over folders full of strangers' files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from a1111_replay import WebUI
from extra_pages import RELEASES, PageHost, Seen, Shelves, page_host
from lycopatch.engine import catalog_facts

EVIL = "<img src=x onerror=alert(1)>\"' onmouseover=alert(2) x='</span><script>alert(3)</script>&quot;"
HASH = "0123456789abcdef" * 4
REPOSITORY = Path(__file__).parents[3]
NAMES = (
    'it\'s & "q"',
    "<img src=x onerror=alert(1)>",
    "&quot;);alert(1);(&quot;",
    "' onclick='alert(1)",
    "x onclick=alert(1) y",
    "水墨😀",
    "a:b",
    "a>b",
    "te=1",
    "back\\slash",
    "new\nline",
    "tail..",
    "x" * 243,
    " blank ",
    "a&lt;b",
    "none",
)


@pytest.fixture(params=RELEASES)
def host(request: pytest.FixtureRequest) -> Iterator[PageHost]:
    with page_host(request.param) as host:
        yield host


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two network folders, the first one with an ordinary network."""
    lora, lyco = tmp_path / "models" / "Lora", tmp_path / "models" / "LyCORIS"
    lyco.mkdir(parents=True)
    write(lora / "ink.safetensors", ss_base_model_version="sd_v1")
    return lora, lyco


def write(path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps({"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")
    return path


def open_page(folders: tuple[Path, ...], shelves: Shelves | None = None, **more: Any) -> Any:
    from lycopatch.hosts.a1111.page import new_page

    library: Any = shelves or Shelves(*folders)
    settings: Any = SimpleNamespace(prefer_alias=False)
    return new_page(library, settings, title="Lora", **more)


def fill_with_hostile_files(lora: Path) -> None:
    for name in NAMES:
        write(lora / f"{name}.safetensors", ss_output_name=name)
    write(lora / "words.safetensors", **{"ss_output_name": EVIL, EVIL: EVIL, "ss_base_model_version": EVIL})
    write(lora / "<b>folder" / "inside.safetensors")
    words = ("description", "activation text", "negative text", "preferred weight", "sd version", "notes")
    (lora / "words.json").write_text(json.dumps(dict.fromkeys(words, EVIL + "\u2028\ud800")))
    (lora / "x onclick=alert(1) y.txt").write_text(EVIL)
    (lora / "empty.safetensors").write_bytes(b"")
    (lora / "short.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0{")
    (lora / "short.json").write_text("[1]")
    os.symlink("nowhere", lora / "link.safetensors")
    odd = os.fsencode(lora) + b"/\xff\xfeodd"
    for ending in (b".safetensors", b".png"):
        with open(odd + ending, "wb") as file:
            file.write(b"x")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_nothing_that_strangers_wrote_leaves_its_place(host: PageHost, folders: tuple[Path, Path]) -> None:
    fill_with_hostile_files(folders[0])
    page = open_page(folders)
    rendered = page.create_html("txt2img")
    rendered.encode()  # gradio sends UTF-8
    seen = Seen(rendered)
    assert seen.tags <= {"div", "span", "ul", "li"}
    allowed = {"class", "onclick", "data-name", "data-sort", "data-clipboard-text", "data-path", "data-hash"}
    assert seen.attributes <= allowed
    cards = [attributes for _, attributes in seen.elements if attributes.get("class") == "card"]
    assert len(cards) == len(NAMES) + 6  # ink, words, inside, empty, short, and the name that is not UTF-8
    for name in page.items:
        if name in page.metadata:
            page.metadata_response(name)
        page.item_html("txt2img", page.create_item(name, enable_filter=False)).encode()
    assert host.reported == []


def test_descriptions_are_html_where_the_user_wants_that_and_our_sentences_are_not(folders: tuple[Path, Path]) -> None:
    with page_host("1.10") as host:
        host.options.extra_networks_card_description_is_html = True
        (folders[0] / "ink.txt").write_text("<b>wet</b>")
        (folders[0] / "<i>.safetensors").write_bytes(b"")
        tags = Seen(open_page(folders).create_html("txt2img")).tags
        assert "b" in tags
        assert "i" not in tags


def test_every_card_of_the_page_can_be_made_alone(host: PageHost, folders: tuple[Path, Path]) -> None:
    write(folders[1] / "ink.safetensors")
    page = open_page(folders)
    page.create_html("txt2img")
    assert sorted(page.items) == ["Lora/ink", "LyCORIS/ink"]
    for name, item in page.items.items():
        assert page.create_item(name, enable_filter=False) == item
        assert f"<lora:{name}:" in item["prompt"]


def test_both_tabs_share_the_page_and_no_header_is_read_twice(
    host: PageHost, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = catalog_facts.open_tensor_file

    def counting(path: Path) -> Any:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(catalog_facts, "open_tensor_file", counting)
    page = open_page(folders)
    assert page.create_html("txt2img").replace("txt2img", "img2img") == page.create_html("img2img")
    page.refresh()
    page.create_html("txt2img")
    assert opened == [folders[0] / "ink.safetensors"]


def test_names_that_look_the_same_on_the_page_are_numbered(host: PageHost, folders: tuple[Path, Path]) -> None:
    write(folders[0] / "it's.safetensors")
    write(folders[0] / "it’s.safetensors")
    page = open_page(folders)
    page.create_html("txt2img")
    assert sorted(page.items) == ["ink", "it’s", "it’s (2)"]
    prompts = {page.create_item(name)["prompt"].partition(" + ")[0] for name in page.items}
    assert prompts == {'"<lora:ink:"', '"<lora:it\'s:"', '"<lora:it’s:"'}


def test_a_broken_file_shows_as_broken_and_its_neighbours_as_usual(host: PageHost, folders: tuple[Path, Path]) -> None:
    (folders[0] / "short.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0{")
    page = open_page(folders)
    page.create_html("txt2img")
    assert "short.safetensors" in page.items["short"]["description"]
    assert page.items["ink"]["description"] == ""


def test_a_bug_at_one_card_is_reported_and_costs_this_card_only(
    host: PageHost, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "oil.safetensors")
    page = open_page(folders)
    original: Callable[[str], str | None] = page.find_preview

    def failing(stem: str) -> str | None:
        if stem.endswith("oil"):
            raise RuntimeError("a bug")
        return original(stem)

    monkeypatch.setattr(page, "find_preview", failing)
    page.create_html("txt2img")
    assert sorted(page.items) == ["ink", "oil"]
    assert "could not be made" in page.items["oil"]["description"]
    assert len(host.reported) == 1
    assert "oil.safetensors" in host.reported[0]


def test_a_bug_in_the_library_leaves_the_other_pages_alone(host: PageHost, folders: tuple[Path, Path]) -> None:
    class Failing(Shelves):
        def refresh(self) -> None:
            raise RuntimeError("a bug")

    shelves = Failing(*folders)
    page = open_page(folders, shelves)
    page.refresh()
    del shelves.catalog
    page.create_html("txt2img")
    assert list(page.items) == ["LycoPatch"]
    assert len(host.reported) == 2


def test_a_name_that_is_no_network_has_a_card_that_says_so(host: PageHost, folders: tuple[Path, Path]) -> None:
    page = open_page(folders)
    card = page.create_item(EVIL, enable_filter=False)
    assert "no such network" in card["description"]
    page.read_user_metadata(card, use_cache=False)
    assert Seen(page.item_html("txt2img", card)).tags <= {"div", "span"}


def test_a_click_on_a_name_that_no_tag_can_hold_calls_nothing(host: PageHost, folders: tuple[Path, Path]) -> None:
    write(folders[0] / "a:b.safetensors")
    page = open_page(folders)
    seen = Seen(page.create_html("txt2img"))
    clicks = {each.get("data-name"): each.get("onclick") for _, each in seen.elements if each.get("class") == "card"}
    assert clicks["a:b"] == "void(0)"
    assert "cardClicked" in str(clicks["ink"])


def test_a_refresh_finds_new_files_and_a_single_card_has_new_words(host: PageHost, folders: tuple[Path, Path]) -> None:
    page = open_page(folders)
    page.create_html("txt2img")
    write(folders[1] / "oil.safetensors")
    page.refresh()
    page.create_html("txt2img")
    assert list(page.items) == ["ink", "oil"]
    (folders[1] / "oil.json").write_text('{"activation text": "thick paint"}')
    assert "thick paint" in page.create_item("oil")["prompt"]
    assert page.create_item("oil")["sort_keys"]["default"] == 1


def test_the_folder_tree_holds_the_files(folders: tuple[Path, Path]) -> None:
    with page_host("1.10"):
        write(folders[0] / "deep" / "oil.safetensors")
        seen = Seen(open_page(folders).create_html("txt2img"))
        listed = {each["data-path"] for tag, each in seen.elements if tag == "li"}
        assert listed == {str(folders[0] / "ink.safetensors"), str(folders[0] / "deep" / "oil.safetensors")}


def test_the_folders_may_be_served_to_the_browser_for_pictures(host: PageHost, folders: tuple[Path, Path]) -> None:
    assert open_page(folders).allowed_directories_for_previews() == [str(folder) for folder in folders]


def test_a_picture_beside_a_network_is_its_preview(host: PageHost, folders: tuple[Path, Path]) -> None:
    (folders[0] / "ink.png").write_bytes(b"x")
    page = open_page(folders)
    page.create_html("txt2img")
    assert page.items["ink"]["preview"].startswith("./thumb")


def test_the_hash_is_the_stated_one_or_one_that_is_known_and_never_computed(
    host: PageHost, folders: tuple[Path, Path]
) -> None:
    write(folders[0] / "stated.safetensors", sshs_model_hash=HASH)
    write(folders[0] / "odd.safetensors", sshs_model_hash='"><script>')
    host.hashes = {"lora/ink": "f" * 64, "lora/odd": "not a hash"}
    page = open_page(folders)
    page.create_html("txt2img")
    shown = {name: item["shorthash"] for name, item in page.items.items()}
    assert shown == {"ink": "f" * 12, "odd": "", "stated": HASH[:12]}


@pytest.mark.parametrize(
    ("options", "flag", "shown"),
    [
        ({}, "is_sdxl", {"ink", "big", "what"}),  # the built-in networks are disabled
        ({"lora_show_all": True}, "is_sdxl", {"ink", "big", "what"}),
        ({"lora_show_all": False}, "is_sdxl", {"big", "what"}),
        ({"lora_show_all": False}, "is_sd1", {"ink", "what"}),
        ({"lora_show_all": False}, "is_sd9", {"ink", "big", "what"}),
        ({"lora_show_all": False, "lora_hide_unknown_for_versions": ["SD1"]}, "is_sd1", {"ink"}),
    ],
)
def test_cards_for_other_models_are_hidden_as_the_built_in_settings_say(
    host: PageHost, folders: tuple[Path, Path], options: dict[str, Any], flag: str, shown: set[str]
) -> None:
    import torch

    write(folders[0] / "big.safetensors", ss_base_model_version="sdxl_base_v1-0")
    write(folders[0] / "what.safetensors")
    vars(host.options).update(options)
    model = host.models.sd_model = torch.nn.Module()
    setattr(model, flag, True)
    page = open_page(folders)
    page.create_html("txt2img")
    assert set(page.items) == shown
    assert page.create_item("ink", enable_filter=False) is not None
    assert (page.create_item("ink") is None) == ("ink" not in shown)


@pytest.fixture(params=["1.5", "1.6", "1.9", "1.10"])
def webui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebUI]:
    """A WebUI with the whole extension, not started, with hostile files in its folder."""
    with WebUI(
        request.param,
        tmp_path,
        extensions={"LycoPatch": REPOSITORY},
        builtin_lora=False,  # which reports every damaged file
        model_loads="never",
        settings={"lycopatch_gallery_on_page": False},
    ) as webui:
        fill_with_hostile_files(webui.data / "models" / "Lora")
        write(webui.data / "models" / "LyCORIS" / "oil.safetensors")
        yield webui


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_in_a_webui_the_page_survives_hostile_files_in_every_release(webui: WebUI) -> None:
    webui.start()
    for tabname in ("txt2img", "img2img"):
        page = webui.cards(tabname, refresh=True)["Lora"]
        page.encode()
        seen = Seen(page)
        assert not {"script", "b", "i"} & seen.tags
        assert not [name for name in seen.attributes if name.startswith("on") and name != "onclick"]
        shown = {str(attributes.get("data-name")) for _, attributes in seen.elements}
        assert {"oil", "words", "empty", "short", "it’s & ”q”", "水墨😀"} <= shown
    client = webui.client()
    for name in ("oil", "words", "empty", "no such card"):
        query = {"page": "lora", "tabname": "txt2img", "name": name}
        assert "card" in client.get("/sd_extra_networks/get-single-card", params=query).json()["html"]
    metadata = client.get("/sd_extra_networks/metadata", params={"page": "lora", "item": "words"}).json()["metadata"]
    assert json.loads(metadata)[EVIL] == EVIL
    assert [str(error) for error in webui.errors] == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_in_a_webui_the_editor_opens_and_saves_in_every_release(webui: WebUI) -> None:
    webui.start()
    webui.cards("txt2img")
    recorder = webui.gradio
    opening = next(
        event
        for event in recorder.events
        if event.source is recorder.find("txt2img_lora_edit_user_metadata_button") and event.trigger == "click"
    )
    saving = next(event for event in recorder.events if getattr(event.fn, "__name__", "") == "save_network_metadata")
    assert opening.fn is not None
    assert saving.fn is not None
    opened = dict(zip(opening.outputs, opening.fn("oil"), strict=True))
    fields = saving.inputs[1:]
    changed = ["thick paint" if field.label == "Activation text" else opened[field] for field in fields]
    saving.fn("oil", *[value.get("value") if isinstance(value, dict) else value for value in changed])
    words = webui.data / "models" / "LyCORIS" / "oil.json"
    assert json.loads(words.read_text()) == {"activation text": "thick paint"}
    query = {"page": "lora", "tabname": "txt2img", "name": "oil"}
    assert "thick paint" in webui.client().get("/sd_extra_networks/get-single-card", params=query).json()["html"]
    assert [str(error) for error in webui.errors] == []


# --- the library in place of the cards


def test_the_library_takes_the_place_of_the_cards_and_nothing_is_listed(
    host: PageHost, folders: tuple[Path, Path]
) -> None:
    shelves = Shelves(*folders)
    page = open_page(folders, shelves, gallery=lambda tabname: f"<p>library of {tabname}</p>")
    del shelves.catalog
    assert page.create_html("img2img").endswith("<p>library of img2img</p>")
    assert page.items == {}
    assert host.reported == []


def test_each_listing_asks_again_whether_the_library_is_wanted(host: PageHost, folders: tuple[Path, Path]) -> None:
    wanted = ["<p>library</p>", "", "<p>library</p>"]
    page = open_page(folders, gallery=lambda tabname: wanted.pop(0))
    assert ["data-name" in page.create_html("txt2img") for _ in range(3)] == [False, True, False]
    assert page.create_item("ink")["name"] == "ink"


@pytest.mark.parametrize("version", ["1.5", "1.6", "1.9", "1.10"])
def test_in_a_webui_the_library_is_on_both_pages_with_their_own_prompts(
    install: Callable[..., WebUI], running: Callable[[WebUI], Any], version: str
) -> None:
    with install(version, model_loads="never") as webui:
        webui.start()
        for tabname in ("txt2img", "img2img"):
            page = webui.cards(tabname, refresh=True)["Lora"]
            (facts,) = [json.loads(each) for _, each in libraries(page)]
            assert facts["targets"] == [
                {
                    "title": tabname,
                    "prompt": f"#{tabname}_prompt textarea",
                    "negative": f"#{tabname}_neg_prompt textarea",
                }
            ]
            assert (facts["host"], facts["place"]) == ("a1111", "page")
            assert "data-name" not in page
            if version in ("1.9", "1.10"):
                assert f"{tabname}_lora_cards" in page  # the WebUI's script sorts what is in there
        webui.set_option("lycopatch_gallery_on_page", False)
        page = webui.cards("txt2img", refresh=True)["Lora"]
        assert not libraries(page)
        assert ">ink<" in page
        assert webui.errors == []


def libraries(page: str) -> list[tuple[str, str]]:
    """Our containers in a page: the tag, and what the script is told."""
    return [
        (tag, str(attributes["data-lycopatch"]))
        for tag, attributes in Seen(page).elements
        if "data-lycopatch" in attributes
    ]
