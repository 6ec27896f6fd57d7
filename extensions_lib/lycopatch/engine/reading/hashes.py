"""The hashes by which sites, infotexts and trainers know a network, all in one pass over the file.

Sources: AUTOMATIC1111 ``modules/{hashes,sd_models}.py``; kohya-ss/sd-scripts ``library/train_util.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lycopatch.engine.reading.positional import PositionalFile
from lycopatch.engine.reading.safetensors_file import LENGTH_BYTES

_CHUNK_BYTES = 2**22
_AUTOV1_START = 0x100000
_AUTOV1_END = 0x110000
_SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})


@dataclass(frozen=True, slots=True)
class Hashes:
    """Lower-case hexadecimal digits throughout."""

    sha256: str  # of the whole file, 64 digits
    autov1: str  # of the 64 KiB that start at 1 MiB (of nothing when the file ends before), first 8 digits
    autov2: str  # first 10 digits of sha256
    autov3: str  # of the data behind a safetensors header, of the whole file for other files; 64 digits
    short: str  # first 12 digits of autov3: what infotexts contain


def file_hashes(path: Path | str, progress: Callable[[int, int], None] | None = None) -> Hashes:
    """All hashes of the file; raises UnreadableAdapter when it can not be read or changes meanwhile.

    ``progress(bytes done, bytes in all)`` is called after every 4 MiB; whatever it raises ends the work and reaches
    the caller. A .safetensors file too damaged to have a data section is hashed like any other file.
    """
    file = PositionalFile(Path(path))
    try:
        return _hash(file, progress)
    finally:
        file.close()


def _hash(file: PositionalFile, progress: Callable[[int, int], None] | None) -> Hashes:
    size = file.fingerprint.size
    data_start = _data_start(file)
    whole, data, window = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    with memoryview(bytearray(min(size, _CHUNK_BYTES))) as buffer:
        for begin in range(0, size, _CHUNK_BYTES):
            chunk = buffer[: min(_CHUNK_BYTES, size - begin)]
            file.read_into(chunk, begin)
            whole.update(chunk)
            window.update(chunk[max(0, _AUTOV1_START - begin) : max(0, _AUTOV1_END - begin)])
            if data_start:
                data.update(chunk[max(0, data_start - begin) :])
            if progress is not None:
                progress(begin + len(chunk), size)
    file.check_unchanged()
    sha256 = whole.hexdigest()
    autov3 = data.hexdigest() if data_start else sha256
    return Hashes(sha256, window.hexdigest()[:8], sha256[:10], autov3, autov3[:12])


def _data_start(file: PositionalFile) -> int:
    """Where the tensor data of a safetensors file begins; 0 for other files."""
    size = file.fingerprint.size
    if file.path.suffix.lower() not in _SAFETENSORS_SUFFIXES or size < LENGTH_BYTES:
        return 0
    start = LENGTH_BYTES + int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    return start if start <= size else 0
