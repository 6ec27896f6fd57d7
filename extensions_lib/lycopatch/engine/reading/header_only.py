"""A file of which only the header is read, so that thousands can be understood in seconds."""

from __future__ import annotations

import torch

from lycopatch.engine.reading.file import TensorFile

DECISIVE = "on_input"
"""The one number that decides for which layer a tensor is."""


class HeaderOnly(TensorFile):
    """An open file whose numbers are all 1, except those that end in ``DECISIVE``."""

    def __init__(self, file: TensorFile) -> None:
        self.path = file.path
        self.fingerprint = file.fingerprint
        self.specs = file.specs
        self.metadata = file.metadata
        self.data_start = file.data_start
        self._file = file

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._file.close()

    def _fill(self, key: str, start: int, out: torch.Tensor) -> None:
        if key.endswith(DECISIVE):
            self._file.read_flat(key, start, out)
        else:
            out.fill_(1)
