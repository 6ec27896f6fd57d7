"""The pristine weights: what a tensor held before any network, not copied where the checkpoint can give it back.

Two keepers behind one small interface:

- *file*: the checkpoint on disk. A tensor is taken from it only after its bytes proved equal to the live ones when it
  was first touched, and the file's size and time are checked before anything is written.
- *ram*: a copy of the touched tensor, where there is no such file or the model differs from it.

Nothing of the file counts as memory in use: pages that were looked at are let go of tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lycopatch.engine.errors import CheckpointChanged, UnreadableAdapter
from lycopatch.engine.linalg import matrix_size
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.reading.dtypes import torch_dtype

BLOCK_BYTES = 1 << 22
"""How much of a file is read at a time."""

_WIDE = ((torch.int64, 8), (torch.int32, 4), (torch.int16, 2), (torch.uint8, 1))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True when two tensors of one dtype and size hold the same bytes (NaN equals itself, −0 is not 0)."""
    a, b = a.reshape(-1).contiguous(), b.reshape(-1).contiguous()
    if a.numel() != b.numel() or a.dtype != b.dtype:
        return False
    if a.numel() == 0:
        return True
    for dtype, size in _WIDE:
        width = a.element_size()
        if width > size:
            break
        if all(t.numel() * width % size == 0 and t.storage_offset() * width % size == 0 for t in (a, b)):
            return torch.equal(a.view(dtype), b.view(dtype))
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The open files a model was loaded from: each live tensor's name → its file and its key there."""

    sources: Mapping[str, tuple[TensorFile, str]]

    @contextmanager
    def steady(self, *, restoring: bool) -> Generator[None]:
        """The files as they were opened, for as long as this lasts; raises CheckpointChanged when one is not.

        For ``restoring`` it does not matter that another file lies in the place of one that is still open.
        """
        with ExitStack() as windows:
            for file in {id(file): file for file, _ in self.sources.values()}.values():
                windows.enter_context(file.window())
                try:
                    file.check_content() if restoring else file.check_unchanged()
                except UnreadableAdapter as error:
                    raise CheckpointChanged(file.path, error.reason.rstrip(".")) from error
            yield

    def offers(self, name: str, live: Tensor) -> bool:
        """True when there is a stored tensor of that name and shape."""
        source = self.sources.get(name)
        return source is not None and source[0].specs[source[1]].shape == tuple(live.shape)

    def view(self, name: str, start: int, count: int, dtype: torch.dtype) -> Tensor | None:
        """Elements from ``start`` on as the file's own pages; None where they have to be read."""
        file, key = self.sources[name]
        if torch_dtype(file.specs[key].dtype) != dtype:
            return None
        return file.view(key, start, count)

    def forget_pages(self, name: str) -> None:
        """Take what ``view`` showed of a tensor out of this process's memory."""
        file, key = self.sources[name]
        file.forget_pages(key)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill ``out`` (one axis, CPU) with the elements from ``start`` on, converted to its dtype."""
        file, key = self.sources[name]
        try:
            stored = torch_dtype(file.specs[key].dtype)
            if stored is None or stored == out.dtype:
                file.read_flat(key, start, out)
            else:
                raw = torch.empty(out.numel(), dtype=stored, device="cpu")
                file.read_flat(key, start, raw)
                out.copy_(raw)
        except UnreadableAdapter as error:
            raise CheckpointChanged(file.path, error.reason.rstrip(".")) from error


@dataclass(slots=True)
class Originals:
    """The pristine values of every tensor that was ever patched and not yet given back.

    A tensor is *untouched* until it is kept: then its live values are the pristine ones. ``keep`` verifies or copies at
    once; ``keep_while_writing`` promises that ``rows`` is asked for all rows in order, each before it is overwritten,
    and verifies along the way. Different tensors may be used from different threads at once.
    """

    checkpoint: Checkpoint | None = None
    _from_file: set[str] = field(default_factory=set[str])
    _verified_rows: dict[str, int] = field(default_factory=dict[str, int])  # file tensors not wholly verified yet
    _copies: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def bytes_held(self) -> int:
        return sum(copy.numel() * copy.element_size() for copy in self._copies.values())

    def steady(self, *, restoring: bool = False) -> AbstractContextManager[None]:
        """Around everything that writes: raises CheckpointChanged when originals could not be given back."""
        return nullcontext() if self.checkpoint is None else self.checkpoint.steady(restoring=restoring)

    def holds(self, name: str) -> bool:
        return name in self._from_file or name in self._copies

    def needs_copy(self, name: str, live: Tensor) -> bool:
        """Whether a copy in memory gives this tensor back; for one not kept yet, as far as the file's header tells."""
        if self.holds(name):
            return name in self._copies
        return self.checkpoint is None or not self.checkpoint.offers(name, live)

    def keep_while_writing(self, name: str, live: Tensor) -> None:
        """Keep a tensor whose rows are about to be read and overwritten one after the other."""
        if self.holds(name):
            return
        if self.checkpoint is not None and self.checkpoint.offers(name, live):
            self._verified_rows[name] = 0
            self._from_file.add(name)
        else:
            self._copies[name] = live.detach().to("cpu", copy=True)

    def keep(self, name: str, live: Tensor) -> None:
        """Make sure now that the values ``live`` has can be given back later."""
        self.keep_while_writing(name, live)
        rows, cols = matrix_size(live)
        step = max(1, BLOCK_BYTES // max(cols * live.element_size(), 1))
        scratch = torch.empty(min(step, rows) * cols, dtype=live.dtype, device="cpu")
        for start in range(self._verified_rows.get(name, rows), rows, step):
            self.rows(name, live, start, min(start + step, rows), scratch)

    def rows(self, name: str, live: Tensor, start: int, stop: int, scratch: Tensor) -> Tensor:
        """Pristine rows ``start … stop`` as ``[stop − start, cols]`` in the live dtype.

        ``scratch``: a CPU vector of the live dtype, large enough; the result may be a view of it.
        """
        if name not in self._from_file:
            return as_rows(self._copies.get(name, live), start, stop)
        assert self.checkpoint is not None
        all_rows, cols = matrix_size(live)
        out = self.checkpoint.view(name, start * cols, (stop - start) * cols, live.dtype)
        if out is None:
            out = scratch[: (stop - start) * cols]
            self.checkpoint.read(name, start * cols, out)
        if start < self._verified_rows.get(name, 0) or name not in self._verified_rows:
            return out.view(stop - start, cols)
        current = as_rows(live, start, stop)
        if not same_bits(out, current.to("cpu")):
            self._copy_instead(name, live, start)
            return as_rows(self._copies[name], start, stop)
        if stop == all_rows:
            del self._verified_rows[name]
        else:
            self._verified_rows[name] = stop
        return out.view(stop - start, cols)

    def forget_pages(self, name: str) -> None:
        """After the last ``rows`` of a tensor: what was looked at shall not count as memory of this process."""
        if self.checkpoint is not None and name in self._from_file:
            self.checkpoint.forget_pages(name)

    def restore(self, name: str, live: Tensor) -> None:
        """Write the pristine values back, bit for bit, and let go of them."""
        if name in self._from_file:
            # a write that broke off left the rows it had not verified as they were
            written = self._verified_rows.get(name, matrix_size(live)[0])
            self._read_into(name, live, written)
            self.release(name)
        else:
            live.copy_(self._copies[name])
            del self._copies[name]

    def release(self, name: str) -> None:
        """Let go of one tensor without writing it."""
        self._from_file.discard(name)
        self._verified_rows.pop(name, None)
        self._copies.pop(name, None)

    def forget(self) -> None:
        """Let go of everything without writing: the host replaced the model's weights itself."""
        self._from_file.clear()
        self._verified_rows.clear()
        self._copies.clear()

    def _copy_instead(self, name: str, live: Tensor, start: int) -> None:
        """The model differs from the file: keep a copy, whose first ``start`` rows did come from the file."""
        copy = live.detach().to("cpu", copy=True).contiguous()
        self._read_into(name, copy, start)
        self._from_file.discard(name)
        del self._verified_rows[name]
        self._copies[name] = copy

    def _read_into(self, name: str, tensor: Tensor, rows: int) -> None:
        """Fill the first ``rows`` rows of a tensor of any device and layout from the file."""
        assert self.checkpoint is not None
        if not rows or not tensor.numel():
            return
        part = tensor[:rows] if tensor.dim() else tensor
        if part.is_contiguous() and part.device.type == "cpu":
            self.checkpoint.read(name, 0, part.view(-1))
            return
        whole = torch.empty(part.numel(), dtype=part.dtype, device="cpu")
        self.checkpoint.read(name, 0, whole)
        part.copy_(whole.view(part.shape))


def as_rows(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Rows of a tensor as a matrix ``[stop − start, cols]``; a number is one row."""
    part = tensor.detach()[start:stop] if tensor.dim() else tensor.detach().reshape(1)
    return part.reshape(stop - start, -1)
