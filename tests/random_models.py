"""Models as dicts of random tensors: the layers of the real ones, named as in checkpoints, in any width.

``sd15(shrink=40)`` has every layer of Stable Diffusion 1.5 with forty times fewer channels (a megabyte); ``sd15()`` is
full size.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lycopatch.engine.families.binding import bind
from networks import WEIGHT_STD

KEYSETS = Path(__file__).parent / "keysets" / "models"
TEXT_ENCODERS = ("cond_stage_model.", "conditioner.")
Shape = tuple[int, ...]


@cache
def _keyset(name: str) -> Mapping[str, Shape]:
    shapes: dict[str, Shape] = {}
    with gzip.open(KEYSETS / f"{name}.tsv.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            key, _, shape = line.rstrip("\n").split("\t")
            shapes[key] = tuple(int(size) for size in shape.split(",") if size)
    return shapes


def shapes_of(name: str, *, shrink: int = 1, blocks: Iterable[str] | None = None) -> dict[str, Shape]:
    """Name → shape of a checkpoint's U-Net and text encoder; ``blocks``: only what contains one of these strings."""
    found: dict[str, Shape] = {}
    for key, shape in _keyset(name).items():
        if not key.startswith(("model.diffusion_model.", *TEXT_ENCODERS)) or key.endswith("position_ids"):
            continue
        if key.endswith(".logit_scale") or (blocks is not None and not any(block in key for block in blocks)):
            continue
        found[key] = tuple(_shrunk(size, shrink) for size in shape)
    return found


def _shrunk(size: int, shrink: int) -> int:
    """Fewer channels (multiples of 320 in U-Nets, of 256 in encoders); kernels, latent channels and positions stay."""
    if shrink == 1 or size < 256:
        return size
    return size // shrink if size % 320 == 0 else size * 5 // (shrink * 4)


def random_tensors(shapes: Mapping[str, Shape], dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a common size; norms about 1."""
    rng = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        center = 1.0 if len(shape) == 1 and name.endswith(".weight") else 0.0
        tensors[name] = (center + WEIGHT_STD * torch.randn(shape, generator=rng)).to(dtype)
    return tensors


def sd15(
    *, shrink: int = 1, dtype: torch.dtype = torch.float16, seed: int = 0, blocks: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """U-Net and text encoder of SD 1.5."""
    return random_tensors(shapes_of("sd15_checkpoint", shrink=shrink, blocks=blocks), dtype, seed)


def sd21(*, shrink: int = 1, dtype: torch.dtype = torch.float16, seed: int = 0, blocks: Iterable[str] | None = None):
    """U-Net and open_clip text encoder (fused q, k, v) of SD 2.1."""
    return random_tensors(shapes_of("sd21_checkpoint", shrink=shrink, blocks=blocks), dtype, seed)


def pooled_tensors(shapes: Mapping[str, Shape], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Like ``random_tensors``, for gigabytes: every tensor is a stretch of one pool of random numbers."""
    rng = torch.Generator().manual_seed(seed)
    pool = (WEIGHT_STD * torch.randn(1 << 22, generator=rng)).to(dtype)
    tensors: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        flat = torch.empty(torch.Size(shape).numel(), dtype=dtype)
        for start in range(0, flat.numel(), len(pool)):
            piece = flat[start : start + len(pool)]
            piece.copy_(pool.roll(101 * number + start)[: len(piece)])
        tensors[name] = flat.view(shape)
    return tensors


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint file of these tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def as_module(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The same tensors as parameters of a tree of modules; open_clip's attention is a real ``MultiheadAttention``."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, attribute = name.split(".")
        owner = root
        for depth, part in enumerate(path):
            child = owner._modules.get(part)
            if child is None:
                prefix = ".".join(path[: depth + 1])
                fused = tensors.get(f"{prefix}.in_proj_weight")
                child = nn.Module() if fused is None else _attention(fused)
                owner.add_module(part, child)
            owner = child
        owner._parameters.pop(attribute, None)
        owner.register_parameter(attribute, nn.Parameter(tensor.clone(), requires_grad=False))
        if attribute == "weight" and "bias" not in owner._parameters and len(path) and tensor.dim() > 1:
            # as nn.Linear(bias=False) has it: the attribute is there and None
            owner.register_parameter("bias", None)
    return root


def _attention(fused: Tensor) -> nn.Module:
    width = fused.shape[1]
    return nn.MultiheadAttention(width, 1, dtype=fused.dtype)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: NaN equals itself, −0 is not 0."""
    whole = tensor.detach().contiguous().reshape(-1)
    return whole.view(torch.uint8)


def differing(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """The names whose bits differ, or that only one of the two has."""
    names = set(left) ^ set(right)
    for name in set(left) & set(right):
        a, b = left[name], right[name]
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(bits(a), bits(b)):
            names.add(name)
    return sorted(names)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def layers_of(
    tensors: Mapping[str, Tensor], *, only: Iterable[str] = ("",), but: Iterable[str] = ()
) -> dict[str, Shape]:
    """kohya's name of each layer → shape of its weight; names contain a word of ``only`` and none of ``but``."""
    refused = tuple(but)
    wanted = tuple(only)
    found: dict[str, Shape] = {}
    for layer in bind({name: tuple(tensor.shape) for name, tensor in tensors.items()}).layers:
        paths = dict(layer.paths)
        path = paths.get("diffusers") or paths.get("hf") or layer.paths[0][1]
        prefix = "lora_unet_" if layer.component == "unet" else "lora_te_"
        name = prefix + path.replace(".", "_")
        if any(word in name for word in wanted) and not any(word in name for word in refused):
            found[name] = layer.shape
    return found
