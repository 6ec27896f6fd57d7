"""A file's own pages as memory: only while nobody can cut the file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lycopatch.engine.reading import TensorFile, open_tensor_file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[TensorFile]:
    path = tmp_path / "checkpoint.safetensors"
    save_file({"a": torch.arange(5000.0), "b": torch.ones(3, dtype=torch.bool)}, path)
    with open_tensor_file(path) as opened:
        with opened.window():
            if opened.view("a", 0, 1) is None:
                pytest.skip("this system gives no lease on the file")
        yield opened


def test_a_window_shows_the_stored_numbers_and_only_while_it_is_open(file: TensorFile) -> None:
    with file.window():
        part = file.view("a", 4000, 5)
        assert part is not None
        assert part.tolist() == [4000, 4001, 4002, 4003, 4004]
        del part
        file.forget_pages("a")
        again = file.view("a", 0, 2)
        assert again is not None
        assert again.tolist() == [0, 1]
        del again
        assert file.view("a", 4999, 2) is None, "beyond the end"
        assert file.view("b", 0, 1) is None, "a bool may be any byte in the file"
    assert file.view("a", 0, 1) is None


def test_a_writer_waits_until_the_window_is_closed(file: TensorFile) -> None:
    opened = threading.Event()

    def write() -> None:
        with open(file.path, "r+b"):
            opened.set()

    writer = threading.Thread(target=write)
    with file.window():
        writer.start()
        time.sleep(0.1)
        assert not opened.is_set()
    writer.join(10)
    assert opened.is_set()


def test_nothing_more_is_shown_while_a_writer_waits(file: TensorFile) -> None:
    """The system lets a writer wait for a time, and then no longer."""
    with file.window():
        assert file.view("a", 0, 1) is not None
        with pytest.raises(BlockingIOError):
            os.close(os.open(file.path, os.O_WRONLY | os.O_NONBLOCK))
        assert file.view("a", 0, 1) is None
        out = torch.empty(2)
        file.read_flat("a", 3, out)
        assert out.tolist() == [3, 4]


def test_there_is_no_window_on_a_file_that_somebody_writes(file: TensorFile) -> None:
    with open(file.path, "r+b"), file.window():
        assert file.view("a", 0, 1) is None
