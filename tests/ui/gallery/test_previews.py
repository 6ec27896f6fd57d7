"""Which files beside a network may be shown, and as what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lycopatch.ui.gallery.previews import NoPreview, media_type_of, opened_preview
from preview_files import HTML, MP4, SVG, WEBM, write_animation, write_picture


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "Lora"
    folder.mkdir()
    network = folder / "ink.safetensors"
    network.write_bytes(b"x")
    return network


def media_type(network: Path, preview: Path) -> str:
    with opened_preview(network, preview) as opened:
        assert opened.file.read() == preview.read_bytes()
        assert opened.size == preview.stat().st_size
        return opened.media_type


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "gif", "preview.png", "PNG"])
def test_a_picture_beside_its_network_is_shown(network: Path, ending: str) -> None:
    preview = write_picture(network.with_name(f"ink.{ending}"))
    kind = ending.lower().rpartition(".")[2].replace("jpg", "jpeg")
    assert media_type(network, preview) == f"image/{kind}"


@pytest.mark.parametrize(("ending", "data"), [("mp4", MP4), ("webm", WEBM)])
def test_a_video_beside_its_network_is_shown(network: Path, ending: str, data: bytes) -> None:
    preview = network.with_name(f"ink.preview.{ending}")
    preview.write_bytes(data)
    assert media_type(network, preview) == f"video/{ending}"


def test_a_picture_is_what_its_bytes_say_and_not_its_name(network: Path) -> None:
    jpeg = write_picture(network.with_name("ink.png"), format="JPEG")
    assert media_type(network, jpeg) == "image/jpeg"
    video = network.with_name("ink.preview.png")
    video.write_bytes(MP4)
    assert media_type(network, video) == "video/mp4"


@pytest.mark.parametrize("data", [SVG, HTML, b"", b"\x00" * 50, b"RIFFxxxxWAVE", b"GIF8", b"%PDF-1.7"])
def test_a_page_or_anything_else_called_png_is_refused(network: Path, data: bytes) -> None:
    preview = network.with_name("ink.png")
    preview.write_bytes(data)
    assert media_type_of(data[:16]) is None
    with pytest.raises(NoPreview, match="known format"), opened_preview(network, preview):
        pass


@pytest.mark.parametrize(
    "name", ["ink.svg", "ink.html", "ink.json", "ink", "ink.safetensors", "other.png", "inkwell.png"]
)
def test_a_file_that_is_no_preview_of_the_network_is_refused(network: Path, name: str) -> None:
    preview = network.with_name(name)
    preview.write_bytes(write_picture(network.with_name("real.png")).read_bytes())
    with pytest.raises(NoPreview), opened_preview(network, preview):
        pass


@pytest.mark.parametrize("place", ["../ink.png", "sub/ink.png", "../Lora/../ink.png", "/etc/ink.png", "ink.\0.png"])
def test_a_path_that_leads_elsewhere_is_refused(network: Path, tmp_path: Path, place: str) -> None:
    (network.parent / "sub").mkdir()
    for folder in (tmp_path, network.parent / "sub"):
        write_picture(folder / "ink.png")
    with pytest.raises(NoPreview), opened_preview(network, network.parent / place):
        pass


def test_links_out_of_the_folder_are_refused_whatever_they_lead_to(network: Path, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "ink.png")
    for target in (Path("/etc/passwd"), picture, Path("/dev/zero"), tmp_path, tmp_path / "nothing"):
        preview = network.with_name("ink.png")
        preview.unlink(missing_ok=True)
        preview.symlink_to(target)
        with pytest.raises(NoPreview), opened_preview(network, preview):
            pass


def test_links_within_the_folder_and_whole_sets_of_links_are_shown(network: Path, tmp_path: Path) -> None:
    write_picture(network.with_name("shared.png"))
    inside = network.with_name("ink.png")
    inside.symlink_to("shared.png")
    assert media_type(network, inside) == "image/png"
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "far.safetensors").write_bytes(b"x")
    write_picture(disk / "far.png")
    for name in ("far.safetensors", "far.png"):
        (network.parent / name).symlink_to(disk / name)
    assert media_type(network.with_name("far.safetensors"), network.with_name("far.png")) == "image/png"


def test_a_folder_that_is_a_link_is_as_good_as_any(network: Path, tmp_path: Path) -> None:
    write_picture(network.with_name("ink.png"))
    (tmp_path / "linked").symlink_to(network.parent)
    assert media_type(tmp_path / "linked" / network.name, tmp_path / "linked" / "ink.png") == "image/png"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with names")
def test_a_folder_or_a_pipe_called_png_is_refused_without_waiting(network: Path) -> None:
    pipe, folder = network.with_name("ink.png"), network.with_name("ink.jpg")
    os.mkfifo(pipe)
    folder.mkdir()
    for preview in (pipe, folder):
        with pytest.raises(NoPreview), opened_preview(network, preview):
            pass


def test_a_missing_file_is_refused_with_a_sentence_that_names_no_folder(network: Path, tmp_path: Path) -> None:
    with pytest.raises(NoPreview) as told, opened_preview(network, network.with_name("ink.png")):
        pass
    assert str(tmp_path) not in str(told.value)


def test_an_animation_is_a_picture(network: Path) -> None:
    assert media_type(network, write_animation(network.with_name("ink.gif"))) == "image/gif"
