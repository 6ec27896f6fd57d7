"""safetensors files: eight bytes of header length, JSON, then one block of numbers (little-endian, C order, no holes).

Source: the format text of huggingface/safetensors. Layout: bytes 0-7 = n, unsigned little-endian; bytes 8 … 8+n-1 =
the JSON header; from 8+n to the end of the file = the data section that all offsets count from.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading.file import TensorFile
from lycopatch.engine.reading.header import MAX_HEADER_BYTES, BadHeader, Header, parse_header
from lycopatch.engine.reading.positional import PositionalFile
from lycopatch.engine.reading.sentences import mistaken_identity
from lycopatch.engine.reading.window import Window
from lycopatch.engine.types import DTYPE_BYTES

LENGTH_BYTES = 8
_HEAD_BYTES = 64

_PYBUF_WRITE = 0x200
_view_of_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
# A prototype of our own: setting argtypes on the shared ctypes.pythonapi function would change it for everybody.


class SafetensorsFile(TensorFile):
    """An open safetensors file. Nothing but the header is read before a tensor is asked for."""

    def __init__(self, path: Path) -> None:
        """Open and check the header. Raises UnreadableAdapter."""
        self.path = path
        self._file = PositionalFile(path)
        try:
            header, self.data_start = _read_header(self._file)
        except BaseException:
            self._file.close()
            raise
        self.fingerprint = self._file.fingerprint
        self.specs = header.specs
        self.metadata = header.metadata
        self._begins = header.begins
        self._window: Window | None = None
        self._users = 0
        self._lock = threading.Lock()

    @contextmanager
    def window(self) -> Generator[None]:
        with self._lock:  # several users at once share one window: each would end the lease of the others
            self._users += 1
            if self._users == 1:
                self._window = self._file.window()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._window is not None:
                    self._window.close()
                    self._window = None

    def view(self, key: str, start: int, count: int) -> torch.Tensor | None:
        spec = self.specs[key]
        if self._window is None or spec.dtype == "BOOL" or start < 0 or start + count > spec.numel or not count:
            return None
        return self._window.tensor(self._position(key, start), count, self._dtype(key))

    def forget_pages(self, key: str) -> None:
        if self._window is not None:
            self._window.forget(self._position(key, 0), self.specs[key].nbytes)

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def check_content(self) -> None:
        self._file.check_content()

    def close(self) -> None:
        self._file.close()

    def _fill(self, key: str, start: int, out: torch.Tensor) -> None:
        with _memory_of(out) as view:
            self._file.read_into(view, self._position(key, start))
        if self.specs[key].dtype == "BOOL":
            # Any byte may be in the file, but a bool in memory that is neither 0 nor 1 is undefined behaviour.
            out.view(torch.uint8).ne_(0)

    def _position(self, key: str, start: int) -> int:
        """Where in the file element ``start`` of a tensor is."""
        return self.data_start + self._begins[key] + start * DTYPE_BYTES[self.specs[key].dtype]


def _read_header(file: PositionalFile) -> tuple[Header, int]:
    """The checked header and the position of the data section."""
    size = file.fingerprint.size
    head = bytes(file.read(0, min(size, _HEAD_BYTES)))
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    plausible = 2 <= length <= MAX_HEADER_BYTES and head[LENGTH_BYTES : LENGTH_BYTES + 1] in (b"{", b"")
    if size < LENGTH_BYTES or not plausible:
        raise UnreadableAdapter(file.path, mistaken_identity(head) or _no_header(size, length))
    start = LENGTH_BYTES + length
    if start > size:
        reason = f"the download is incomplete: {size} of at least {start} bytes. Download it again."
        raise UnreadableAdapter(file.path, reason)
    try:
        header = parse_header(bytes(file.read(LENGTH_BYTES, length)))
    except BadHeader as error:
        raise UnreadableAdapter(file.path, str(error)) from error
    except MemoryError as error:
        raise UnreadableAdapter(file.path, "there is not enough memory for its header.") from error
    needed = start + header.data_bytes
    if size < needed:
        raise UnreadableAdapter(file.path, f"the download is incomplete: {size} of {needed} bytes. Download it again.")
    if size > needed:
        reason = f"the file is damaged: {size - needed} bytes follow its last tensor. Download it again."
        raise UnreadableAdapter(file.path, reason)
    return header, start


def _no_header(size: int, length: int) -> str:
    if size < LENGTH_BYTES:
        return f"the download is incomplete: it has only {size} bytes. Download it again."
    if length > MAX_HEADER_BYTES:
        return "it is not a safetensors file: its first bytes announce a header of more than 100 MB."
    return "it is not a safetensors file: no header follows its first eight bytes."


def _memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable, valid as long as the tensor lives.

    Through Python's C interface, because a tensor has no buffer protocol of its own and the detour over numpy knows
    neither bfloat16 nor float8 (and numpy need not be there).
    """
    return _view_of_memory(tensor.data_ptr(), tensor.numel() * tensor.element_size(), _PYBUF_WRITE)
