"""Work on many files in a few threads: results come as they are ready, and a program may end while a disk hangs."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import NoReturn, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_MOST_THREADS = 4
"""Reading headers is Python's own work, for which threads take turns: more of them only help a slow disk."""


def in_threads(work: Callable[[T], U], items: Sequence[T]) -> Generator[U]:
    """``work`` of each item, in the order of completion. What it raises is raised here. Who stops asking ends it."""
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.Queue[Callable[[], U]] = queue.Queue(maxsize=1000)
    stopped = threading.Event()
    for item in items:
        todo.put(item)

    def worker() -> None:
        while not stopped.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                result = work(item)
            except BaseException as error:
                done.put(partial(_raise, error))
                return
            done.put(partial(_same, result))

    for _ in range(min(_MOST_THREADS, os.cpu_count() or 1, len(items))):
        threading.Thread(target=worker, name="lycopatch-headers", daemon=True).start()
    try:
        for _ in items:
            yield done.get()()
    finally:
        stopped.set()
        while not done.empty():  # a worker may be waiting for room
            done.get_nowait()


def _same(result: T) -> T:
    return result


def _raise(error: BaseException) -> NoReturn:
    raise error
