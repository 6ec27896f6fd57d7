"""Pieces of the Forge family: how its patchers take patches, when they look at them again, and what Classic lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from a1111_replay.webui import WebUI

KNOWN_TYPES = {"forge": ("diff", "set", "lora"), "reforge": ("diff", "set"), "neo": ("diff", "set")}
"""Host → types of patches that change anything; Neo raises for others, the rest passes over them."""

Patch = tuple[Any, ...]


class LoraLoader:
    """One per model, shared by all its patchers: merges, keeps the originals, and remembers which patches are in."""

    def __init__(self, model: nn.Module, host: str = "forge") -> None:
        self.model = model
        self.host = host
        self.backup: dict[str, nn.Parameter] = {}
        self.loaded_hash = str([])
        self.extra_weight_calculators: dict[str, Callable[..., Tensor]] = {}
        self.refused: list[str] = []

    def refresh(self, lora_patches: Mapping[Patch, Mapping[str, list[Patch]]]) -> None:
        """Does nothing when the keys read as last time, whatever the tensors below them are."""
        hashed = str(list(lora_patches))
        if hashed == self.loaded_hash:
            return
        for name, parameter in self.backup.items():
            self._set(name, parameter)
        self.backup.clear()
        merged: dict[str, list[Patch]] = {}
        for patches in lora_patches.values():
            for name, entries in patches.items():
                merged.setdefault(name, []).extend(entries)
        for name, entries in merged.items():
            self._merge(name, entries)
        self.loaded_hash = hashed

    def _merge(self, name: str, entries: list[Patch]) -> None:
        original = dict(self.model.named_parameters()).get(name)
        if original is None:
            raise ValueError(f"Wrong LoRA Key: {name}")
        weight = original.detach().float().clone()
        for strength, value in entries:
            weight = self._apply(weight, strength, value)
        self.backup[name] = original
        self._set(name, nn.Parameter(weight.to(original.dtype), requires_grad=False))

    def _apply(self, weight: Tensor, strength: float, value: Patch) -> Tensor:
        kind, payload = ("diff", value) if len(value) == 1 else value
        if kind in self.extra_weight_calculators and self.host == "forge":
            return self.extra_weight_calculators[kind](weight, strength, payload)
        if kind not in KNOWN_TYPES[self.host]:
            if self.host == "neo":
                raise ValueError(f"unknown patch type {kind}")
            self.refused.append(kind)
            return weight
        if kind == "set":
            return payload[0].float()
        if kind == "diff":
            return weight + strength * payload[0].float()
        up, down, alpha = payload[:3]
        scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
        return weight + strength * scale * (up.float() @ down.float()).reshape(weight.shape)

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        """Another Parameter object takes the place."""
        path, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(path), attribute, parameter)


class ModelPatcher:
    """A view of a model with patches of its own; clones share the model and its loader."""

    def __init__(self, model: nn.Module, host: str = "forge", loader: LoraLoader | None = None) -> None:
        self.model = model
        self.lora_loader = loader or LoraLoader(model, host)
        self.lora_patches: dict[Patch, dict[str, list[Patch]]] = {}

    def clone(self) -> ModelPatcher:
        other = ModelPatcher(self.model, loader=self.lora_loader)
        other.lora_patches = dict(self.lora_patches)
        return other

    def add_patches(
        self,
        *,
        filename: str,
        patches: Mapping[str, Patch],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
        online_mode: bool = False,
    ) -> set[str]:
        """The names that were taken; others are passed over without a word. The same key again replaces."""
        known = dict(self.model.named_parameters())
        taken = {name: [(strength_patch, value)] for name, value in patches.items() if name in known}
        self.lora_patches[filename, strength_patch, strength_model, online_mode] = taken
        return set(taken)

    def refresh_loras(self) -> None:
        self.lora_loader.refresh(self.lora_patches)


class MemoryManagement:
    """``load_models_gpu``: a patcher that is loaded already (the very object) is not looked at again."""

    def __init__(self) -> None:
        self.loaded: list[ModelPatcher] = []

    def load_models_gpu(self, patchers: list[ModelPatcher]) -> None:
        with torch.inference_mode():
            for patcher in patchers:
                if not any(patcher is each for each in self.loaded):
                    patcher.refresh_loras()
                    self.loaded = [each for each in self.loaded if each.model is not patcher.model] + [patcher]


class BuiltinLora:
    """Forge's own ``networks.load_networks``: nothing is done while ``current_lora_hash`` reads as it would."""

    def __init__(self, unet: ModelPatcher) -> None:
        self.original = unet
        self.after_applying_lora = unet
        self.current_lora_hash = str([])

    def load_networks(self, wanted: list[tuple[str, dict[str, Patch], float]]) -> bool:
        """``wanted``: file, patches, strength. False when it returned early."""
        compiled = str([(file, strength) for file, _, strength in wanted])
        if compiled == self.current_lora_hash:
            return False
        self.current_lora_hash = compiled
        self.after_applying_lora = self.original.clone()
        for file, patches, strength in wanted:
            self.after_applying_lora.add_patches(filename=file, patches=patches, strength_patch=strength)
        return True


class Classic(WebUI):
    """The surface of Forge Classic (early 2025): 1.8's, without names that its developers took away."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__("1.8", folder, builtin_lora=False, **more)

    def start(self) -> WebUI:
        self.module("_startup")
        modules: Any = sys.modules["modules"]
        for name in ("lowvram", "generation_parameters_copypaste"):
            sys.modules[f"modules.{name}"] = None
            vars(modules).pop(name, None)
        del self.module("script_callbacks").on_list_optimizers
        return super().start()
