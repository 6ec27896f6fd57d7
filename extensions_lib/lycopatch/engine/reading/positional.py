"""A file that several threads read at once, each at its own position, straight into memory that exists already.

Not a memory map: when a trainer truncates a mapped file, touching the map kills the whole process (SIGBUS). A read
that comes back short is an error that can be reported. ``window`` maps the file where truncating can be held off.
"""

from __future__ import annotations

import os
import stat
import threading
from io import FileIO
from pathlib import Path

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading.sentences import system_reason
from lycopatch.engine.reading.window import Window
from lycopatch.engine.types import Fingerprint

_LARGEST_READ = 2**30
# Linux transfers at most 2 GiB in one call, macOS refuses to try.


class PositionalFile:
    """``path`` opened for reading, with the ``fingerprint`` it had then. Close it when no thread reads any more."""

    def __init__(self, path: Path, *, positional: bool = hasattr(os, "preadv")) -> None:
        """Raises UnreadableAdapter. ``positional=False``: seek and read under a lock, for systems without preadv."""
        self.path = path
        self._positional = positional
        self._lock = threading.Lock()
        try:
            require_file(path)  # before opening: opening a named pipe would wait for ever
            self._file = FileIO(path, "r")
        except (OSError, ValueError) as error:
            raise UnreadableAdapter(path, system_reason(error)) from error
        try:
            self.fingerprint = fingerprint_of(os.fstat(self._file.fileno()))
        except OSError as error:
            self._file.close()
            raise UnreadableAdapter(path, system_reason(error)) from error

    def close(self) -> None:
        self._file.close()

    def window(self) -> Window | None:
        """The file's pages as memory, where nobody can cut the file meanwhile; None where there is no such way."""
        return Window.open(self._file.fileno())

    def read_into(self, view: memoryview, position: int) -> None:
        """Fill ``view`` (bytes) from ``position`` on, or raise UnreadableAdapter. Any number of threads at once."""
        done = 0
        while done < len(view):
            window = view[done : done + _LARGEST_READ]
            try:
                count = self._read_some(window, position + done)
            except OSError as error:
                raise UnreadableAdapter(self.path, system_reason(error)) from error
            if not count:
                reason = "it became shorter while it was read; another program may be writing it. Try again."
                raise UnreadableAdapter(self.path, reason)
            done += count

    def read(self, position: int, size: int) -> bytearray:
        """``size`` bytes from ``position`` on. The caller has checked that the file is that long."""
        content = bytearray(size)
        with memoryview(content) as view:
            self.read_into(view, position)
        return content

    def check_unchanged(self) -> None:
        """Raise UnreadableAdapter when the path leads to another file now, or this file was written again."""
        check_fingerprint(self.path, self.fingerprint)
        self.check_content()

    def check_content(self) -> None:
        """Raise UnreadableAdapter when this file was written again, wherever the path leads now."""
        try:
            now = fingerprint_of(os.fstat(self._file.fileno()))
        except OSError as error:
            raise UnreadableAdapter(self.path, system_reason(error)) from error
        if now != self.fingerprint:
            raise _changed(self.path)

    def _read_some(self, window: memoryview, position: int) -> int:
        if self._positional:
            return os.preadv(self._file.fileno(), [window], position)
        with self._lock:
            self._file.seek(position)
            return self._file.readinto(window) or 0


def require_file(path: Path) -> os.stat_result:
    """The stat of ``path``, a file with something in it. Raises UnreadableAdapter, OSError or ValueError."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableAdapter(path, "it is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableAdapter(path, "it is not a file but a device or a pipe.")
    if status.st_size == 0:
        raise UnreadableAdapter(path, "it is empty. Download it again.")
    return status


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns)


def check_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Raise UnreadableAdapter unless the file at ``path`` has this fingerprint."""
    try:
        now = fingerprint_of(os.stat(path))
    except (OSError, ValueError) as error:
        raise UnreadableAdapter(path, system_reason(error)) from error
    if now != fingerprint:
        raise _changed(path)


def _changed(path: Path) -> UnreadableAdapter:
    return UnreadableAdapter(path, "it was written again since it was opened. Try again.")
