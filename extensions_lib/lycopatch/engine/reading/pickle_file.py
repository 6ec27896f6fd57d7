"""PyTorch pickles (.pt, .ckpt, .bin, .pth): read only through torch's restricted unpickler, whole, into memory.

A pickle is a program; ``weights_only=True`` runs none of it that is not on torch's list of harmless constructors, and
there is no second try without. What comes out is treated as hostile still: a tensor may claim any size over any
storage. Both layouts of torch.save store numbers uncompressed, so no honest file yields more bytes than it has.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading.dtypes import dtype_name
from lycopatch.engine.reading.file import TensorFile
from lycopatch.engine.reading.positional import check_fingerprint, fingerprint_of, require_file
from lycopatch.engine.reading.sentences import mistaken_identity, system_reason
from lycopatch.engine.reading.unwrapping import NotTensors, named_tensors
from lycopatch.engine.types import TensorSpec
from lycopatch.engine.wording import shown

PICKLE_SUFFIXES = frozenset({".pt", ".ckpt", ".bin", ".pth"})


class PickleFile(TensorFile):
    """The tensors of a pickle, all in memory since opening; no metadata."""

    def __init__(self, path: Path) -> None:
        """Load the whole file. Raises UnreadableAdapter."""
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self.data_start = 0
        try:
            self.fingerprint = fingerprint_of(require_file(path))
        except (OSError, ValueError) as error:
            raise UnreadableAdapter(path, system_reason(error)) from error
        loaded = _load(path)
        check_fingerprint(path, self.fingerprint)
        try:
            tensors = named_tensors(loaded)
            _check_storages(tensors, self.fingerprint.size)
            self.specs = {name: _spec(name, tensor) for name, tensor in tensors.items()}
            self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        except NotTensors as error:
            raise UnreadableAdapter(path, str(error)) from error
        except (RuntimeError, MemoryError) as error:
            reason = f"the file is damaged or malicious: PyTorch can not use its tensors ({shown(str(error))})."
            raise UnreadableAdapter(path, reason) from error

    def check_unchanged(self) -> None:
        check_fingerprint(self.path, self.fingerprint)

    def close(self) -> None:
        self._tensors = {}

    def _fill(self, key: str, start: int, out: torch.Tensor) -> None:
        # A view where the strides allow it. Stored copies of the others could cost many times the file's size.
        flat = self._tensors[key].reshape(-1)
        out.copy_(flat[start : start + out.numel()])


def _load(path: Path) -> object:
    """What torch.load makes of the file, without running code from it."""
    try:
        _refuse_compression(path)
        # The path and not an open file: the WebUI replaces torch.load with a check that takes only paths.
        loaded: object = torch.load(os.fspath(path), map_location="cpu", weights_only=True)  # pyright: ignore[reportUnknownMemberType]
    except UnreadableAdapter:
        raise
    except OSError as error:
        raise UnreadableAdapter(path, system_reason(error)) from error
    except Exception as error:  # the unpickler meets arbitrary bytes and raises whatever they lead it to
        raise UnreadableAdapter(path, _why_not_loaded(path, error)) from error
    if loaded is None:
        raise UnreadableAdapter(path, "the safety check for pickle files refused it. Convert it to safetensors.")
    return loaded


def _refuse_compression(path: Path) -> None:
    """A packed archive may unfold to any size; torch.save never packs."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise UnreadableAdapter(path, "it is a packed archive and not a file that PyTorch wrote. Unpack it first.")


def _why_not_loaded(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as unreadable:
        return system_reason(unreadable)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "it is a safetensors file under another name. Rename it to .safetensors."
    if not head.startswith((b"PK", b"\x80")):
        known = mistaken_identity(head)
        if known:
            return known
    if isinstance(error, pickle.UnpicklingError):
        return (
            "it is damaged, or it contains more than numbers and PyTorch would have to run a program from it. "
            "Download it again, or convert it to safetensors with the program that made it."
        )
    return "it is damaged, or PyTorch did not write it. Download it again, better as a safetensors file."


def _check_storages(tensors: Mapping[str, torch.Tensor], file_size: int) -> None:
    """No tensor larger than its storage (repeated elements), all storages together no larger than the file."""
    storages: dict[int, int] = {}
    for name, tensor in tensors.items():
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise NotTensors(f"tensor {shown(name)} is a {type(tensor).__name__}, which is not supported.")
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            kind = "a tensor without data" if tensor.device.type == "meta" else "sparse or nested"
            raise NotTensors(f"tensor {shown(name)} is {kind}, which is not supported. Convert it to safetensors.")
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise NotTensors(f"the file is damaged or malicious: tensor {shown(name)} is larger than its data.")
    if sum(storages.values()) > file_size:
        raise NotTensors("the file is damaged or malicious: its tensors are larger than the file.")


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = dtype_name(tensor.dtype)
    if dtype is None:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise NotTensors(f"tensor {shown(name)} is stored as {kind}, a number format that is not supported.")
    return TensorSpec(dtype, tuple(tensor.shape))
