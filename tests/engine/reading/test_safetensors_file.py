"""Whole safetensors files: what is read equals what was saved, from any number of threads, in any piece."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fuzzing import pack, repack
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.reading.dtypes import dtype_name, torch_dtype
from lycopatch.engine.reading.positional import PositionalFile
from lycopatch.engine.types import DTYPE_BYTES, Fingerprint, TensorSpec

INSTALLED = sorted(name for name in DTYPE_BYTES if torch_dtype(name) is not None)


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 2 if dtype == torch.bool else 120, (*shape, size), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def test_every_number_format_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = {name: numbers(torch_dtype(name) or torch.float32, 3, 5) for name in INSTALLED}
    save_file(saved, tmp_path / "all.safetensors", metadata={"ss_network_dim": "5"})
    with open_tensor_file(tmp_path / "all.safetensors") as file:
        assert set(file.specs) == set(INSTALLED)
        assert file.metadata == {"ss_network_dim": "5"}
        for name, tensor in saved.items():
            assert file.specs[name] == TensorSpec(name, (3, 5))
            read = file.read(name)
            assert (read.dtype, read.shape, read.device.type) == (tensor.dtype, tensor.shape, "cpu")
            assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))


def test_the_two_tables_of_number_formats_agree() -> None:
    assert len(INSTALLED) >= 10
    for name in INSTALLED:
        dtype = torch_dtype(name)
        assert dtype is not None
        assert torch.empty(0, dtype=dtype).element_size() == DTYPE_BYTES[name]
        assert dtype_name(dtype) == name
    assert dtype_name(torch.complex64) is None


def test_scalars_empty_tensors_and_a_file_without_any(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    path.write_bytes(repack({"alpha": ("F32", [], b"\0\0\x80?"), "none": ("F16", [4, 0, 2], b"")}))
    with open_tensor_file(path) as file:
        assert file.read("alpha").shape == ()
        assert file.read("alpha").item() == 1.0
        assert file.read("none").shape == (4, 0, 2)
        file.read_flat("none", 0, torch.empty(0, dtype=torch.float16))
    path.write_bytes(pack({}, b""))
    with open_tensor_file(path) as file:
        assert not file.specs
        assert file.metadata == {}


def test_specs_are_in_the_order_of_the_data_and_not_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "order.safetensors"
    second = {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}
    first = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    path.write_bytes(pack({"second": second, "first": first}, b"\x07\x08"))
    with open_tensor_file(path) as file:
        assert list(file.specs) == ["first", "second"]
        assert (file.read("first").item(), file.read("second").item()) == (7, 8)


def test_the_data_starts_behind_the_header(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    content = repack({"a": ("U8", [3], b"xyz")})
    path.write_bytes(content)
    with open_tensor_file(path) as file:
        assert content[file.data_start :] == b"xyz"
        status = path.stat()
        assert file.fingerprint == Fingerprint(status.st_size, status.st_mtime_ns)
        assert file.path == path


def test_what_is_read_owns_its_memory(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0)}, tmp_path / "a.safetensors")
    with open_tensor_file(tmp_path / "a.safetensors") as file:
        first, second = file.read("a"), file.read("a")
    first.zero_()
    assert torch.equal(second, torch.arange(6.0))


def test_tensors_are_on_the_cpu_whatever_the_default_device(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0)}, tmp_path / "a.safetensors")
    with open_tensor_file(tmp_path / "a.safetensors") as file, torch.device("meta"):
        assert file.read("a").device.type == "cpu"


def test_a_bool_that_is_neither_0_nor_1_becomes_1(tmp_path: Path) -> None:
    path = tmp_path / "bool.safetensors"
    path.write_bytes(repack({"on_input": ("BOOL", [3], b"\x00\x01\x04")}))
    with open_tensor_file(path) as file:
        assert file.read("on_input").view(torch.uint8).tolist() == [0, 1, 1]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    save_file({"pad": torch.ones(7), "w": torch.arange(1000, dtype=torch.int16).view(10, 100)}, tmp_path / "big.sft")
    return tmp_path / "big.sft"


def test_read_flat_fills_any_window(big: Path) -> None:
    with open_tensor_file(big) as file:
        out = torch.full((30,), -1, dtype=torch.int16)
        file.read_flat("w", 95, out[5:25])
        assert out[:5].tolist() == [-1] * 5
        assert out[5:25].tolist() == list(range(95, 115))
        assert out[25:].tolist() == [-1] * 5


@pytest.mark.parametrize(
    ("start", "out"),
    [
        (-1, torch.empty(4, dtype=torch.int16)),
        (997, torch.empty(4, dtype=torch.int16)),
        (0, torch.empty(4, dtype=torch.float16)),
        (0, torch.empty(2, 2, dtype=torch.int16)),
        (0, torch.empty(8, dtype=torch.int16)[::2]),
        (0, torch.empty(4, dtype=torch.int16, device="meta")),
    ],
)
def test_read_flat_rejects_a_window_or_memory_that_does_not_fit(big: Path, start: int, out: torch.Tensor) -> None:
    with open_tensor_file(big) as file, pytest.raises(ValueError, match="w: "):
        file.read_flat("w", start, out)


def test_an_unknown_key_is_the_callers_mistake(big: Path) -> None:
    with open_tensor_file(big) as file, pytest.raises(KeyError):
        file.read("nothing")


def test_reading_a_closed_file_is_the_callers_mistake(big: Path) -> None:
    file = open_tensor_file(big)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read("w")


@pytest.mark.parametrize("positional", [True, False])
def test_many_threads_read_one_file_at_once(big: Path, positional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if positional and not hasattr(os, "preadv"):
        pytest.skip("this system has no preadv")
    monkeypatch.setattr(PositionalFile.__init__, "__kwdefaults__", {"positional": positional})
    opened = open_tensor_file(big)
    barrier = threading.Barrier(8)

    def read(worker: int) -> bool:
        barrier.wait()
        out = torch.empty(50, dtype=torch.int16)
        for turn in range(200):
            start = (worker * 97 + turn * 31) % 950
            opened.read_flat("w", start, out)
            if out.tolist() != list(range(start, start + 50)):
                return False
        return True

    with opened, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_a_file_written_again_is_noticed(big: Path) -> None:
    with open_tensor_file(big) as file:
        file.check_unchanged()
        status = big.stat()
        os.utime(big, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(UnreadableAdapter, match=r'^"big.sft" can not be read: it was written again'):
            file.check_unchanged()


def test_a_file_replaced_by_another_is_noticed(big: Path, tmp_path: Path) -> None:
    with open_tensor_file(big) as file:
        (tmp_path / "new").write_bytes(b"something else")
        (tmp_path / "new").replace(big)
        with pytest.raises(UnreadableAdapter, match="written again"):
            file.check_unchanged()
        assert file.read("pad").tolist() == [1.0] * 7


def test_a_file_that_was_deleted_is_noticed(big: Path) -> None:
    with open_tensor_file(big) as file:
        big.unlink()
        with pytest.raises(UnreadableAdapter, match="no such file"):
            file.check_unchanged()


def test_a_file_changed_behind_a_path_that_leads_elsewhere_now_is_noticed(big: Path, tmp_path: Path) -> None:
    with open_tensor_file(big) as file:
        status = big.stat()
        twin = tmp_path / "twin"
        twin.write_bytes(big.read_bytes())
        os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
        big.rename(tmp_path / "moved")
        twin.rename(big)
        file.check_unchanged()
        os.truncate(tmp_path / "moved", 100)
        with pytest.raises(UnreadableAdapter, match="written again"):
            file.check_unchanged()


def test_a_file_cut_while_it_is_open_gives_an_error_and_no_crash(big: Path) -> None:
    with open_tensor_file(big) as file:
        os.truncate(big, big.stat().st_size - 1000)
        with pytest.raises(UnreadableAdapter, match="became shorter while it was read"):
            file.read("w")


def test_an_error_of_the_disk_while_reading_is_a_sentence(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with open_tensor_file(big) as file:
        monkeypatch.setattr(PositionalFile, "_read_some", broken)
        with pytest.raises(UnreadableAdapter, match=r"the system reports: Input/output error\. Check the disk"):
            file.read("w")


def test_a_tensor_larger_than_memory_is_a_sentence(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with open_tensor_file(big) as file:
        monkeypatch.setattr(torch, "empty", full)
        with pytest.raises(UnreadableAdapter, match=r'not enough memory for tensor "w" \(2000 bytes\)'):
            file.read("w")


def test_a_number_format_that_torch_lacks_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.safetensors"
    path.write_bytes(repack({"a": ("U16", [1], b"\0\0"), "b": ("U8", [1], b"\x05")}))
    monkeypatch.delattr(torch, "uint16", raising=False)
    with open_tensor_file(path) as file:
        assert file.read("b").item() == 5
        with pytest.raises(UnreadableAdapter, match="stored as U16, which this version of PyTorch lacks"):
            file.read("a")


def test_no_handle_stays_open_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all")
    for _ in range(3):
        with pytest.raises(UnreadableAdapter):  # a handle left open is a ResourceWarning, and warnings are errors
            open_tensor_file(path)
    path.rename(tmp_path / "renamed")
