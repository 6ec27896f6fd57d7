"""What the WebUI runs at its start and at each "Reload UI": import the extension and hand over.

``extensions_lib`` is on the import path only while this file runs. The name of that folder may occur in any extension;
the package inside is ours alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = "lycopatch"
ENTRY = "lycopatch.hosts.a1111.entry"

logger = logging.getLogger(PACKAGE)


def start(root: Path) -> None:
    """Start the extension in the folder ``root``, or say in one sentence why not. Never raises."""
    if sys.version_info < (3, 10):  # noqa: UP036 - it has to run on an old Python to say so
        logger.error("LycoPatch needs Python 3.10 or newer; this WebUI runs on %s.", sys.version.split()[0])
        return
    other = running_copy()
    if other is not None and other != root:
        logger.error("LycoPatch is installed twice: %s is in use, so %s is not. Remove one of them.", other, root)
        return
    try:
        import_entry(root).register(root)
    except Exception as error:
        drop_modules()
        reason = f"{type(error).__name__}: {error}"
        traceback = not isinstance(error, ImportError)  # which says it all
        logger.error("LycoPatch could not start, and the WebUI goes on without it: %s", reason, exc_info=traceback)


def import_entry(root: Path) -> ModuleType:
    """Import the extension anew from the folder ``root``."""
    source = str(root / "extensions_lib")
    drop_modules()
    importlib.invalidate_caches()
    sys.path.insert(0, source)
    try:
        return importlib.import_module(ENTRY)
    finally:
        sys.path.remove(source)


def running_copy() -> Path | None:
    """The folder of a copy that has started since the WebUI began to load scripts: it left callbacks."""
    callbacks = getattr(sys.modules.get("modules.script_callbacks"), "callback_map", {})
    ours = os.path.join("extensions_lib", *ENTRY.split(".")[:-1], "host_api.py")
    files = {str(getattr(entry, "script", "")) for entries in callbacks.values() for entry in entries}
    return next((Path(file).parents[4] for file in sorted(files) if file.endswith(os.sep + ours)), None)


def drop_modules() -> None:
    """Forget the package as an earlier load, or somebody else, left it: the files may be new, and are to be ours."""
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


start(Path(os.path.abspath(__file__)).parents[1])
