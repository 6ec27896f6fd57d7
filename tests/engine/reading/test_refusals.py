"""Files that can not be used: each is refused with a sentence that says what it is and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from fuzzing import frame, pack, repack
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.reading.header import BadHeader, parse_header
from lycopatch.engine.wording import shown

GOOD = repack({"a": ("F32", [2], b"\0" * 8), "b": ("F16", [2, 1], b"\0" * 4)}, {"k": "v"})


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableAdapter) as caught:
        open_tensor_file(path)
    assert str(caught.value) == f"{shown(path.name)} can not be read: {caught.value.reason}"
    assert caught.value.reason.endswith(".")
    return caught.value.reason


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "inkwash.safetensors"
    path.write_bytes(content)
    return refusal(path)


def test_the_file_that_the_others_are_made_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    with open_tensor_file(str(path)) as file:
        assert list(file.specs) == ["a", "b"]


# --- not a file at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_missing_file_a_folder_and_an_empty_file(tmp_path: Path, suffix: str) -> None:
    assert refusal(tmp_path / f"missing{suffix}") == "there is no such file."
    (tmp_path / f"folder{suffix}").mkdir()
    assert refusal(tmp_path / f"folder{suffix}") == "it is a folder."
    (tmp_path / f"empty{suffix}").touch()
    assert refusal(tmp_path / f"empty{suffix}") == "it is empty. Download it again."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert refusal(tmp_path / "pipe.safetensors") == "it is not a file but a device or a pipe."


def test_a_path_that_can_be_none() -> None:
    for name in ("a\0b.safetensors", "a\0b.pt"):
        assert refusal(Path(name)) == "its path contains characters that no path can have."
    assert "the system reports" in refusal(Path("x" * 5000 + ".safetensors"))


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "locked.safetensors").write_bytes(GOOD)
    monkeypatch.setattr("lycopatch.engine.reading.positional.FileIO", denied)
    assert refusal(tmp_path / "locked.safetensors").startswith("the system does not permit to read it.")


# --- something else under this name ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html></html>", "it is a web page"),
        (b"\xef\xbb\xbf\n  <html><body>Log in</body></html>", "it is a web page"),
        (b"<?xml version='1.0'?><Error/>", "it is a web page"),
        (b'{"error": "Unauthorized", "message": "log in"}', "it is a text file (JSON)"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00archive/data.pkl", "PyTorch pickle or a zip archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "PyTorch pickle or a zip archive"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04abcdefgh", "it is a packed archive"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "it is a GGUF file"),
        (b"\0" * 4096, "nothing but zeros: the download did not finish"),
        (b"just some words in a file", "header of more than 100 MB"),
        (b"\x20\0\0\0\0\0\0\0" + b"word" * 8, "no header follows its first eight bytes"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(tmp_path, content)


def test_a_real_pickle_named_safetensors_is_named(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save({"a": torch.zeros(2)}, tmp_path / "p.safetensors", _use_new_zipfile_serialization=new)
        assert "PyTorch pickle" in refusal(tmp_path / "p.safetensors")


def test_a_header_length_that_spells_a_web_page_is_still_a_header_length(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}}).encode()
    header += b" " * (0x3C - len(header))
    path = tmp_path / "lt.safetensors"
    path.write_bytes(frame(header, b""))
    assert path.read_bytes().startswith(b"<")
    open_tensor_file(path).close()
    path.write_bytes(frame(header, b"")[:40])
    assert "the download is incomplete: 40 of at least 68 bytes" in refusal(path)


# --- cut or too long ------------------------------------------------------------------------------


def test_a_file_shorter_than_its_first_number(tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD[:5]) == "the download is incomplete: it has only 5 bytes. Download it again."


def test_a_truncated_file_is_refused_at_every_length_with_the_missing_bytes(tmp_path: Path) -> None:
    whole, start = len(GOOD), len(GOOD) - 12
    for size in range(8, whole):
        reason = refused(tmp_path, GOOD[:size])
        needed = f"{whole} bytes" if size >= start else f"at least {start} bytes"
        assert reason == f"the download is incomplete: {size} of {needed}. Download it again."


def test_bytes_behind_the_last_tensor(tmp_path: Path) -> None:
    assert "3 bytes follow its last tensor" in refused(tmp_path, GOOD + b"abc")


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**63, 2**64 - 1])
def test_an_impossible_header_length(tmp_path: Path, length: int) -> None:
    assert "it is not a safetensors file" in refused(tmp_path, length.to_bytes(8, "little") + GOOD[8:])


# --- headers --------------------------------------------------------------------------------------


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a":', "not valid JSON"),
        (b'{"a":1}{}', "not valid JSON"),
        (b'{"a\xff":1}', "not valid UTF-8"),
        (b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "not valid UTF-8"),
        (b'{"__metadata__":{"k":"\\udc00"}}', "not valid UTF-8"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":NaN}', 'contains the number "NaN"'),
        (b'{"a":1.5}', 'contains the number "1.5"'),
        (b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 'contains the number "-0"'),
        (b'{"a":1,"a":1}', 'contains "a" twice'),
        (b'{"a":1,"\\u0061":1}', 'contains "a" twice'),
        (b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}', 'contains "dtype" twice'),
        (b'{"__metadata__":{"k":"1","k":"2"}}', 'contains "k" twice'),
        (b'{"__metadata__":["k"]}', "its metadata is not a list of names and texts"),
        (b'{"__metadata__":{"ss_dim":4}}', 'the value of "ss_dim" in its metadata is not a text'),
        (b'{"__metadata__":{"ss_dim":null}}', 'the value of "ss_dim" in its metadata is not a text'),
    ],
)
def test_a_header_that_is_not_what_it_should_be(tmp_path: Path, header: bytes, words: str) -> None:
    assert words in refused(tmp_path, frame(header, b""))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"a": 1}, 'tensor "a" has no dtype, shape and position'),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 'tensor "a" has no dtype'),
        ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 'tensor "a" has no shape'),
        ({"a": {"dtype": "F32", "shape": [2]}}, 'tensor "a" has no beginning and end'),
        ({"a": entry(dtype=["F32"])}, 'tensor "a" has no dtype'),
        ({"a": entry(dtype="F4")}, 'tensor "a" is stored as "F4", a number format that is not supported'),
        ({"a": entry(shape="2")}, "has no shape"),
        ({"a": entry(shape=[-2])}, "not made of whole numbers"),
        ({"a": entry(shape=[True, 2])}, "not made of whole numbers"),
        ({"a": entry(shape=["2"])}, "not made of whole numbers"),
        ({"a": entry(shape=[[2]])}, "not made of whole numbers"),
        ({"a": entry(shape=[1] * 17)}, "has 17 axes"),
        ({"a": entry(shape=[2**32, 2**32])}, "claims to be larger than any tensor"),
        ({"a": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}, "claims to be larger than any tensor"),
        ({"a": entry(shape=[3])}, "needs 12 bytes for shape [3] in F32, but has 8"),
        ({"a": entry(offsets=[8, 0])}, "no valid beginning and end"),
        ({"a": entry(offsets=[-8, 0])}, "no valid beginning and end"),
        ({"a": entry(offsets=[False, 8])}, "no valid beginning and end"),
        ({"a": entry(offsets=[0, 2**64])}, "no valid beginning and end"),
        ({"a": entry(offsets=[0, 8, 8])}, "no beginning and end"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, 'tensor "b" overlaps the tensor before it'),
        ({"a": entry(), "b": entry()}, 'tensor "b" overlaps the tensor before it'),
        ({"a": entry(), "b": entry(offsets=[9, 17])}, 'tensor "b" leaves a hole in the data before it'),
        ({"a": entry(offsets=[1, 9])}, 'tensor "a" leaves a hole'),
    ],
)
def test_an_entry_that_contradicts_itself_is_named(tmp_path: Path, document: dict[str, object], words: str) -> None:
    assert words in refused(tmp_path, pack(document, b"\0" * 32))


def test_fields_that_a_later_format_may_add_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    path.write_bytes(pack({"a": {**entry(), "comment": {"by": ["somebody", -1]}}}, b"\0" * 8))
    open_tensor_file(path).close()


def test_text_with_real_surrogate_pairs_is_accepted() -> None:
    header = parse_header(json.dumps({"__metadata__": {"title": "🎨 名前"}}).encode())
    assert header.metadata == {"title": "🎨 名前"}


def test_a_hostile_name_stays_short_and_on_one_line(tmp_path: Path) -> None:
    reason = refused(tmp_path, pack({"x\n\x1b[31m" + "y" * 10_000: 1}, b""))
    assert len(reason) < 200
    assert reason.isprintable()


def test_numbers_of_thousands_of_digits_are_refused_on_every_python(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b'{"a":' + b"9" * 4000 + b"}"
    with pytest.raises(BadHeader):
        parse_header(raw)
    with pytest.raises(BadHeader, match=r"a number of endless length|contains the number"):
        parse_header(b'{"a":' + b"9" * 5000 + b"}")
    monkeypatch.setattr("sys.version_info", (3, 10, 6))
    with pytest.raises(BadHeader, match="contains the number"):
        parse_header(raw)
