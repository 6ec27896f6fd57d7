"""The launcher: what is installed, and by which name to ask for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from modules import _host
from modules.paths_internal import data_path, models_path, script_path  # noqa: F401

pip_calls: list[str] = []


def git_tag() -> str:
    names = {(1, 5): "v1.5.2", (1, 6): "v1.6.0", (1, 9): "v1.9.4", (1, 10): "v1.10.1"}
    return names[_host.current.version]


def is_installed(package: str) -> bool:
    """By import name; since 1.7 the name of the distribution is tried first."""
    if _host.at_least(7):
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            pass
        else:
            return True
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def run_pip(command: str, desc: str | None = None, live: Any = False) -> None:
    pip_calls.append(command)
