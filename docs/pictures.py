"""``python docs/pictures.py``: the README's picture, made from what the command really prints."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("inspect", "tests/data/analog_svd_rank4.safetensors")


def main() -> None:
    """Run the command in a terminal of its own and save what it shows as docs/inspect.svg."""
    os.chdir(ROOT)
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


if __name__ == "__main__":
    main()
