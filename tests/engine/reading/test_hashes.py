"""The hashes, against their definitions computed the slow way, and against known answers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fuzzing import pack, repack, unpack
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import Hashes, file_hashes


def digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def by_definition(content: bytes, data: bytes) -> Hashes:
    return Hashes(
        sha256=digits(content),
        autov1=digits(content[0x100000:0x110000])[:8],
        autov2=digits(content)[:10],
        autov3=digits(data),
        short=digits(data)[:12],
    )


@pytest.mark.parametrize("size", [0, 1, 0x100000 - 500, 0x108000, 0x110000, 2**22 - 200, 2**22, 9_000_001])
def test_all_hashes_of_files_of_many_sizes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    content = repack({"a": ("U8", [size], data)}, {"ss_output_name": "inkwash"})
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert file_hashes(path) == by_definition(content, data)
    path = path.rename(tmp_path / "a.pt")
    assert file_hashes(str(path)) == by_definition(content, content)


def test_a_header_longer_than_one_read(tmp_path: Path) -> None:
    content = repack({"a": ("U8", [3], b"xyz")}, {"ssmd_cover_images": "i" * 5_000_000})
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert file_hashes(path) == by_definition(content, b"xyz")


def test_known_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack({}, b""))
    assert file_hashes(path).autov1 == "e3b0c442"
    assert file_hashes(path).short == "e3b0c44298fc"


def test_the_data_hash_outlives_edited_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.randn(8, 8), "b": torch.randn(3).half()}, path, metadata={"ss_output_name": "before"})
    before = file_hashes(path)
    parsed = unpack(path.read_bytes())
    assert parsed is not None
    parsed[0]["__metadata__"] = {"ss_output_name": "after"}
    path.write_bytes(pack(*parsed))
    after = file_hashes(path)
    assert (after.autov3, after.short) == (before.autov3, before.short)
    assert after.sha256 != before.sha256


def test_a_damaged_safetensors_file_is_hashed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content in (b"abc", b"\xff" * 100):
        path.write_bytes(content)
        assert file_hashes(path) == by_definition(content, content)


def test_progress_counts_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"x" * (2**22 * 2 + 5))
    seen: list[tuple[int, int]] = []
    file_hashes(path, lambda done, total: seen.append((done, total)))
    total = 2**22 * 2 + 5
    assert seen == [(2**22, total), (2**23, total), (total, total)]


class CancelledError(OSError):
    """Of the kind that could be mistaken for an error of the disk."""


def test_progress_cancels_by_raising(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"x" * (2**22 * 2))
    calls: list[int] = []

    def cancel(done: int, total: int) -> None:
        calls.append(done)
        raise CancelledError

    with pytest.raises(CancelledError):
        file_hashes(path, cancel)
    assert calls == [2**22]


def test_a_file_that_changes_meanwhile_has_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"x" * 100)

    def grow(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(UnreadableAdapter, match="written again"):
        file_hashes(path, grow)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAdapter, match="no such file"):
        file_hashes(tmp_path / "missing.safetensors")
