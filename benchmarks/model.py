"""The model every contender patches: an SD1 checkpoint of full size with random weights, in fp16 and ldm names.

The names and shapes are those of a published checkpoint (``tests/keysets``), without its VAE and noise schedule: U-Net
859.5 M and text encoder 123 M parameters. Speed does not depend on the values, so they are random, of a realistic size.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

KEYS = Path(__file__).parents[1] / "tests" / "keysets" / "models" / "sd15_checkpoint.tsv.gz"
WEIGHT_STD = 0.03
SHRINK = 4
"""``small`` divides each width by this. No width falls below 64, so a LoKr of factor 8 still splits it as 8 × n."""

Shape = tuple[int, ...]


def model_shapes(*, small: bool = False) -> dict[str, Shape]:
    """Tensor name → shape of the U-Net and the text encoder, in the checkpoint's order."""
    shapes: dict[str, Shape] = {}
    with gzip.open(KEYS, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, _dtype, dims = line.rstrip("\n").split("\t")
            if name.startswith(("model.diffusion_model.", "cond_stage_model.")) and "position_ids" not in name:
                shapes[name] = tuple(int(dim) for dim in dims.split(","))
    if small:
        return {name: tuple(_shrunk(dim) for dim in shape) for name, shape in shapes.items()}
    return shapes


def _shrunk(dim: int) -> int:
    return dim // SHRINK if dim >= 64 and dim % SHRINK == 0 else dim


def write_checkpoint(path: Path, *, small: bool = False) -> None:
    """Write the checkpoint once; an existing file is taken as it is. A part-written file never gets the final name."""
    if path.exists():
        _read_from_disk(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=generator).mul_(WEIGHT_STD).half()
        for name, shape in model_shapes(small=small).items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"modelspec.architecture": "stable-diffusion-v1"})
    partial.replace(path)
    _read_from_disk(path)


def _read_from_disk(path: Path) -> None:
    """Bring the file into the system's cache as a program that loads it does: in large pages, by reading ahead.

    A file that was just written, or mapped bit by bit, lies there in small ones, which cost all readers more.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 26):
            pass


def load_live(path: Path) -> dict[str, torch.Tensor]:
    """The live model: every tensor of the file in memory of its own, as a WebUI's ``load_state_dict`` leaves it.

    Never the loader's own tensors: those may be private maps of the file, and the first write to each page of one
    would be charged to the contender.
    """
    live: dict[str, torch.Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (a safetensors file, not a dict)
            live[name] = file.get_tensor(name).clone()
    return live


def read_some(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named tensors as the file holds them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def module_tree(live: Mapping[str, torch.Tensor], weights: Iterable[str]) -> nn.Module:
    """A tree of Linear and Conv2d that *share* the live tensors, one per named weight, under the weight's own path.

    Only shapes matter to a merge, so stride and padding stay at their defaults, and nothing is ever run forward.
    """
    root = nn.Module()
    for name in weights:
        path = name.removesuffix(".weight").split(".")
        parent = root
        for part in path[:-1]:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
            assert parent is not None
        parent.add_module(path[-1], _module_around(live[name], live.get(name.removesuffix("weight") + "bias")))
    return root.requires_grad_(False).eval()


def _module_around(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    has_bias = bias is not None
    if weight.ndim == 2:
        module: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias, device="meta")
    else:
        kernel = (weight.shape[2], weight.shape[3])
        module = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, bias=has_bias, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)
    return module


def megabytes(shapes: Iterable[Shape], *, bytes_each: int = 2) -> float:
    return sum(math.prod(shape) for shape in shapes) * bytes_each / 1e6
