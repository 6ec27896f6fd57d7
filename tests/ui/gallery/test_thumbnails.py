"""Small copies of previews: what they show, what makes a new one, and what is never read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lycopatch.ui.gallery import thumbnails as module
from lycopatch.ui.gallery.previews import opened_preview
from lycopatch.ui.gallery.thumbnails import WIDTH, Thumbnail, Thumbnails
from preview_files import MP4, bomb, opened, write_animation, write_picture

Make = Callable[[Path], Thumbnail]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    network = tmp_path / "Lora" / "ink.safetensors"
    network.parent.mkdir()
    network.write_bytes(b"x")
    return network


@pytest.fixture
def shelf(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "cache" / "thumbnails")


@pytest.fixture
def make(network: Path, shelf: Thumbnails) -> Make:
    def make(preview: Path) -> Thumbnail:
        with opened_preview(network, preview) as found:
            return shelf.of(found)

    return make


def kept(shelf: Thumbnails) -> list[str]:
    return sorted(os.listdir(shelf.folder)) if shelf.folder.is_dir() else []


SIZES = {(640, 960): (320, 480), (2000, 1000): (320, 160), (100, 3000): (21, 640), (64, 64): (320, 320)}


@pytest.mark.parametrize(("size", "small"), SIZES.items())
def test_a_thumbnail_is_as_wide_as_a_card_and_keeps_its_shape(
    make: Make, network: Path, size: tuple[int, int], small: tuple[int, int]
) -> None:
    made = make(write_picture(network.with_name("ink.png"), size))
    assert (made.media_type, made.problem) == ("image/webp", None)
    assert (opened(made.data).format, opened(made.data).size) == ("WEBP", small)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_the_first_picture_of_an_animation_is_shown(make: Make, network: Path, ending: str) -> None:
    made = opened(make(write_animation(network.with_name(f"ink.{ending}"))).data).convert("RGB")
    red, _, blue = made.getpixel((100, 100))  # type: ignore[misc]
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_colour_is_read(make: Make, network: Path, mode: str) -> None:
    preview = network.with_name("ink.jpg" if mode == "CMYK" else "ink.png")
    Image.new(mode, (400, 400)).save(preview)
    assert make(preview).problem is None


def test_a_picture_lies_as_its_camera_says(make: Make, network: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    preview = network.with_name("ink.jpg")
    Image.new("RGB", (800, 400)).save(preview, exif=turned)
    assert opened(make(preview).data).size == (320, 640)


def test_a_thumbnail_is_made_once_and_again_when_the_preview_changed(
    make: Make, network: Path, shelf: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = write_picture(network.with_name("ink.png"))
    first = make(preview)
    monkeypatch.setattr(module, "reduced", lambda preview: pytest.fail("made twice"))
    assert make(preview) == first
    monkeypatch.undo()
    write_picture(preview, colour="blue")
    os.utime(preview, (1, 1))
    assert make(preview).data != first.data
    assert len(kept(shelf)) == 2


def test_what_can_not_be_read_becomes_a_picture_that_says_why(make: Make, network: Path, shelf: Thumbnails) -> None:
    preview = network.with_name("ink.png")
    good = write_picture(preview).read_bytes()
    for data, why in (
        (good[:200], "is damaged"),
        (bomb(30_000, 30_000), "too many"),
        (bomb(7_000, 7_000), "7000 × 7000 pixels"),
        (good[:60] + b"\xff" * 100 + good[160:], "is damaged"),
        (b"\x89PNG\r\n\x1a\n<svg onload=alert(1)>", "is damaged"),
        (MP4, "is damaged"),
    ):
        preview.write_bytes(data)
        made = make(preview)
        assert why in (made.problem or "")
        assert opened(made.data).size == (WIDTH, WIDTH)
    assert kept(shelf) == []


def test_a_picture_of_too_many_bytes_is_not_decoded(make: Make, network: Path) -> None:
    preview = write_picture(network.with_name("ink.png"))
    os.truncate(preview, 33 << 20)
    assert make(preview).problem == "The preview has more than 32 MiB."


def test_the_folder_is_bounded_and_loses_its_oldest_and_nothing_of_others(network: Path, tmp_path: Path) -> None:
    shelf = Thumbnails(tmp_path / "cache", most_bytes=50_000)
    shelf.folder.mkdir()
    (shelf.folder / "mine.webp").write_bytes(bytes(9000))
    (shelf.folder / ".0123456789abcdef.tmp").write_bytes(bytes(10))
    os.utime(shelf.folder / ".0123456789abcdef.tmp", (1, 1))
    sizes = []
    for number in range(20):
        preview = network.with_name("ink.png")
        Image.effect_noise((320, 60), number + 50).save(preview)
        with opened_preview(network, preview) as found:
            sizes.append(len(shelf.of(found).data))
            newest = shelf.key(found)
    left = [name for name in kept(shelf) if name != "mine.webp"]
    assert sum((shelf.folder / name).stat().st_size for name in left) <= 50_000 < sum(sizes)
    assert f"{newest}.webp" in left
    assert (shelf.folder / "mine.webp").stat().st_size == 9000
    assert not any(name.endswith(".tmp") for name in left)


def test_without_a_folder_to_write_to_thumbnails_are_made_each_time(network: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    preview = write_picture(network.with_name("ink.png"))
    with opened_preview(network, preview) as found:
        assert Thumbnails(tmp_path / "file" / "below").of(found).problem is None


def test_without_webp_thumbnails_are_png(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.features, "check", lambda name: False)
    shelf = Thumbnails(tmp_path / "cache")
    with opened_preview(network, write_picture(network.with_name("ink.png"))) as found:
        made = shelf.of(found)
    assert (made.media_type, opened(made.data).format) == ("image/png", "PNG")
    assert kept(shelf)[0].endswith(".png")


def test_many_who_ask_at_once_get_the_same(make: Make, network: Path, shelf: Thumbnails) -> None:
    preview = write_picture(network.with_name("ink.png"), (1500, 1500))
    made: list[Thumbnail] = []
    threads = [threading.Thread(target=lambda: made.append(make(preview))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert len(kept(shelf)) == 1
