"""The folders: ``data_path`` is elsewhere with ``--data-dir``."""

from __future__ import annotations

import os

from modules import _host

script_path = str(_host.current.script_path)
data_path = str(_host.current.data_path)
cwd = script_path
models_path = os.path.join(data_path, "models")
extensions_dir = os.path.join(data_path, "extensions")
extensions_builtin_dir = os.path.join(script_path, "extensions-builtin")

if _host.at_least(8):

    def normalized_filepath(filepath: str) -> str:
        return os.path.abspath(filepath)
