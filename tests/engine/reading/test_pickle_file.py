"""Pickles: only when allowed, never running anything, and unwrapped to plain named tensors."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from fuzzing import mutations, repack
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.types import TensorSpec


def saved(path: Path, content: object, *, new: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableAdapter) as caught:
        open_tensor_file(path, allow_pickle=True)
    assert caught.value.reason.endswith(".")
    assert caught.value.reason.isprintable()
    return caught.value.reason


def names(path: Path) -> list[str]:
    with open_tensor_file(path, allow_pickle=True) as file:
        return list(file.specs)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth", ".PT"])
def test_a_pickle_needs_permission_and_the_sentence_says_which(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"old{suffix}", {"a": torch.ones(2)})
    with pytest.raises(UnreadableAdapter, match=r'better to convert it to safetensors.*"Allow pickle files"'):
        open_tensor_file(path)
    assert names(path) == ["a"]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_tensors_come_back_bit_for_bit(tmp_path: Path, new: bool) -> None:
    base = torch.arange(24, dtype=torch.float16).view(4, 6)
    content = {
        "half": base,
        "transposed": base.t(),
        "bfloat": torch.randn(3, 3).bfloat16(),
        "parameter": torch.nn.Parameter(torch.randn(2, 5)),
        "alpha": torch.tensor(4.0),
        "none": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
    }
    path = saved(tmp_path / "a.pt", OrderedDict(content), new=new)
    with open_tensor_file(path, allow_pickle=True) as file:
        assert list(file.specs) == list(content)
        assert (file.metadata, file.data_start, file.path) == ({}, 0, path)
        assert file.specs["transposed"] == TensorSpec("F16", (6, 4))
        for name, tensor in content.items():
            read = file.read(name)
            assert (read.dtype, read.shape, read.requires_grad) == (tensor.dtype, tensor.shape, False)
            assert torch.equal(read, tensor)
        out = torch.zeros(5, dtype=torch.float16)
        file.read_flat("transposed", 2, out)
        assert torch.equal(out, base.t().reshape(-1)[2:7])
        file.read("half").zero_()
        assert torch.equal(file.read("half"), base)


def test_a_closed_or_changed_pickle_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.ones(2)})
    file = open_tensor_file(path, allow_pickle=True)
    file.check_unchanged()
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnreadableAdapter, match="written again"):
        file.check_unchanged()
    file.close()
    with pytest.raises(KeyError):
        file.read("a")


class Payload:
    """Creates a file when it is unpickled by a loader that lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # from the proof that the payload works
def test_a_program_in_a_pickle_does_not_run(tmp_path: Path, new: bool) -> None:
    trace = tmp_path / "it_ran"
    path = saved(tmp_path / "evil.pt", {"a": torch.ones(2), "b": Payload(trace)}, new=new)
    assert "PyTorch would have to run a program from it" in refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace))).close()
    assert trace.exists(), "the payload is not one"


def test_a_bare_payload_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "it_ran")))
    refusal(path)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"state_dict": {"a": torch.ones(1)}}, ["a"]),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3, "lr": 0.1}, ["a"]),
        ({"lora": {"a": torch.ones(1)}}, ["a"]),
        ({"lora": {"a": torch.ones(1)}, "base": {"b": torch.ones(1)}, "plugin": {"c": torch.ones(1)}}, ["a", "c", "b"]),
        ({"lora": {"a": torch.ones(1)}, "lora_ema": {"a": torch.zeros(1)}}, ["a"]),
        ({"state_dict": {"lora": {"a": torch.ones(1)}}}, ["a"]),
        ({"a": torch.ones(1), "state_dict": {"b": torch.ones(1)}}, ["a"]),
        ({"a": torch.ones(1), "step": 3, "note": "x", "nothing": None, 5: torch.ones(1)}, ["a"]),
    ],
)
def test_containers_are_unwrapped_and_other_values_left_out(
    tmp_path: Path, content: object, expected: list[str]
) -> None:
    assert names(saved(tmp_path / "a.pt", content)) == expected


def test_one_name_in_two_parts_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"lora": {"a": torch.ones(1)}, "base": {"a": torch.ones(1)}})
    assert 'the tensor "a" in two of its parts' in refusal(path)


@pytest.mark.parametrize(("length", "owner"), [(256, "unet"), (288, "unet"), (96, "text_encoder")])
def test_a_list_without_names_gets_them_from_its_length(tmp_path: Path, length: int, owner: str) -> None:
    pairs = [torch.full((3, 2) if index % 2 == 0 else (2, 4), float(index)) for index in range(length)]
    path = saved(tmp_path / "list.pt", pairs)
    with open_tensor_file(path, allow_pickle=True) as file:
        assert list(file.specs)[:3] == [f"{owner}:0:up", f"{owner}:0:down", f"{owner}:1:up"]
        assert len(file.specs) == length
        last = length // 2 - 1
        assert file.read(f"{owner}:{last}:up").shape == (3, 2)
        assert file.read(f"{owner}:{last}:down")[0, 0].item() == length - 1


@pytest.mark.parametrize("content", [[torch.ones(1)] * 10, [1] * 96, []])
def test_a_list_of_another_length_is_refused(tmp_path: Path, content: list[object]) -> None:
    assert f"a list of {len(content)} values without names" in refusal(saved(tmp_path / "list.pt", content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(2), "no named tensors but one Tensor"),
        ("text", "no named tensors but one str"),
        ({}, "it holds no named tensors."),
        ({"a": 1, "b": {"c": {}}}, "it holds no named tensors."),
        ({"a": torch.eye(3).to_sparse()}, 'tensor "a" is sparse'),
        ({"a": torch.empty(2, device="meta")}, 'tensor "a" is a tensor without data'),
        ({"a": torch.ones(2, dtype=torch.complex64)}, 'tensor "a" is stored as complex64'),
        ({"a": torch.ones(1).expand(1000, 1000)}, 'tensor "a" is larger than its data'),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch remarks on loading sparse tensors
def test_contents_that_are_no_usable_tensors(tmp_path: Path, content: object, words: str) -> None:
    assert words in refusal(saved(tmp_path / "a.pt", content))


@pytest.mark.filterwarnings("ignore")  # quantised tensors are on their way out of torch
def test_a_quantised_tensor_is_refused(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    reason = refusal(saved(tmp_path / "a.pt", {"a": tensor}))
    # older versions of torch do not even make one from a file
    assert 'tensor "a" is stored as qint8' in reason or "PyTorch would have to run a program from it" in reason


class Lie:
    """Unpickles as a tensor of 64 million elements over the storage of ``tensor``."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[object, ...]:
        build, arguments = self.tensor.__reduce_ex__(2)[:2]
        storage, offset, _, _, *rest = arguments
        return build, (storage, offset, (64_000_000,), (1,), *rest)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_tensor_that_reaches_beyond_its_data_is_refused(tmp_path: Path, new: bool) -> None:
    assert "damaged" in refusal(saved(tmp_path / "a.pt", {"a": Lie(torch.ones(4))}, new=new))


def test_tensors_that_are_larger_than_their_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"a": torch.zeros(2000)})  # as some versions answer such a lie
    path = saved(tmp_path / "a.pt", {"a": torch.ones(4)})
    assert "its tensors are larger than the file" in refusal(path)


def test_a_packed_archive_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.pt", {"a": torch.zeros(100_000)})
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for member in source.namelist():
            packed.writestr(member, source.read(member))
    assert path.stat().st_size < 10_000
    assert "it is a packed archive" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"nonsense that is no pickle", "it is damaged"),
        (b"\x80\x02", "it is damaged"),
        (b"PK\x03\x04 and nothing else", "it is damaged"),
        (repack({"a": ("U8", [1], b"x")}), "it is a safetensors file under another name"),
    ],
)
def test_other_files_named_like_a_pickle(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_safety_check_of_the_host_that_answers_nothing_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: None)
    path = tmp_path / "a.pt"
    path.write_bytes(b"x")
    assert "the safety check for pickle files refused it" in refusal(path)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), KeyError("x"), OSError(5, "Input/output error")])
def test_whatever_the_unpickler_raises_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    path = saved(tmp_path / "a.pt", {"a": torch.ones(1)})
    monkeypatch.setattr(torch, "load", failing)
    assert refusal(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")  # torch comments on some of the damage
def test_damaged_pickles_are_refused_or_read_and_never_anything_else(tmp_path: Path, new: bool) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.randn(4, 4), "b": {"c": torch.ones(2)}}, new=new)
    changed = mutations(path.read_bytes(), random.Random(5))
    outcomes: set[bool] = set()
    for _ in range(400):
        path.write_bytes(next(changed))
        try:
            with open_tensor_file(path, allow_pickle=True) as file:
                for name, spec in file.specs.items():
                    assert file.read(name).shape == spec.shape
            outcomes.add(True)
        except UnreadableAdapter:
            outcomes.add(False)
    assert outcomes == {True, False}
