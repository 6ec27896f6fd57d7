"""The WebUI's folder on disk: models, extensions, settings, and the replay's package ``modules`` in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOST = Path(__file__).resolve().parent / "host"
COPIED = ("scripts", "javascript", "localizations", "html")
"""Folders of an extension that are copied; larger ones (its library) are linked."""
LEFT_OUT = ("tests", "benchmarks", "docs", ".git", ".venv")


def prepare(
    root: Path, data: Path, *, builtin_lora: bool, extensions: Mapping[str, Path], settings: Mapping[str, Any]
) -> None:
    """Make the folders of a fresh installation with these extensions; what is there already stays."""
    for folder in (
        "models/Lora",
        "models/LyCORIS",
        "models/Stable-diffusion",
        "models/VAE",
        "extensions",
        "embeddings",
    ):
        (data / folder).mkdir(parents=True, exist_ok=True)
    (root / "extensions-builtin").mkdir(parents=True, exist_ok=True)
    (root / "scripts").mkdir(exist_ok=True)
    if not (root / "modules").exists():
        (root / "modules").symlink_to(HOST / "modules", target_is_directory=True)
        shutil.copy2(HOST / "root" / "launch.py", root)
        shutil.copy2(HOST / "scripts" / "xyz_grid.py", root / "scripts")
    if not (root / "extensions-builtin" / "Lora").exists():
        shutil.copytree(
            HOST / "Lora", root / "extensions-builtin" / "Lora", ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, source in extensions.items():
        install(data / "extensions" / name, source)
    config = data / "config.json"
    saved = json.loads(config.read_text(encoding="utf8")) if config.exists() else {}
    disabled = set(saved.get("disabled_extensions", [])) - {"Lora"} | (set() if builtin_lora else {"Lora"})
    saved |= {"disabled_extensions": sorted(disabled)} | dict(settings)
    config.write_text(json.dumps(saved), encoding="utf8")


def named(extensions: Mapping[str, Path] | Sequence[Path]) -> dict[str, Path]:
    """Folder name → where the extension is."""
    if isinstance(extensions, Mapping):
        return dict(extensions)
    return {path.name: path for path in extensions}


def install(target: Path, source: Path) -> None:
    """Put an extension where users put it. What a user does not get (tests and the like) is left out."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name in LEFT_OUT or entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_file():
            shutil.copy2(entry, target)
        elif entry.name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(entry, target / entry.name, dirs_exist_ok=True, ignore=ignored)
        elif not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry.resolve(), target_is_directory=True)
