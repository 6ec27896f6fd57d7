"""Run by the WebUI at every start, before the server: installs what is missing, and as a rule nothing is.

Standard library only: torch is not imported, and the network is not touched unless something is missing.
A failure is said in one sentence and an exit status; the WebUI shows it and goes on.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

REQUIREMENTS = {"safetensors": "safetensors>=0.3"}
"""Import name → what to ask pip for. torch is the WebUI's own business."""


def missing() -> list[str]:
    """The requirements whose package can not be found. A mere folder of that name is no package."""
    found = {name: importlib.util.find_spec(name) for name in REQUIREMENTS}
    return [wanted for name, wanted in REQUIREMENTS.items() if not getattr(found[name], "origin", None)]


def main() -> int:
    """Install what is missing; 0 when all is there, else pip's exit status."""
    if sys.version_info < (3, 10):
        print("LycoPatch needs Python 3.10 or newer; this WebUI runs on " + sys.version.split()[0] + ".")
        return 1
    wanted = missing()
    if not wanted:
        return 0
    print("LycoPatch installs " + ", ".join(wanted) + ".")
    status = subprocess.call([sys.executable, "-m", "pip", "install", "--prefer-binary", *wanted])
    if status:
        print("LycoPatch could not install " + ", ".join(wanted) + "; install it by hand into the WebUI's environment.")
    return status


if __name__ == "__main__":
    sys.exit(main())
