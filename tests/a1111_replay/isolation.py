"""A process of its own, as far as Python's modules and torch's classes go: afterwards all is as before."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
ABSENT_FROM_A_WEBUI = (str(TESTS), str(TESTS.parent / "extensions_lib"), str(TESTS.parent), "")
"""Folders of ``sys.path`` that only the tests have: imports that work by them would not work in a WebUI."""

OF_BUILTIN = (
    "network networks lora lora_patches lora_logger lyco_helpers extra_networks_lora ui_extra_networks_lora "
    "ui_edit_user_metadata network_lora"
).split()
TORCH_CLASSES = (
    torch.nn.Linear, torch.nn.Conv2d, torch.nn.MultiheadAttention, torch.nn.GroupNorm, torch.nn.LayerNorm,
    torch.nn.Embedding, torch.nn.Module,
)  # fmt: skip


def is_of_the_webui(name: str) -> bool:
    """Modules that a fresh process would not have."""
    top = name.split(".")[0]
    return top in ("modules", "lycopatch", "launch", "gradio", "scripts") or name in OF_BUILTIN


class Isolation:
    """``enter`` puts everything away, ``leave`` puts it back as it was."""

    def enter(self, first: Path) -> None:
        """``first``: the WebUI's folder, the first of ``sys.path`` as for a program started there."""
        self.modules = dict(sys.modules)
        self.path, self.path_content = sys.path, list(sys.path)
        self.classes = [(cls, dict(vars(cls))) for cls in TORCH_CLASSES]
        self.torch_nn = set(vars(torch.nn))
        for name in [name for name in sys.modules if is_of_the_webui(name)]:
            del sys.modules[name]
        kept = [each for each in sys.path if str(Path(each)) not in ABSENT_FROM_A_WEBUI and each != ""]
        sys.path = [str(first), *kept]
        importlib.invalidate_caches()

    def leave(self, folders: tuple[Path, ...]) -> None:
        """``folders``: modules that were loaded from below them are forgotten as well."""
        sys.path = self.path
        sys.path[:] = self.path_content
        for name, module in list(sys.modules.items()):
            new = name not in self.modules
            if is_of_the_webui(name) or (new and _is_below(module, folders)):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in self.modules.items() if is_of_the_webui(name)})
        for cls, before in self.classes:
            _restore(cls, before)
        for name in set(vars(torch.nn)) - self.torch_nn:
            delattr(torch.nn, name)


def _is_below(module: Any, folders: tuple[Path, ...]) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and any(folder in Path(file).parents for folder in folders)


def _restore(cls: type, before: dict[str, Any]) -> None:
    for name in set(vars(cls)) - set(before):
        delattr(cls, name)
    for name, value in before.items():
        if vars(cls)[name] is not value and name not in ("__dict__", "__weakref__"):
            setattr(cls, name, value)
