"""Cards with previews, and what clicks on them do to a prompt."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="the gallery draws with Pillow")

from PIL import Image

from lycopatch.demo.gallery import SIDE, Addition, Gallery, enlarged, placeholder, preview_of, read_preview, toggled
from lycopatch.engine.catalog import Catalog
from lycopatch.ui.networks import NetworkRow, Networks
from networks import write_network

LAYERS = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (8, 8)}
INK = Addition("<lora:ink:1>")
PROMPTS = st.text(st.sampled_from("a ,:<>=1\n") | st.characters(codec="utf-8"), max_size=40) | st.lists(
    st.sampled_from(
        ["a cat", "<lora:inkwash:1>", "<lora:ink2:0.5>", "<lora:", "<lora:ink", " ", "", "<hypernet:ink:1>"]
    )
).map(" ".join)


def is_ink(name: str) -> bool:
    return name.strip() == "ink"


# --- what a click does to a prompt


@given(
    PROMPTS, st.sampled_from([INK, Addition("<lora:ink:0.7>", "ink, wash"), Addition("<lora:ink:1>", "<lora:ink:2>")])
)
def test_two_clicks_leave_the_prompt_as_it_was(prompt: str, addition: Addition) -> None:
    once = toggled(prompt, addition, is_ink)
    assert once != prompt
    assert addition.tag in once
    assert toggled(once, addition, is_ink) == prompt


def test_the_tag_goes_to_the_end_of_the_prompt() -> None:
    assert toggled("a cat", INK, is_ink) == "a cat <lora:ink:1>"
    assert toggled("", INK, is_ink) == "<lora:ink:1>"


def test_networks_of_similar_names_stay() -> None:
    prompt = "a <lora:inkwash:1> <lora:ink:1> <lora:ink 2:1> cat"
    assert toggled(prompt, INK, is_ink) == "a <lora:inkwash:1> <lora:ink 2:1> cat"


@pytest.mark.parametrize(
    ("prompt", "without"),
    [
        ("a <lora:ink:0.35:1:dyn=4> cat", "a cat"),
        ("a <lyco:ink:-1> cat", "a cat"),
        ("<lora:ink:1> a cat", "a cat"),
        ("a cat,<lora:ink:1>", "a cat,"),
        ("a <lora:ink:1> and <lora:ink:0.5> cat", "a and cat"),
        ("a <lora:ink:1> <lora:ink:1> cat", "a cat"),
    ],
)
def test_a_tag_that_the_user_wrote_or_changed_is_taken_out_whatever_its_weight(prompt: str, without: str) -> None:
    assert toggled(prompt, INK, is_ink) == without


def test_words_that_no_longer_follow_their_tag_stay() -> None:
    addition = Addition("<lora:ink:1>", "wash")
    assert toggled("<lora:ink:1> washing a cat", addition, is_ink) == "washing a cat"
    assert toggled("wash <lora:ink:1>, a cat", addition, is_ink) == "wash, a cat"


# --- cards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ink", "mist", "a:b"):
        write_network(tmp_path / f"{name}.safetensors", LAYERS, "lora", metadata={"ss_network_module": "networks.lora"})
    return tmp_path


@pytest.fixture
def gallery(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    catalog = Catalog([folder])
    return Gallery(Networks(lambda: catalog), tmp_path_factory.mktemp("cards"))


def row_of(gallery: Gallery, stem: str) -> NetworkRow:
    return next(row for row in gallery.networks.rows() if row.file.stem == stem)


def test_a_card_shows_name_and_algorithm_and_is_marked_when_the_prompt_has_it(gallery: Gallery) -> None:
    captions = dict(
        zip(["a:b", "ink", "mist"], [card[1] for card in gallery.shelf("", "<lora:INK:0.5>").cards], strict=True)
    )
    assert captions == {"a:b": "a:b · lora", "ink": "✓ ink · lora", "mist": "mist · lora"}
    plain, marked = (Path(gallery.shelf("ink", prompt).cards[0][0]).read_bytes() for prompt in ("", "<lora:ink:1>"))
    assert plain != marked


def test_the_search_leaves_what_has_all_words(gallery: Gallery) -> None:
    shelf = gallery.shelf("lora mist", "")
    assert [row.name for row in shelf.rows] == ["mist"]
    assert (shelf.found, shelf.total) == (1, 3)


def test_a_click_takes_the_users_weight_and_words(gallery: Gallery, folder: Path) -> None:
    (folder / "ink.json").write_text(json.dumps({"preferred weight": 0.7, "activation text": "ink,\nwash"}))
    assert gallery.clicked("a cat", row_of(gallery, "ink")) == "a cat <lora:ink:0.7> ink, wash"
    assert gallery.clicked("a cat <lora:ink:0.7> ink, wash", row_of(gallery, "ink")) == "a cat"


def test_a_click_takes_out_a_tag_that_names_the_file_in_another_way(gallery: Gallery) -> None:
    assert gallery.clicked("a cat <lora:INK.safetensors:1>", row_of(gallery, "ink")) == "a cat"


def test_a_file_that_no_tag_can_name_is_refused_with_a_sentence(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match=r'No tag can name "a:b"; rename the file\.'):
        gallery.clicked("a cat", row_of(gallery, "a:b"))


# --- previews


def test_the_preview_is_found_beside_the_file(folder: Path) -> None:
    network = folder / "ink.safetensors"
    assert preview_of(network) is None
    for name in ("ink.webp", "ink.jpg", "ink.png", "ink.preview.png"):
        (folder / name).touch()
        assert preview_of(network) == folder / name
    (folder / "mist.png").mkdir()
    assert preview_of(folder / "mist.safetensors") is None


def test_a_card_shows_the_preview_and_follows_it(gallery: Gallery, folder: Path) -> None:
    row = row_of(gallery, "ink")
    drawn = gallery.thumbnail(row)
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(folder / "ink.preview.png")
        with Image.open(gallery.thumbnail(row)) as shown:
            assert shown.size == (SIDE, SIDE)
            assert shown.getcolors() == Image.new("RGB", (SIDE, SIDE), colour).getcolors()
    assert gallery.thumbnail(row) == gallery.thumbnail(row) != drawn


def png_of(width: int, height: int) -> bytes:
    """A picture that claims a size and has a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify"),
        (b"<svg onload=alert(1)>", "cannot identify"),
        (png_of(8, 8)[:40], ""),
        (png_of(9000, 9000), "9000 × 9000 pixels"),
        (png_of(60000, 60000), ""),
    ],
    ids=["empty", "no picture", "cut", "large", "bomb"],
)
def test_a_damaged_or_hostile_preview_gives_a_drawn_card_and_a_line_in_the_log(
    gallery: Gallery, folder: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    (folder / "ink.png").write_bytes(content)
    assert read_preview(folder / "ink.png") is None
    with Image.open(gallery.thumbnail(row_of(gallery, "ink"))) as shown:
        assert shown.convert("RGB").tobytes() == placeholder("ink").tobytes()
    assert "ink.png is not shown" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["", "ink", "墨絵", "\udcff", "!!"])
def test_every_name_has_a_drawn_picture(name: str) -> None:
    assert placeholder(name).size == (SIDE, SIDE)


def test_small_pictures_are_enlarged_with_hard_edges_and_large_ones_stay() -> None:
    small = Image.new("RGB", (64, 64), "red")
    small.info["parameters"] = "a cat"
    assert enlarged(small).size == (384, 384)
    assert enlarged(small).info == {"parameters": "a cat"}
    large = Image.new("RGB", (512, 512))
    assert enlarged(large) is large
