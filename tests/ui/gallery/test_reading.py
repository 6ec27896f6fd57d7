"""Reading in the background: once at a time, again when asked meanwhile, and over when the host goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lycopatch.ui.gallery.reading import BackgroundReading

Progress = Callable[[int, int], None]


class SlowCatalog:
    """Reads until it is told that this is enough."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.enough = threading.Event()
        self.times = 0

    def index(self, progress: Progress) -> None:
        self.times += 1
        self.begun.release()
        while not self.enough.is_set():
            progress(0, 1)
            time.sleep(0.002)


@pytest.fixture
def catalog() -> SlowCatalog:
    return SlowCatalog()


@pytest.fixture
def reading(catalog: SlowCatalog) -> BackgroundReading:
    given: Any = catalog
    return BackgroundReading(lambda: given)


def over(reading: BackgroundReading) -> bool:
    end = time.monotonic() + 10
    while reading.running and time.monotonic() < end:
        time.sleep(0.002)
    return not reading.running


def test_it_runs_from_the_moment_it_is_started(catalog: SlowCatalog, reading: BackgroundReading) -> None:
    assert not reading.running
    reading.start()
    assert reading.running
    catalog.enough.set()
    assert over(reading)
    assert catalog.times == 1


def test_started_meanwhile_it_reads_once_more(catalog: SlowCatalog, reading: BackgroundReading) -> None:
    reading.start()
    assert catalog.begun.acquire(timeout=10)
    for _ in range(3):
        reading.start()
    catalog.enough.set()
    assert over(reading)
    assert catalog.times == 2


def test_closing_ends_it_for_good(catalog: SlowCatalog, reading: BackgroundReading) -> None:
    reading.start()
    assert catalog.begun.acquire(timeout=10)
    reading.close()
    assert not reading.running
    reading.start()
    assert not reading.running


def test_what_goes_wrong_is_logged_and_the_next_start_tries_again(
    catalog: SlowCatalog,
    reading: BackgroundReading,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_progress: Progress) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "index", broken)
        reading.start()
        assert over(reading)
    assert "the disk is gone" in caplog.text
    catalog.enough.set()
    reading.start()
    assert over(reading)
    assert catalog.times == 1


def test_it_can_wait_until_somebody_looks(catalog: SlowCatalog, reading: BackgroundReading) -> None:
    reading.start(after=60)
    assert not catalog.begun.acquire(timeout=0.05)
    reading.hurry()
    assert catalog.begun.acquire(timeout=5)
    catalog.enough.set()
    assert over(reading)


def test_closing_does_not_wait_for_the_beginning(catalog: SlowCatalog, reading: BackgroundReading) -> None:
    reading.start(after=60)
    reading.close(patience=5)
    assert not reading.running
    assert not catalog.begun.acquire(timeout=0.05)
