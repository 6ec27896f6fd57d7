"""The networks that are applied: fp16 files with kohya names, as trainers write them, and the workloads made of them.

Every file has alpha = rank / 2 and a delta of about 2 % of the weight's norm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.model import WEIGHT_STD, Shape

DELTA_STD = 0.02 * WEIGHT_STD
RESNET_NAMES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
U_NET = "model.diffusion_model."
TEXT_ENCODER = "cond_stage_model.transformer."


@dataclass(frozen=True)
class Workload:
    """What is switched on: the networks of ``first``, and those of ``second`` that the switch goes to."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.first + self.second))


WORKLOADS: dict[str, Workload] = {
    "lora16": Workload("lora16", ("lora16",), ("lora16_b",)),
    "locon32": Workload("locon32", ("locon32",), ("locon32_b",)),
    "lokr8": Workload("lokr8", ("lokr8",), ("lokr8_b",)),
    "loha8": Workload("loha8", ("loha8",), ("loha8_b",)),
    "stack3": Workload("stack3", ("lora16", "lora16_b", "lora16_c"), ("lora16_d",)),
}


def kind_of(stem: str) -> str:
    """The kind a file was made as: ``lora16_b`` → ``lora16``."""
    return stem.split("_")[0]


def layers_of(kind: str, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """kohya layer name → name of the live weight, for the layers this kind of network trains.

    ``lora`` trains the attention blocks and the text encoder (264 layers), the others resnets and samplers too (350).
    """
    layers: dict[str, str] = {}
    for name, shape in shapes.items():
        if len(shape) >= 2 and name.endswith(".weight"):
            layer = _kohya_name(name.removesuffix(".weight"))
            if layer and (not kind.startswith("lora") or "_attentions_" in layer or layer.startswith("lora_te_")):
                layers[layer] = name
    return layers


def _kohya_name(path: str) -> str | None:
    """The trainer's name of a live module, None for a module that trainers leave alone."""
    if path.startswith(TEXT_ENCODER + "text_model.encoder."):
        return "lora_te_" + path.removeprefix(TEXT_ENCODER).replace(".", "_")
    found = re.match(r"(input_blocks|middle_block|output_blocks)\.(.*)", path.removeprefix(U_NET))
    if not found or path.endswith("input_blocks.0.0"):
        return None
    place = _diffusers_place(found[1], found[2])
    return "lora_unet_" + place.replace(".", "_")


def _diffusers_place(part: str, path: str) -> str:
    """``("input_blocks", "4.1.proj_in")`` → ``down_blocks.1.attentions.0.proj_in``."""
    if part == "middle_block":
        position, member = path.split(".", 1)
        block = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}[position]
        return f"{block}.{RESNET_NAMES.get(member, member)}"
    number, position, member = path.split(".", 2)
    if part == "input_blocks":
        level, index = divmod(int(number) - 1, 3)
        side, sampler = "down", "op"
    else:
        level, index = divmod(int(number), 3)
        side, sampler = "up", "conv"
    if member == sampler:
        return f"{side}_blocks.{level}.{side}samplers.0.conv"
    block = "resnets" if position == "0" else "attentions"
    return f"{side}_blocks.{level}.{block}.{index}.{RESNET_NAMES.get(member, member)}"


def write_adapter(path: Path, shapes: Mapping[str, Shape], *, seed: int) -> None:
    """Write one network file, whose kind is the file name's first word; an existing file is taken as it is."""
    if path.exists():
        return
    kind = kind_of(path.stem)
    generator = torch.Generator().manual_seed(seed)
    make, rank = MAKERS[kind]
    tensors: dict[str, torch.Tensor] = {}
    for layer, weight in layers_of(kind, shapes).items():
        for suffix, tensor in make(shapes[weight], rank, generator).items():
            tensors[f"{layer}.{suffix}"] = tensor.half().contiguous()
        tensors[f"{layer}.alpha"] = torch.tensor(rank / 2, dtype=torch.float16)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"ss_base_model_version": "sd_v1-5", "ss_network_dim": str(rank)})
    partial.replace(path)


Tensors = dict[str, torch.Tensor]


def _lora(shape: Shape, rank: int, generator: torch.Generator) -> Tensors:
    std = math.sqrt(DELTA_STD / (0.5 * math.sqrt(rank)))
    ones = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": torch.randn((shape[0], rank, *ones), generator=generator) * std,
        "lora_down.weight": torch.randn((rank, *shape[1:]), generator=generator) * std,
    }


def _loha(shape: Shape, rank: int, generator: torch.Generator) -> Tensors:
    std = (DELTA_STD / (0.5 * rank)) ** 0.25
    columns = math.prod(shape[1:])
    halves = {}
    for half in ("hada_w1", "hada_w2"):
        halves[f"{half}_a"] = torch.randn((shape[0], rank), generator=generator) * std
        halves[f"{half}_b"] = torch.randn((rank, columns), generator=generator) * std
    return halves


def _lokr(shape: Shape, factor: int, generator: torch.Generator) -> Tensors:
    std = math.sqrt(DELTA_STD)
    large = (shape[0] // factor, shape[1] // factor, *shape[2:])
    return {
        "lokr_w1": torch.randn((factor, factor), generator=generator) * std,
        "lokr_w2": torch.randn(large, generator=generator) * std,
    }


MAKERS: dict[str, tuple[Callable[[Shape, int, torch.Generator], Tensors], int]] = {
    "lora16": (_lora, 16),
    "locon32": (_lora, 32),
    "loha8": (_loha, 8),
    "lokr8": (_lokr, 8),
}


def write_all(folder: Path, stems: Iterable[str], shapes: Mapping[str, Shape]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        write_adapter(folder / f"{stem}.safetensors", shapes, seed=sum(stem.encode()))


@dataclass(frozen=True)
class Layer:
    """One layer of a file: its trainer's name, the live weight it is for, its tensors and alpha / rank."""

    name: str
    weight: str
    kind: str
    tensors: Tensors
    scale: float


def read_layers(path: Path, shapes: Mapping[str, Shape]) -> list[Layer]:
    """A benchmark file, parsed. Only for our own files: every key is known, nothing is checked."""
    kind = kind_of(path.stem)
    state = load_file(path)
    layers: list[Layer] = []
    for name, weight in layers_of(kind, shapes).items():
        prefix = name + "."
        tensors = {key.removeprefix(prefix): state[key] for key in _keys_of(kind, name)}
        scale = 1.0 if kind.startswith("lokr") else float(state[prefix + "alpha"]) / MAKERS[kind][1]
        layers.append(Layer(name, weight, kind, tensors, scale))
    return layers


def _keys_of(kind: str, layer: str) -> list[str]:
    suffixes = {
        "loha8": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
        "lokr8": ("lokr_w1", "lokr_w2"),
    }.get(kind, ("lora_up.weight", "lora_down.weight"))
    return [f"{layer}.{suffix}" for suffix in suffixes]


def delta64(layer: Layer, shape: Shape) -> torch.Tensor:
    """ΔW in float64 before the user's multiplier, shape of the weight flattened to (rows, columns)."""
    double = {suffix: tensor.double() for suffix, tensor in layer.tensors.items()}
    if layer.kind.startswith("lokr"):
        small, large = double["lokr_w1"], double["lokr_w2"].flatten(1)
        delta = torch.kron(small, large)
    elif layer.kind.startswith("loha"):
        halves = [double[f"{half}_a"] @ double[f"{half}_b"] for half in ("hada_w1", "hada_w2")]
        delta = halves[0] * halves[1]
    else:
        delta = double["lora_up.weight"].flatten(1) @ double["lora_down.weight"].flatten(1)
    return (delta * layer.scale).reshape(shape[0], -1)
