"""``open_tensor_file``: the one door through which files come in."""

from __future__ import annotations

from pathlib import Path

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading.file import TensorFile
from lycopatch.engine.reading.pickle_file import PICKLE_SUFFIXES, PickleFile
from lycopatch.engine.reading.positional import require_file
from lycopatch.engine.reading.safetensors_file import SafetensorsFile
from lycopatch.engine.reading.sentences import system_reason


def open_tensor_file(path: Path | str, *, allow_pickle: bool = False) -> TensorFile:
    """The file, open, its header checked; raises UnreadableAdapter for whatever is wrong with it.

    The name decides: .pt, .ckpt, .bin and .pth are pickles and need ``allow_pickle``; all else is read as safetensors.
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return SafetensorsFile(path)
    if allow_pickle:
        return PickleFile(path)
    try:
        require_file(path)
    except (OSError, ValueError) as error:
        raise UnreadableAdapter(path, system_reason(error)) from error
    raise refused_pickle(path)


def refused_pickle(path: Path) -> UnreadableAdapter:
    """Why a pickle is not opened without ``allow_pickle``."""
    return UnreadableAdapter(
        path,
        f"{path.suffix} files are pickles, which can contain programs, and those are switched off. It is better to "
        'convert it to safetensors; if you trust its source you can also turn on "Allow pickle files" in the settings.',
    )
