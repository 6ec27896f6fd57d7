"""The writer's files are read by safetensors' own reader, and are there whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lycopatch.cli.safetensors_writer import in_file_order, write_safetensors
from lycopatch.engine.reading.dtypes import dtype_name
from lycopatch.engine.types import TensorSpec

TENSORS: dict[str, Tensor] = {
    "odd bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "halves": torch.randn(3, 5).half(),
    "view": torch.randn(4, 6).T,
    "empty": torch.ones(0, 3),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "brain": torch.randn(5).bfloat16(),
    "count": torch.arange(7),
    "名前 \" \\ \n": torch.ones(1),
}  # fmt: skip


def specs_of(tensors: dict[str, Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(dtype_name(tensor.dtype) or "", tuple(tensor.shape)) for name, tensor in tensors.items()}


def test_what_was_written_is_what_the_reference_reader_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    specs = specs_of(TENSORS)
    metadata = {"key": "value\n", "名": "前"}
    size = write_safetensors(path, specs, metadata, [(name, TENSORS[name]) for name in in_file_order(specs)])
    assert size == path.stat().st_size
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata


def test_wide_formats_come_first_and_the_rest_keeps_its_order() -> None:
    order = in_file_order(specs_of(TENSORS))
    assert order[:2] == ["number", "count"]
    assert order[-2:] == ["odd bytes", "flags"]


@pytest.mark.parametrize("names", [["number"], ["count", "number"], list(TENSORS)])
def test_tensors_that_do_not_fit_the_header_leave_no_file(tmp_path: Path, names: list[str]) -> None:
    specs = specs_of(TENSORS)
    with pytest.raises((AssertionError, IndexError)):
        write_safetensors(tmp_path / "a.safetensors", specs, {}, [(name, TENSORS[name]) for name in names])
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_safetensors(tmp_path / "a.safetensors", {}, {}, [])
    ordinary, written = (stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("ordinary", "a.safetensors"))
    assert written == ordinary
