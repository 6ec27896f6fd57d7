"""Files of Civitai's facts beside a network are understood in every dialect, and nothing in them is believed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lycopatch.ui import civitai, sidecar
from lycopatch.ui.civitai import CivitaiInfo, plain_text, read_civitai
from lycopatch.ui.sidecar import stem_path

SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(2)">'

VERSION: dict[str, Any] = {
    "id": 456,
    "modelId": 123,
    "name": "v2",
    "baseModel": "SDXL 1.0",
    "trainedWords": ["ink wash", "brush, stroke"],
    "description": "<p>Better hands</p>",
    "model": {"name": "Ink", "type": "LORA", "nsfw": False},
    "files": [{"name": "ink.safetensors", "hashes": {"SHA256": "AB" * 32}}],
    "images": [{"url": "https://example.com/x.jpeg"}],
}
MODEL: dict[str, Any] = {
    "id": 123,
    "name": "Ink",
    "description": "<h1>Ink</h1><p>Wet&nbsp;ink</p>",
    "nsfw": True,
    "creator": {"username": "mao", "image": "https://example.com/a.png"},
    "modelVersions": [
        {
            **VERSION,
            "id": 400,
            "name": "v1",
            "files": [{"name": "ink-old.safetensors", "hashes": {"SHA256": "CD" * 32}}],
        },
        VERSION,
    ],
}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return tmp_path / "ink.safetensors"


def store(network: Path, ending: str, value: object) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    Path(stem_path(network) + ending).write_bytes(data)


def test_nothing_beside_the_network_is_nothing(network: Path):
    assert read_civitai(network) is None


def test_civitai_helpers_file_is_a_version(network: Path):
    store(network, ".civitai.info", VERSION)
    assert read_civitai(network) == CivitaiInfo(
        title="Ink",
        version="v2",
        base_model="SDXL 1.0",
        trained_words=("ink wash", "brush, stroke"),
        description="Better hands",
        model_id=123,
        version_id=456,
        source=".civitai.info",
    )


@pytest.mark.parametrize("ending", [".json", ".api_info.json"])
def test_a_whole_model_tells_its_creator_and_the_version_of_this_file(network: Path, ending: str):
    store(network, ending, MODEL)
    found = read_civitai(network)
    assert found is not None
    assert (found.title, found.creator, found.version, found.version_id) == ("Ink", "mao", "v2", 456)
    assert found.description == "Ink\n\nWet\N{NO-BREAK SPACE}ink\n\nBetter hands".replace("\N{NO-BREAK SPACE}", " ")
    assert found.nsfw


def test_the_version_is_found_by_hash_where_the_file_was_renamed(network: Path):
    renamed = network.with_name("mine.safetensors")
    store(renamed, ".api_info.json", MODEL)
    assert (found := read_civitai(renamed, "cd" * 32)) is not None
    assert (found.version, found.version_id) == ("v1", 400)


def test_a_model_with_other_versions_alone_says_nothing_about_a_version(network: Path):
    renamed = network.with_name("mine.safetensors")
    store(renamed, ".api_info.json", MODEL)
    for known in (None, "ef" * 32):
        assert (found := read_civitai(renamed, known)) is not None
        assert (found.title, found.version, found.trained_words, found.version_id) == ("Ink", "", (), 0)
        assert found.url == "https://civitai.com/models/123"


def test_a_hash_that_differs_is_another_version_even_under_this_name(network: Path):
    store(network, ".api_info.json", MODEL)
    assert (found := read_civitai(network, "ef" * 32)) is not None
    assert found.version == ""


def test_browser_plus_writes_numbers_among_the_users_words(network: Path):
    words = {
        "activation text": "ink",
        "description": "mine",
        "sd version": "SDXL",
        "modelId": 123,
        "modelVersionId": 456,
    }
    store(network, ".json", {**words, "modelPageURL": "javascript:alert(1)", "sha256": "AB" * 32})
    assert (found := read_civitai(network)) is not None
    assert found == CivitaiInfo(base_model="SDXL", model_id=123, version_id=456, source=".json")
    assert found.url == "https://civitai.com/models/123?modelVersionId=456"


def test_the_users_words_alone_are_not_civitais(network: Path):
    store(network, ".json", {"activation text": "ink", "description": "mine", "modelId": "Model not found"})
    assert read_civitai(network) is None


def test_lora_manager_keeps_the_version_inside(network: Path):
    version = {**VERSION, "creator": {"username": "mao"}}
    own = {"model_name": "Ink!", "base_model": "SDXL 1.0", "modelDescription": "<p>long</p>", "sha256": "ab" * 32}
    store(network, ".metadata.json", {**own, "civitai": version})
    found = read_civitai(network)
    assert found is not None
    assert (found.title, found.creator, found.description) == ("Ink", "mao", "long\n\nBetter hands")


@pytest.mark.parametrize("inside", [None, {}, {"trainedWords": ["x"]}])
def test_lora_managers_file_about_a_network_that_civitai_does_not_have_says_nothing(network: Path, inside: object):
    store(network, ".metadata.json", {"model_name": "ink", "from_civitai": False, "civitai": inside})
    assert read_civitai(network) is None


def test_stability_matrix_has_names_of_its_own(network: Path):
    own = {"ModelId": 123, "VersionId": 456, "ModelName": "Ink", "VersionName": "v2", "BaseModel": "SDXL 1.0"}
    words = {"TrainedWords": ["ink wash"], "ModelDescription": "<p>a</p>", "VersionDescription": None, "Nsfw": True}
    store(network, ".cm-info.json", {**own, **words})
    assert read_civitai(network) == CivitaiInfo(
        "Ink", "", "v2", "SDXL 1.0", ("ink wash",), "a", True, 123, 456, ".cm-info.json"
    )


def test_the_first_file_that_says_something_counts(network: Path):
    store(network, ".civitai.info", {"id": "", "modelId": "", "name": "", "trainedWords": []})
    store(network, ".metadata.json", b"{ broken")
    store(network, ".cm-info.json", {"ModelName": "Ink", "ModelId": 5})
    store(network, ".json", {"modelId": 6})
    assert (found := read_civitai(network)) is not None
    assert (found.source, found.url) == (".cm-info.json", "https://civitai.com/models/5")


def test_a_file_that_the_listing_does_not_have_is_not_opened(network: Path):
    store(network, ".civitai.info", VERSION)
    asked: list[str] = []
    assert read_civitai(network, exists=lambda path: bool(asked.append(path))) is None
    assert [Path(path).name for path in asked][:2] == ["ink.civitai.info", "ink.metadata.json"]


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"id": 1e999, "modelId": -5, "name": {"a": 1}, "trainedWords": {"a": "b"}, "model": ["x"]}',
        b'{"modelVersions": [null, 3, {"files": "x", "id": true}], "creator": 5}',
        json.dumps({"modelVersions": [{"files": [{"hashes": "x", "name": None}]}] * 5000}).encode(),
        b'{"id": 1e400, "name": "\\ud800"}',
    ],
)
@pytest.mark.parametrize("ending", [".civitai.info", ".metadata.json", ".api_info.json", ".cm-info.json", ".json"])
def test_nonsense_is_no_error(network: Path, ending: str, content: bytes):
    store(network, ending, content)
    found = read_civitai(network, "ab" * 32)
    assert found is None or json.dumps(found.trained_words).isascii()


def test_a_folder_in_the_place_of_the_file_is_no_error(network: Path):
    Path(stem_path(network) + ".civitai.info").mkdir()
    assert read_civitai(network) is None


def test_a_huge_file_is_not_read(network: Path, monkeypatch: pytest.MonkeyPatch):
    store(network, ".civitai.info", VERSION)
    monkeypatch.setattr(sidecar, "MOST_BYTES", 100)
    assert read_civitai(network) is None


def test_links_are_made_of_numbers_alone(network: Path):
    for wrong in ("1/../../evil", "https://evil.example", {"a": 1}, -1, 0, 1.5, True, "9" * 50):
        store(network, ".civitai.info", {**VERSION, "modelId": wrong, "id": wrong})
        assert (found := read_civitai(network)) is not None
        assert found.url is None
    store(network, ".civitai.info", {**VERSION, "modelId": None, "id": "456"})
    assert (found := read_civitai(network)) is not None
    assert found.url == "https://civitai.com/model-versions/456"


def test_texts_are_short_and_hold_no_markup(network: Path):
    hostile = {
        **VERSION,
        "name": SCRIPT * 1000,
        "baseModel": "a\nb\x00\u202ec",
        "trainedWords": [f"word {number}\n\x1b[31m" + "x" * 5000 for number in range(300)] + [None, 5],
        "description": SCRIPT + "<p>fine &lt;b&gt;</p>" + "long " * 50_000,
    }
    store(network, ".civitai.info", hostile)
    found = read_civitai(network)
    assert found is not None
    assert len(found.version) <= 300
    assert found.base_model == "a bc"
    assert len(found.trained_words) == civitai.MOST_WORDS
    assert max(map(len, found.trained_words)) <= 1001
    assert "\x1b" not in "".join(found.trained_words)
    assert found.description.startswith("fine <b>\nlong long")  # words about markup, not markup
    assert "alert" not in found.description
    assert len(found.description) <= civitai.MOST_DESCRIPTION + 1


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("plain\n\n\n\ntext  ", "plain\n\ntext"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p>one</p><p>two<br>three</p>", "one\n\ntwo\nthree"),
        ("<ul><li>a</li>\n<li><b>b</b> c</li></ul>", "- a\n\n- b c"),
        ("a\nb <i>c</i>", "a b c"),
        ("<style>p{}</style><title>x</title>y", "y"),
        ("</script>still here", "still here"),
        ("<!-- hidden -->shown", "shown"),
        ("&#x202e;&zwj;<b>x</b>", "\u200dx"),
        ("<a href='javascript:alert(1)'>link</a>", "link"),
        ("<<b>x", "<x"),
        ("<p unfinished", "<p unfinished"),
        ("<p title='a > b'>x", "b'>x"),
    ],
)
def test_markup_becomes_lines_of_words(markup: str, text: str):
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    "piece",
    [
        *"<a",
        "<a ",
        "<!--",
        "<!-->",
        "<![CDATA[",
        "<!",
        "</",
        "&#",
        "<a b='",
        "<a b='>",
        "<script>",
        "&lt;",
        "<p>",
        "<?",
    ],
)
def test_markup_made_to_take_long_takes_no_second(piece: str):
    started = time.perf_counter()
    text = plain_text("<" + piece * (4_000_000 // len(piece)))
    assert time.perf_counter() - started < 2
    assert len(text) <= civitai.MOST_DESCRIPTION + 1
