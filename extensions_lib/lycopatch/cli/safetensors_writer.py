"""A safetensors file written tensor by tensor: all of it or nothing, in the memory of one tensor.

Source: the format text of huggingface/safetensors. Wider number formats come first, so that every tensor starts at a
multiple of its element size, which the reference reader's memory map relies on.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from torch import Tensor

from lycopatch.cli.terminal import Refused
from lycopatch.engine.types import DTYPE_BYTES, TensorSpec

_ALIGNMENT = 8


def in_file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """The names as they have to be written: wide formats first, otherwise in the given order."""
    return sorted(specs, key=lambda name: -DTYPE_BYTES[specs[name].dtype])


def write_safetensors(
    path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str], tensors: Iterable[tuple[str, Tensor]]
) -> int:
    """Write ``tensors`` (in ``in_file_order``, on the CPU) to ``path`` and return the size in bytes.

    The file appears under its name when it is complete; on any error there is none, and an older one is as it was.
    Raises Refused when the disk does not take it.
    """
    header = _header(specs, metadata)
    size = len(header) + sum(spec.nbytes for spec in specs.values())
    _require_space(path.parent, size)
    expected = in_file_order(specs)
    with _whole_or_nothing(path) as file:
        file.write(header)
        for number, (name, tensor) in enumerate(tensors):
            if name != expected[number] or tensor.numel() * tensor.element_size() != specs[name].nbytes:
                raise AssertionError(f"{name} is not the tensor that comes next")
            _write_numbers(file, tensor)
        if file.tell() != size:
            raise AssertionError(f"{file.tell()} of {size} bytes were written")
    return size


def _header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    document: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in in_file_order(specs):
        spec = specs[name]
        end = begin + spec.nbytes
        document[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _require_space(folder: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # some network drives do not tell; the write itself will
    if free < size:
        raise Refused(f"There are {free / 1e9:.1f} GB free in {folder}, and the file needs {size / 1e9:.1f} GB.")


@contextmanager
def _whole_or_nothing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside ``path`` that takes its place when the block ends well, and is deleted when it does not."""
    part = path.with_name(f".lycopatch-{secrets.token_hex(8)}.part")
    try:
        file = open(part, "xb")  # noqa: SIM115 - closed below, before it is moved
    except OSError as error:
        raise Refused(f"{path.parent} can not be written to: {error.strerror or error}.") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise Refused(f"{path} could not be written: {error.strerror or error}. Nothing is left of it.") from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure, where folders can be synchronised."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems can not, and the file itself is safe
    finally:
        os.close(descriptor)


def _write_numbers(file: IO[bytes], tensor: Tensor) -> None:
    """The bytes of a tensor in C order. Straight from its memory: numpy knows no bfloat16 and need not be there."""
    tensor = tensor.contiguous()
    if tensor.numel():
        count = tensor.numel() * tensor.element_size()
        file.write(memoryview((ctypes.c_char * count).from_address(tensor.data_ptr())).cast("B"))
