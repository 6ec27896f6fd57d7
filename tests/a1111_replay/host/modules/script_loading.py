"""Executing a script file: as a module named like the file, which ``sys.modules`` never gets to know."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

from modules import errors

loaded_scripts: dict[str, ModuleType] = {}


def load_module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def preload_extensions(extensions_dir: str, parser, extension_list=None) -> None:
    """``preload(parser)`` of every extension that has one; its folder is not on ``sys.path`` meanwhile."""
    if not os.path.isdir(extensions_dir):
        return
    for dirname in sorted(os.listdir(extensions_dir) if extension_list is None else extension_list):
        script = os.path.join(extensions_dir, dirname, "preload.py")
        if not os.path.isfile(script):
            continue
        try:
            module = load_module(script)
            if hasattr(module, "preload"):
                module.preload(parser)
        except Exception:
            errors.report(f"Error running preload() for {script}", exc_info=True)
