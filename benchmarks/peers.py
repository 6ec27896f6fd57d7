"""The peers: peft's and lycoris-lora's own code, merging into modules that share the live tensors.

Both undo a merge by subtracting it again; that is their way, and the column "restored" shows what it leaves behind.
What is measured for them is generous: only the touched modules exist, and building the module tree is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.adapters import MAKERS, Layer, kind_of, layers_of, read_layers
from benchmarks.model import Shape, module_tree

Tags = Sequence[tuple[str, float]]


class _Peer:
    """What both peers need: the folder, the shapes, and the tree of touched modules."""

    def __init__(self, live: dict[str, torch.Tensor], folder: Path, stems: Sequence[str]) -> None:
        self.folder = folder
        self.shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in live.items()}
        touched = dict.fromkeys(weight for stem in stems for weight in layers_of(kind_of(stem), self.shapes).values())
        self.tree = module_tree(live, touched)

    def file(self, stem: str) -> Path:
        return self.folder / f"{stem}.safetensors"


class Peft(_Peer):
    """``inject_adapter_in_model`` with the file's factors, then ``merge`` and ``unmerge`` of each layer.

    The factors are fp32, as ``PeftModel`` casts them by default, and are made on the meta device (its fast way).
    """

    def __init__(self, live: dict[str, torch.Tensor], folder: Path, stems: Sequence[str]) -> None:
        import peft
        from peft.tuners.tuners_utils import BaseTunerLayer

        super().__init__(live, folder, stems)
        self.peft = peft
        self.layer_class = BaseTunerLayer
        self.layers: list[Any] = []
        self.loaded: set[str] = set()
        self.merged = False

    def apply(self, tags: Tags) -> None:
        self.remove()
        for stem, _ in tags:
            if stem not in self.loaded:
                self._load(stem)
        for layer in self.layers:
            for stem, multiplier in tags:
                layer.set_scale(stem, multiplier)
            layer.merge(adapter_names=[stem for stem, _ in tags])
        self.merged = True

    def remove(self) -> None:
        if self.merged:
            for layer in self.layers:
                layer.unmerge()
        self.merged = False

    def _load(self, stem: str) -> None:
        layers = read_layers(self.file(stem), self.shapes)
        state: dict[str, torch.Tensor] = {}
        for layer in layers:
            path = layer.weight.removesuffix(".weight")
            state.update({f"{path}.{key}": tensor.float() for key, tensor in _peft_tensors(layer).items()})
        targets = [layer.weight.removesuffix(".weight") for layer in layers]
        config = _peft_config(self.peft, stem, targets)
        self.peft.inject_adapter_in_model(config, self.tree, adapter_name=stem, low_cpu_mem_usage=True)
        result = self.peft.set_peft_model_state_dict(self.tree, state, adapter_name=stem, low_cpu_mem_usage=True)
        if result.unexpected_keys:
            raise RuntimeError(f"peft did not take {len(result.unexpected_keys)} tensors of {stem}")
        self.layers = [module for module in self.tree.modules() if isinstance(module, self.layer_class)]
        self.loaded.add(stem)


def _peft_tensors(layer: Layer) -> dict[str, torch.Tensor]:
    if layer.kind.startswith(("loha", "lokr")):
        return layer.tensors
    return {"lora_A.weight": layer.tensors["lora_down.weight"], "lora_B.weight": layer.tensors["lora_up.weight"]}


def _peft_config(peft: Any, stem: str, targets: list[str]) -> Any:
    kind = kind_of(stem)
    rank = MAKERS[kind][1]
    if kind.startswith("lokr"):
        # A rank beyond every width makes both factors full; peft multiplies by alpha / r even then.
        return peft.LoKrConfig(r=100_000, alpha=100_000, decompose_factor=rank, target_modules=targets)
    if kind.startswith("loha"):
        return peft.LoHaConfig(r=rank, alpha=rank / 2, target_modules=targets)
    return peft.LoraConfig(r=rank, lora_alpha=rank / 2, target_modules=targets)


class Lycoris(_Peer):
    """lycoris-lora: a module per layer made from the file, then ``merge_to`` with the multiplier and with its negative.

    ``merge_to`` casts the factors to the weight's dtype first: on a CPU without fp16 arithmetic its products are slow.
    """

    def __init__(self, live: dict[str, torch.Tensor], folder: Path, stems: Sequence[str]) -> None:
        from lycoris.modules import get_module, make_module

        super().__init__(live, folder, stems)
        self.get_module: Callable[..., Any] = get_module
        self.make_module: Callable[..., Any] = make_module
        self.modules: dict[str, list[Any]] = {}
        self.merged: list[tuple[str, float]] = []

    def apply(self, tags: Tags) -> None:
        self.remove()
        for stem, multiplier in tags:
            if stem not in self.modules:
                self.modules[stem] = self._load(stem)
            for module in self.modules[stem]:
                module.merge_to(multiplier)
            self.merged.append((stem, multiplier))

    def remove(self) -> None:
        while self.merged:
            stem, multiplier = self.merged.pop()
            for module in self.modules[stem]:
                module.merge_to(-multiplier)

    def _load(self, stem: str) -> list[Any]:
        state = load_file(self.file(stem))
        modules: list[Any] = []
        for name, weight in layers_of(kind_of(stem), self.shapes).items():
            algorithm, tensors = self.get_module(state, name)
            target = self.tree.get_submodule(weight.removesuffix(".weight"))
            modules.append(self.make_module(algorithm, tensors, name, target))
        return modules
