"""How smoothly the library scrolls, and how fast it answers, in a real browser over thousands of networks.

``python -m benchmarks.library_page --count 10000`` writes a library as ``benchmarks.library`` does, serves it in the
demo's page, scrolls in headless Chromium and prints one small table. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.library import ROOT, WORDS, settle, write_library
from benchmarks.measure import load_average

SECONDS = 5
TILE = '.lycopatch-gallery .lycopatch-tile[data-state="ready"]'
RECORD = """() => {
    window.times = [];
    const frame = (now) => { window.times.push(now); window.running = requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""
FRAMES_PER_SECOND = """() => {
    cancelAnimationFrame(window.running);
    return (window.times.length - 1) / (window.times.at(-1) - window.times[0]) * 1000;
}"""
DRAG = """() => {
    const view = document.querySelector(".lycopatch-view");
    let step = 0;
    const drag = () => {
        view.scrollTop = (view.scrollHeight - view.clientHeight) * (0.5 - 0.5 * Math.cos((step++ / 150) * Math.PI));
        window.dragging = requestAnimationFrame(drag);
    };
    drag();
}"""


@contextmanager
def served(networks: Path) -> Iterator[str]:
    """The address of the demo's page over these networks."""
    command = [sys.executable, "-u", "-m", "lycopatch.demo", "--port", "0", "--networks", str(networks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extensions_lib")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http\S+", line)))
        finally:
            server.terminate()


def scrolled(page: Any, how: str) -> float:
    """Frames per second of some seconds of scrolling."""
    page.locator(".lycopatch-view").hover()
    page.evaluate(RECORD)
    end = time.monotonic() + SECONDS
    if how == "drag":
        page.evaluate(DRAG)
        time.sleep(SECONDS)
        page.evaluate("() => cancelAnimationFrame(window.dragging)")
    while time.monotonic() < end:
        page.mouse.wheel(0, 120)
        time.sleep(0.05)
    return float(page.evaluate(FRAMES_PER_SECOND))


def searched(page: Any) -> list[float]:
    """Milliseconds from the question to the answer, as the browser sees them, while somebody types."""
    taken: list[float] = []

    def done(request: Any) -> None:
        if request.url.endswith("/lycopatch/ui/networks") and '"facets":false' in (request.post_data or ""):
            timing = request.timing
            taken.append(timing["responseEnd"] - timing["requestStart"])

    page.on("requestfinished", done)
    box = page.locator(".lycopatch-gallery input[type=search]").first
    for word in WORDS:
        box.fill("")
        for letter in word:
            box.press_sequentially(letter)
            page.wait_for_timeout(200)
    page.wait_for_timeout(500)
    return sorted(taken)


def main() -> None:
    """Make the library, serve it, look at it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="networks (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lycopatch-") as made, sync_playwright() as playwright:
        folder = Path(made) / "Lora"
        write_library(folder, options.count)
        settle(folder)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--no-proxy-server"]
        )
        with served(folder) as address:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address)
            page.get_by_role("tab", name="LycoPatch").click()
            page.wait_for_selector(TILE, timeout=120_000)
            page.wait_for_selector(f"text={options.count:,} networks", timeout=120_000)
            page.wait_for_timeout(30_000 if options.count > 1000 else 3000)  # until all headers are read
            print(f"{options.count:,} networks, headless Chromium; load {load_average()}\n")
            for how in ("wheel", "drag"):
                print(f"{how:>8}: {scrolled(page, how):5.1f} frames per second")
            taken = searched(page)
            print(f"  search: {taken[len(taken) // 2]:5.1f} ms median, {taken[int(len(taken) * 0.95)]:.1f} ms at 95 %")
            page.wait_for_timeout(1000)
            heap = page.evaluate("() => performance.memory.usedJSHeapSize") / 2**20
            print(f"    page: {page.locator('.lycopatch-tile').count()} cards in the page, {heap:.0f} MiB of heap")
        browser.close()


if __name__ == "__main__":
    main()
