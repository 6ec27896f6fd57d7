"""Small extensions written by a test, to look at the WebUI from inside. They report with ``log("…")`` to ``events``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

LOG = "from modules import script_callbacks\nfrom modules._host import log\n"

HANDLER = '''
from modules import extra_networks

class Handler(extra_networks.ExtraNetwork):
    """Writes down every call: what it was given, by which p."""

    def activate(self, p, params_list):
        names = ",".join(":".join(map(str, params.items)) for params in params_list)
        log(f"activate:{self.name}[{names}]")
        if "bad" in names:
            raise ValueError("a bad tag")

    def deactivate(self, p):
        log(f"deactivate:{self.name}")
'''


def extension(folder: Path, name: str, script: str, files: Mapping[str, str] | None = None) -> Path:
    """An extension of one script, which has ``log`` and ``script_callbacks``, and of other files."""
    root = folder / "probes" / name
    contents = {f"scripts/{name}.py": LOG + textwrap.dedent(script), **(files or {})}
    for path, text in contents.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf8")
    return root


def handler(
    folder: Path, name: str = "probe", register: str = "extra_networks.register_extra_network(Handler('probe'))"
) -> Path:
    """An extension that handles ``<probe:…>`` and logs ``activate:probe[…]``; ``register`` runs in ``before_ui``."""
    body = HANDLER + "\ndef before_ui():\n" + textwrap.indent(textwrap.dedent(register), "    ") + "\n"
    return extension(folder, name, body + "\nscript_callbacks.on_before_ui(before_ui)\n")


def only(events: list[str], *starts: str) -> list[str]:
    """The events that begin with one of ``starts``."""
    return [event for event in events if event.startswith(starts)]
