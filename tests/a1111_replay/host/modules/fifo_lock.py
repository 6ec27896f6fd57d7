"""Since 1.6: who asked first gets it first. Not re-entrant."""

from __future__ import annotations

import threading
from collections import deque


class FIFOLock:
    def __init__(self) -> None:
        self._state = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        ticket = object()
        with self._state:
            if not blocking and (self._held or self._waiting):
                return False
            self._waiting.append(ticket)
            self._state.wait_for(lambda: not self._held and self._waiting[0] is ticket)
            self._waiting.popleft()
            self._held = True
            return True

    def release(self) -> None:
        with self._state:
            self._held = False
            self._state.notify_all()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
