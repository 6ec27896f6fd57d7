"""One generation at a time. The lock is not re-entrant: who takes it inside a generation waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modules import _host


def _new_lock() -> Any:
    if not _host.at_least(6):
        return threading.Lock()
    from modules import fifo_lock

    return fifo_lock.FIFOLock()


queue_lock = _new_lock()


def wrap_queued_call(func: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with queue_lock:
            return func(*args, **kwargs)

    return wrapped
