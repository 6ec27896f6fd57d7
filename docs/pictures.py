"""``python docs/pictures.py``: the README's pictures, made from what the commands really show."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("inspect", "tests/data/analog_svd_rank4.safetensors")


def main() -> None:
    """Make both, from the root of the repository."""
    os.chdir(ROOT)
    inspect()
    demo()


def inspect() -> None:
    """Run the command in a terminal of its own and save what it shows as docs/inspect.svg."""
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        shown.extend(data)
        return b"\n"  # pty.spawn takes nothing as the end; the picture is what counts

    os.environ["TERM"] = "xterm-256color"
    pty.spawn([sys.executable, "-m", "lycopatch", *COMMAND], read)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=92, file=nowhere, force_terminal=True)
        console.print(f"$ python -m lycopatch {' '.join(COMMAND)}", style="bold", highlight=False)
        console.print(Text.from_ansi(shown.decode("utf-8").replace("\r", "")))
    picture = console.export_svg(title="LycoPatch")
    # no font from somewhere else: the reader's own monospaced one does
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL).replace("Fira Code", "monospace")
    (ROOT / "docs" / "inspect.svg").write_text(picture, encoding="utf-8")


def demo() -> None:
    """Do in the demo's page what the README says, and save how it looks as docs/demo.png and library.png.

    Needs Chromium.
    """
    command = [sys.executable, "-u", "-m", "lycopatch.demo", "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http\S+", line)))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--no-proxy-server"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1060})
        page.goto(address)
        cards = page.locator(".lycopatch-gallery [role=gridcell]")
        page.fill("#demo_prompt textarea", "a red heart on blue")
        page.fill("#demo_seed input", "5")
        page.locator("#demo_batch input[type=number]").fill("4")
        cards.filter(has_text="stripes-lokr-low").first.click()
        page.wait_for_selector(".lycopatch-stack >> text=stripes-lokr-low")
        page.click("#demo_run")
        page.wait_for_selector("#demo_report >> text=/Seed 5/")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(1500)  # until the pictures are painted
        page.screenshot(path="docs/demo.png")
        page.get_by_role("tab", name="LycoPatch").click()
        card = page.locator(".lycopatch-gallery:visible [role=gridcell]", has_text="stripes-dora").first
        card.locator("[data-act=details]").dispatch_event("click")
        page.wait_for_selector("dialog[open]")
        page.wait_for_selector("dialog[open] .lycopatch-totals")  # it was measured where the network acts
        page.locator("dialog[open] .lycopatch-totals").evaluate("totals => totals.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(1000)
        page.screenshot(path="docs/library.png")
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
