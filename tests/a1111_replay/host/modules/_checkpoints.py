"""The checkpoint files: their names, which is chosen, and what structure a file's tensors belong to."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import safetensors.torch
import torch

from modules import hashes, shared
from modules.paths_internal import models_path

model_path = os.path.join(models_path, "Stable-diffusion")


class CheckpointInfo:
    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.name = os.path.relpath(filename, model_path)
        self.name_for_extra = os.path.splitext(os.path.basename(filename))[0]
        self.model_name = os.path.splitext(self.name.replace("/", "_"))[0]
        self.metadata: dict[str, str] = {}
        self.sha256 = hashes.sha256_from_cache(filename, f"checkpoint/{self.name}")
        self._name_by_hash()

    def _name_by_hash(self) -> None:
        self.shorthash = self.sha256[:10] if self.sha256 else None
        suffix = "" if self.shorthash is None else f" [{self.shorthash}]"
        self.title = self.name + suffix
        self.short_title = self.name_for_extra + suffix
        self.ids = [self.model_name, self.title, self.name, self.name_for_extra, self.short_title]

    def register(self) -> None:
        checkpoints_list[self.title] = self
        checkpoint_aliases.update(dict.fromkeys(self.ids, self))

    def calculate_shorthash(self) -> str | None:
        """The hash is computed at the first load; from then on it is part of the title."""
        self.sha256 = hashes.sha256(self.filename, f"checkpoint/{self.name}")
        if self.sha256 is not None and self.shorthash is None:
            checkpoints_list.pop(self.title, None)
            self._name_by_hash()
            self.register()
        return self.shorthash


checkpoints_list: dict[str, CheckpointInfo] = {}
checkpoint_aliases: dict[str, CheckpointInfo] = {}


def list_models() -> None:
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for filename in shared.walk_files(model_path, allowed_extensions=[".safetensors"]):
        CheckpointInfo(filename).register()


def get_closet_checkpoint_match(search_string: str) -> CheckpointInfo | None:
    """(The WebUI spells it so.)"""
    found = [info for info in checkpoints_list.values() if search_string in info.title]
    return checkpoint_aliases.get(search_string) or min(found, key=lambda info: len(info.title), default=None)


def select_checkpoint() -> CheckpointInfo:
    """The one that the settings name, else the first."""
    chosen = checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    if chosen is None and not checkpoints_list:
        raise FileNotFoundError("No checkpoints found.")
    return chosen or next(iter(checkpoints_list.values()))


def read_state_dict(checkpoint_file: str, print_global_state: bool = False, map_location: Any = None) -> dict[str, Any]:
    if os.path.splitext(checkpoint_file)[1].lower() == ".safetensors":
        return safetensors.torch.load_file(checkpoint_file)
    loaded = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
    return loaded.get("state_dict", loaded)


def read_metadata_from_safetensors(filename: str) -> dict[str, Any]:
    """``__metadata__``; values that look like JSON are parsed."""
    with open(filename, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(2)
        assert length > 2, f"{filename} is not a safetensors file"
        assert start in (b'{"', b"{'"), f"{filename} is not a safetensors file"
        header = json.loads(start + file.read(length - 2))
    found = dict(header.get("__metadata__", {}))
    for key, value in found.items():
        if isinstance(value, str) and value[:1] == "{":
            with contextlib.suppress(ValueError):
                found[key] = json.loads(value)
    return found


def find_checkpoint_config(state_dict: dict[str, Any], info: CheckpointInfo) -> str:
    """The configuration file of the structure that a checkpoint has."""
    if "conditioner.embedders.1.model.ln_final.weight" in state_dict:
        return "sd_xl_base.yaml"
    if "conditioner.embedders.0.model.ln_final.weight" in state_dict:
        return "sd_xl_refiner.yaml"
    if any(name.startswith("cond_stage_model.model.") for name in state_dict):
        return "v2-inference.yaml"
    first = state_dict.get("model.diffusion_model.input_blocks.0.0.weight")
    return "v1-inpainting-inference.yaml" if first is not None and first.shape[1] == 9 else "v1-inference.yaml"
