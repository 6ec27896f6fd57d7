"""``TensorFile``: what every network file looks like once it is open, whatever its container."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading.dtypes import torch_dtype
from lycopatch.engine.types import Fingerprint, TensorSpec
from lycopatch.engine.wording import shown


class TensorFile(ABC):
    """An open file of named tensors. Reading is safe from several threads; close it when the last one is done.

    ``specs`` in the order of the data in the file; ``metadata`` is empty for pickles; ``data_start`` is the first
    byte after the header, 0 for pickles. Everything that is the file's fault raises UnreadableAdapter; KeyError and
    ValueError are mistakes of the caller.
    """

    path: Path
    fingerprint: Fingerprint
    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    data_start: int

    def read(self, key: str) -> torch.Tensor:
        """A tensor of its own memory on the CPU, in the stored dtype and shape."""
        spec = self.specs[key]
        dtype = self._dtype(key)
        try:
            # The device is named because a host may have set another default, for instance "meta".
            tensor = torch.empty(spec.shape, dtype=dtype, device="cpu")
        except (RuntimeError, MemoryError) as error:
            reason = f"there is not enough memory for tensor {shown(key)} ({spec.nbytes} bytes)."
            raise UnreadableAdapter(self.path, reason) from error
        self.read_flat(key, 0, tensor.view(-1))
        return tensor

    def read_flat(self, key: str, start: int, out: torch.Tensor) -> None:
        """Fill ``out`` with the elements from ``start`` on, in C order, without allocating.

        ``out``: one axis, contiguous, on the CPU, in the stored dtype (else ValueError).
        """
        spec = self.specs[key]
        if out.dtype != self._dtype(key) or out.dim() != 1 or not out.is_contiguous() or out.device.type != "cpu":
            raise ValueError(f"{key}: out must be one contiguous axis of {spec.dtype} on the CPU")
        if start < 0 or start + out.numel() > spec.numel:
            raise ValueError(f"{key}: elements {start} to {start + out.numel()} of {spec.numel}")
        if out.numel():
            self._fill(key, start, out)

    @contextmanager
    def window(self) -> Generator[None]:
        """While it is open, ``view`` may show the file's own pages, where that is safe. One thread opens and closes."""
        yield

    def view(self, key: str, start: int, count: int) -> torch.Tensor | None:
        """Elements ``start … start + count`` as a read-only view of the file's pages; None outside of a window."""
        return None

    def forget_pages(self, key: str) -> None:
        """Take a tensor's pages out of this process's memory; they come back when they are looked at."""
        return

    def check_content(self) -> None:
        """Raise UnreadableAdapter when the opened file was written again; another one in its place does not matter."""
        self.check_unchanged()

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raise UnreadableAdapter when the file on disk is not the one that was opened (size or time differ)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. Reading afterwards is an error of the caller (ValueError, KeyError)."""

    @abstractmethod
    def _fill(self, key: str, start: int, out: torch.Tensor) -> None:
        """``read_flat`` after its checks; ``out`` has at least one element."""

    def _dtype(self, key: str) -> torch.dtype:
        name = self.specs[key].dtype
        dtype = torch_dtype(name)
        if dtype is None:
            reason = f"tensor {shown(key)} is stored as {name}, which this version of PyTorch lacks. Update PyTorch."
            raise UnreadableAdapter(self.path, reason)
        return dtype

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
