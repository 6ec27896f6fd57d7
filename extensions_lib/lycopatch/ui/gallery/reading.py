"""Reading new networks in the background, so that a page may show what is known already."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lycopatch.engine.catalog import Catalog

_log = logging.getLogger(__name__)


class _Closed(Exception):
    pass


class BackgroundReading:
    """Lets the current catalog read the headers that it does not know. One thread at most. Thread-safe."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._again = False
        self._closed = threading.Event()
        self._wanted = threading.Event()

    @property
    def running(self) -> bool:
        """Whether headers are being read, or are about to be."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def start(self, *, after: float = 0.0) -> None:
        """Begin, or once more when it is running: files may have come behind its back.

        ``after`` so many seconds, for a program that has more urgent things to do; ``hurry`` ends the wait.
        """
        with self._lock:
            if not after:
                self._wanted.set()
            if self._closed.is_set():
                return
            if self.running:
                self._again = True
                return
            self._thread = threading.Thread(target=self._run, args=(after,), name="lycopatch-library", daemon=True)
            self._thread.start()

    def hurry(self) -> None:
        """Somebody looks: wait no longer."""
        self._wanted.set()

    def close(self, patience: float = 5.0) -> None:
        """End it for good, and wait so many seconds for that."""
        self._closed.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None:
            thread.join(patience)

    def _run(self, after: float) -> None:
        try:
            self._wanted.wait(after)
            self._go_on(0, 0)
            while True:
                self._catalog().index(self._go_on)
                with self._lock:
                    if not self._again:
                        self._thread = None
                        return
                    self._again = False
        except _Closed:
            _log.debug("The library was closed while it was being read.")
        except Exception:
            _log.exception("LycoPatch could not read the network folders in the background")

    def _go_on(self, _done: int, _total: int) -> None:
        if self._closed.is_set():
            raise _Closed
