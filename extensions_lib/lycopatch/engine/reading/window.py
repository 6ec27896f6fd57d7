"""A file's own pages as memory, for a moment in which nobody can change the file.

Reading by position copies every byte once more; looking at the pages does not. But touching a mapped page of a file
that somebody has cut kills the process. So a window opens only with a read lease on the file (Linux, ``fcntl(2)``
``F_SETLEASE``): while it is held, whoever opens the file for writing or cuts it waits until the window closes, or until
``/proc/sys/fs/lease-break-time`` is over (45 s). Therefore nothing more is shown as soon as somebody waits. Where there
is no lease to be had (another system, another owner, a network drive) there is no window.
"""

from __future__ import annotations

import contextlib
import mmap
import signal

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_F_SETSIG = 10  # Linux; Python does not name it everywhere
_PAGE = mmap.PAGESIZE


class Window:
    """All pages of an open file, as tensors that are views of them. Private: writing would change no file."""

    def __init__(self, descriptor: int, pages: mmap.mmap) -> None:
        self._descriptor = descriptor
        self._pages: mmap.mmap | None = pages

    @classmethod
    def open(cls, descriptor: int) -> Window | None:
        """The window on a file open for reading, or None where it would not be safe."""
        if fcntl is None or not hasattr(fcntl, "F_SETLEASE") or not hasattr(mmap, "MADV_DONTNEED"):
            return None
        try:
            # who wants to write breaks the lease with a signal; the usual one ends the process, this one is ignored
            fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return None
        try:
            pages = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return None
        return cls(descriptor, pages)

    def tensor(self, position: int, count: int, dtype: torch.dtype) -> torch.Tensor | None:
        """``count`` numbers from byte ``position`` on; None when they are not aligned, or when a writer waits."""
        if self._pages is None or position % torch.empty((), dtype=dtype).element_size() or not self._is_ours():
            return None
        return torch.frombuffer(self._pages, dtype=dtype, count=count, offset=position)

    def _is_ours(self) -> bool:
        """False from the moment on that somebody waits for the end of the lease, and after its end."""
        assert fcntl is not None
        return fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK

    def forget(self, position: int, size: int) -> None:
        """Take pages out of this process's memory again; they stay in the system's cache."""
        if self._pages is not None and size:
            first = position // _PAGE * _PAGE
            self._pages.madvise(mmap.MADV_DONTNEED, first, position + size - first)

    def close(self) -> None:
        """Let go of the pages and let writers go on. Tensors of this window should not be used any more."""
        pages, self._pages = self._pages, None
        if pages is None or fcntl is None:
            return
        # Not pages.close(): a tensor somebody still holds would then look at nothing and end the process. It holds the
        # map, whose last reference unmaps it.
        del pages
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
