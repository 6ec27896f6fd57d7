"""The command line: the arguments an extension may ask for, and those that extensions' ``preload.py`` add."""

from __future__ import annotations

import argparse
import json
import os

from modules import _host, script_loading
from modules.paths_internal import data_path, extensions_builtin_dir, extensions_dir, models_path

FLAGS = (
    "nowebui api skip-install lowvram medvram no-half no-half-vae upcast-sampling no-hashing freeze-settings "
    "hide-ui-dir-config disable-nan-check no-prompt-history"
).split()
SINCE = {"medvram-sdxl": 6, "disable-all-extensions": 6, "disable-extra-extensions": 6, "skip-load-model-at-start": 8}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    for flag in FLAGS + [flag for flag, minor in SINCE.items() if _host.at_least(minor)]:
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--data-dir", default=data_path)
    parser.add_argument("--embeddings-dir", default=os.path.join(data_path, "embeddings"))
    parser.add_argument("--ui-settings-file", default=os.path.join(data_path, "config.json"))
    parser.add_argument("--ckpt-dir", default=None)
    parser.add_argument("--vae-path", default=None)
    parser.add_argument("--vae-dir", default=os.path.join(models_path, "VAE"))
    parser.add_argument("--precision", default="autocast")
    parser.add_argument("--api-auth", default=None)
    parser.add_argument("--subpath", default=None)
    script_loading.preload_extensions(extensions_dir, parser, _enabled_extensions())
    script_loading.preload_extensions(extensions_builtin_dir, parser)
    return parser.parse_args(_host.current.arguments)


def _enabled_extensions() -> list[str]:
    """The user's extensions whose ``preload.py`` runs; of built-in ones it runs even when they are disabled."""
    try:
        with open(os.path.join(data_path, "config.json"), encoding="utf8") as file:
            settings = json.load(file)
    except FileNotFoundError:
        settings = {}
    switched_off = any(argument.startswith("--disable-") for argument in _host.current.arguments)
    if settings.get("disable_all_extensions", "none") != "none" or switched_off or not os.path.isdir(extensions_dir):
        return []
    return [name for name in os.listdir(extensions_dir) if name not in settings.get("disabled_extensions", [])]
