"""The demo's page in a headless Chromium: the server is a process of its own, as for a user."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from crowded_library import write_crowd

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 120


def _lacking(sentence: str) -> None:
    """Leave the tests out, or fail them where LYCOPATCH_BROWSER=required says that they have to run."""
    if os.environ.get("LYCOPATCH_BROWSER") == "required":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _lacking("The page is tested with playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        _lacking("The page is tested in Chromium, which is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--no-proxy-server"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the page answers, as the demo itself says it."""
    with _demo() as found:
        yield found


@dataclass(frozen=True)
class Crowd:
    """A demo over several hundred networks, strange ones among them, and those of the demo in ``mine``."""

    address: str
    folder: Path


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("networks")
    write_crowd(folder)
    shutil.copytree(ROOT / "extensions_lib" / "lycopatch" / "demo" / "networks", folder / "mine")
    with _demo("--networks", str(folder)) as found:
        yield Crowd(found, folder)


@contextmanager
def _demo(*arguments: str) -> Iterator[str]:
    """A demo in a process of its own, with a free port."""
    pytest.importorskip("gradio", minversion="6", reason="the demo's page is made with gradio 6")
    pytest.importorskip("diffusers", reason="the demo's model needs diffusers")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "extensions_lib"), *_inherited()])}
    command = [sys.executable, "-u", "-m", "lycopatch.demo", "--port", "0", *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_pass_on, args=(server.stdout, lines))
        reader.start()
        try:
            yield _address(lines)
        finally:
            server.terminate()
            reader.join(10)


def _inherited() -> list[str]:
    return list(filter(None, [os.environ.get("PYTHONPATH")]))


def _pass_on(output: Any, lines: queue.Queue[str | None]) -> None:
    for line in output:
        lines.put(line)
    lines.put(None)


def _address(lines: queue.Queue[str | None]) -> str:
    """Wait until the server says where the page is; fail with all that it said if it ends before."""
    said: list[str] = []
    while (line := lines.get(timeout=START_SECONDS)) is not None:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    pytest.fail("The demo ended before its page was there:\n" + "".join(said), pytrace=False)


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """``open_page(address, locale="ja-JP")``: a page of a browser that knows nothing yet.

    Afterwards: nothing was asked of any other machine, no dialog came up, and the console has no error.
    """
    contexts: list[Any] = []
    trouble: list[str] = []

    def open_one(address: str, **more: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **more)
        contexts.append(context)
        opened = context.new_page()
        opened.set_default_timeout(60_000)
        opened.on("request", lambda request: trouble.append(request.url) if _is_foreign(request.url) else None)
        opened.on("console", lambda message: trouble.append(_said(message)) if _is_trouble(message) else None)
        opened.on("pageerror", lambda error: trouble.append(str(error)))
        opened.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        opened.goto(address)
        return opened

    yield open_one
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def page(open_page: Open, address: str) -> Any:
    """The demo's page, opened anew."""
    return open_page(address)


def _is_trouble(message: Any) -> bool:
    """Errors; but a preview that is no picture has no thumbnail, which browsers call an error."""
    return message.type == "error" and not ("404" in message.text and "/thumb/" in message.location.get("url", ""))


def _said(message: Any) -> str:
    return f"{message.text} {message.location.get('url', '')}"


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"
