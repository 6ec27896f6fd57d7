"""The pristine weights: what a tensor held before any network, kept without copying it where the checkpoint can give it.

Two keepers behind one small interface:

- *file*: the checkpoint on disk. A tensor is taken from it only after its bytes proved equal to the live ones when it was
  first touched, and the file's size and time are checked before anything is written.
- *ram*: a copy of the touched tensor, where there is no such file or the model differs from it.

The file is read by position, not mapped into memory: when somebody truncates a mapped file the whole process dies, while a
short read is an error one can report; and nothing of it counts as memory in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lycopatch.engine.errors import CheckpointChanged, UnreadableAdapter
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.reading.dtypes import torch_dtype

BLOCK_BYTES = 1 << 22
"""How much of a file is read at a time."""

_WIDE = ((torch.int64, 8), (torch.int32, 4), (torch.int16, 2), (torch.uint8, 1))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True when two tensors of one dtype and size hold the same bytes (NaN equals itself, −0 is not 0)."""
    a, b = a.reshape(-1), b.reshape(-1)
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
    """The open file a model was loaded from, and which of its keys each live tensor came from."""

    file: TensorFile
    keys: Mapping[str, str]  # live tensor name → key in the file

    def check_unchanged(self) -> None:
        """Raise CheckpointChanged when the file is not the one that was opened."""
        try:
            self.file.check_unchanged()
        except UnreadableAdapter as error:
            raise CheckpointChanged(self.file.path, error.reason.rstrip(".")) from error

    def offers(self, name: str, live: Tensor) -> bool:
        """True when the file has a tensor of that name and shape."""
        key = self.keys.get(name)
        return key is not None and self.file.specs[key].shape == tuple(live.shape)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill ``out`` (one axis, CPU) with the elements from ``start`` on, converted to its dtype."""
        key = self.keys[name]
        try:
            stored = torch_dtype(self.file.specs[key].dtype)
            if stored is None or stored == out.dtype:
                self.file.read_flat(key, start, out)
            else:
                raw = torch.empty(out.numel(), dtype=stored, device="cpu")
                self.file.read_flat(key, start, raw)
                out.copy_(raw)
        except UnreadableAdapter as error:
            raise CheckpointChanged(self.file.path, error.reason.rstrip(".")) from error


@dataclass(slots=True)
class Originals:
    """The pristine values of every tensor that was ever patched and not yet given back.

    A tensor is *untouched* until ``adopt``: then its live values are the pristine ones. Different tensors may be used
    from different threads at once.
    """

    checkpoint: Checkpoint | None = None
    _from_file: set[str] = field(default_factory=set[str])
    _copies: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def bytes_held(self) -> int:
        return sum(copy.numel() * copy.element_size() for copy in self._copies.values())

    def check(self) -> None:
        """Before anything is written: raise CheckpointChanged when originals could not be given back from the file."""
        if self.checkpoint is not None:
            self.checkpoint.check_unchanged()

    def holds(self, name: str) -> bool:
        return name in self._from_file or name in self._copies

    def adopt(self, name: str, live: Tensor) -> None:
        """Make sure that the values ``live`` has now can be given back later."""
        if self.holds(name):
            return
        if self.checkpoint is not None and self.checkpoint.offers(name, live) and self._equals_file(name, live):
            self._from_file.add(name)
        else:
            self._copies[name] = live.detach().to("cpu", copy=True)

    def rows(self, name: str, live: Tensor, start: int, stop: int, scratch: Tensor) -> Tensor:
        """Pristine rows ``start … stop`` as ``[stop − start, cols]`` in the live dtype.

        ``scratch``: a CPU vector of the live dtype, large enough; the result may be a view of it.
        """
        cols = live.numel() // live.shape[0] if live.dim() else 1
        if name in self._from_file:
            assert self.checkpoint is not None
            out = scratch[: (stop - start) * cols]
            self.checkpoint.read(name, start * cols, out)
            return out.view(stop - start, cols)
        source = self._copies.get(name)
        whole = live if source is None else source
        return (whole[start:stop] if whole.dim() else whole.reshape(1)).reshape(stop - start, cols)

    def restore(self, name: str, live: Tensor) -> None:
        """Write the pristine values back, bit for bit, and let go of them."""
        if name in self._from_file:
            self._restore_from_file(name, live)
            self._from_file.discard(name)
        else:
            live.copy_(self._copies[name])
            del self._copies[name]

    def forget(self) -> None:
        """Let go of everything without writing: the host replaced the model's weights itself."""
        self._from_file.clear()
        self._copies.clear()

    def _restore_from_file(self, name: str, live: Tensor) -> None:
        assert self.checkpoint is not None
        if live.is_contiguous() and live.device.type == "cpu":
            self.checkpoint.read(name, 0, live.view(-1))
            return
        whole = torch.empty(live.numel(), dtype=live.dtype, device="cpu")
        self.checkpoint.read(name, 0, whole)
        live.copy_(whole.view(live.shape))

    def _equals_file(self, name: str, live: Tensor) -> bool:
        assert self.checkpoint is not None
        flat = live.detach().reshape(-1)
        step = BLOCK_BYTES // max(flat.element_size(), 1)
        scratch = torch.empty(min(step, flat.numel()), dtype=flat.dtype, device="cpu")
        for start in range(0, flat.numel(), step):
            block = flat[start : start + step]
            stored = scratch[: block.numel()]
            self.checkpoint.read(name, start, stored)
            if not same_bits(stored, block.to("cpu")):
                return False
        return True
