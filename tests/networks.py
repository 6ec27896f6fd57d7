"""Network files of every algorithm for any layers: genuine keys and shapes, reproducible random numbers.

``write_network(path, {"lora_unet_…_to_q": (320, 320)}, "lora")`` writes a file; ``ALGORITHMS`` lists what may be asked
for. The numbers are of the size that training leaves: ΔW is a tenth or so of a weight whose standard deviation is 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]
Maker = Callable[[Shape, torch.Generator], "Tensors | None"]
"""The tensors of one layer by the saver's suffix, or None when the algorithm has no layer of that shape."""

RANK = 4
WEIGHT_STD = 0.05


def _normal(shape: Shape, rng: torch.Generator, std: float) -> Tensor:
    return torch.randn(shape, generator=rng) * std


def _flat(shape: Shape) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _matrix(shape: Shape) -> bool:
    return len(shape) >= 2


def _conv(shape: Shape) -> bool:
    return len(shape) == 4 and shape[2] > 1


def _factor(size: int) -> tuple[int, int]:
    """The two factors of a size that are nearest to each other, the smaller first."""
    small = max(each for each in range(1, math.isqrt(size) + 1) if size % each == 0)
    return small, size // small


def lora(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    one = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": _normal((shape[0], RANK, *one), rng, 0.05),
        "lora_down.weight": _normal((RANK, *shape[1:]), rng, 0.05),
        "alpha": torch.tensor(RANK / 2.0),
    }


def tucker(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _conv(shape):
        return None
    return {
        "lora_up.weight": _normal((shape[0], RANK, 1, 1), rng, 0.1),
        "lora_mid.weight": _normal((RANK, RANK, *shape[2:]), rng, 0.1),
        "lora_down.weight": _normal((RANK, shape[1], 1, 1), rng, 0.1),
        "alpha": torch.tensor(RANK * 1.0),
    }


def loha(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    rows, cols = _flat(shape)
    names = {"hada_w1_a": (rows, RANK), "hada_w1_b": (RANK, cols), "hada_w2_a": (rows, RANK), "hada_w2_b": (RANK, cols)}
    return {name: _normal(size, rng, 0.2) for name, size in names.items()} | {"alpha": torch.tensor(RANK / 4.0)}


def tucker_loha(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _conv(shape):
        return None
    halves: Tensors = {}
    for half in ("1", "2"):
        halves[f"hada_t{half}"] = _normal((RANK, RANK, *shape[2:]), rng, 0.3)
        halves[f"hada_w{half}_a"] = _normal((RANK, shape[0]), rng, 0.3)
        halves[f"hada_w{half}_b"] = _normal((RANK, shape[1]), rng, 0.3)
    return halves | {"alpha": torch.tensor(RANK * 1.0)}


def lokr(shape: Shape, rng: torch.Generator) -> Tensors | None:
    """Both factors whole; alpha counts for nothing then, and trainers store huge ones."""
    if not _matrix(shape):
        return None
    (low_out, high_out), (low_in, high_in) = _factor(shape[0]), _factor(shape[1])
    return {
        "lokr_w1": _normal((low_out, low_in), rng, 0.1),
        "lokr_w2": _normal((high_out, high_in, *shape[2:]), rng, 0.1),
        "alpha": torch.tensor(10000.0),
    }


def low_lokr(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    (low_out, high_out), (low_in, high_in) = _factor(shape[0]), _factor(shape[1])
    return {
        "lokr_w1": _normal((low_out, low_in), rng, 0.2),
        "lokr_w2_a": _normal((high_out, 2), rng, 0.2),
        "lokr_w2_b": _normal((2, high_in * math.prod(shape[2:])), rng, 0.2),
        "alpha": torch.tensor(1.0),
    }


def tucker_lokr(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _conv(shape):
        return None
    (low_out, high_out), (low_in, high_in) = _factor(shape[0]), _factor(shape[1])
    return {
        "lokr_w1": _normal((low_out, low_in), rng, 0.3),
        "lokr_t2": _normal((2, 2, *shape[2:]), rng, 0.3),
        "lokr_w2_a": _normal((2, high_out), rng, 0.3),
        "lokr_w2_b": _normal((2, high_in), rng, 0.3),
        "alpha": torch.tensor(2.0),
    }


def glora(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    one = (1,) * (len(shape) - 2)
    return {
        "a1.weight": _normal((shape[1], RANK, *one), rng, 0.1),
        "a2.weight": _normal((RANK, shape[1], *one), rng, 0.1),
        "b1.weight": _normal((shape[0], RANK, *one), rng, 0.05),
        "b2.weight": _normal((RANK, *shape[1:]), rng, 0.05),
        "alpha": torch.tensor(RANK * 1.0),
    }


def ia3(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    one = (1,) * (len(shape) - 2)
    return {"weight": _normal((shape[0], *one), rng, 0.1).reshape(1, -1, *one), "on_input": torch.tensor(False)}


def input_ia3(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    one = (1,) * (len(shape) - 2)
    return {"weight": _normal((1, shape[1], *one), rng, 0.1), "on_input": torch.tensor(True)}


def full(shape: Shape, rng: torch.Generator) -> Tensors | None:
    return {"diff": _normal(shape, rng, 0.005)} if _matrix(shape) else None


def full_with_bias(shape: Shape, rng: torch.Generator) -> Tensors | None:
    weight = full(shape, rng)
    return weight and {**weight, "diff_b": _normal(shape[:1], rng, 0.005)}


def bias_alone(shape: Shape, rng: torch.Generator) -> Tensors | None:
    return {"diff_b": _normal(shape[:1], rng, 0.005)} if _matrix(shape) else None


def norm(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if len(shape) != 1:
        return None
    return {"w_norm": _normal(shape, rng, 0.01), "b_norm": _normal(shape, rng, 0.01)}


def oft(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape):
        return None
    blocks, size = _factor(shape[0])
    return {"oft_blocks": _normal((blocks, size, size), rng, 0.02), "alpha": torch.tensor(0.0)}


def rescaled_oft(shape: Shape, rng: torch.Generator) -> Tensors | None:
    plain = oft(shape, rng)
    return plain and {**plain, "rescale": 1 + _normal((shape[0], *(1 for _ in shape[1:])), rng, 0.05)}


def boft(shape: Shape, rng: torch.Generator) -> Tensors | None:
    if not _matrix(shape) or shape[0] % 4:
        return None
    count = shape[0] // 2
    stages = 1
    while count % (2**stages) == 0 and stages < 3:
        stages += 1
    blocks = _normal((stages, count, 2, 2), rng, 0.05)
    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}


def input_oft(shape: Shape, rng: torch.Generator) -> Tensors | None:
    """peft's: blocks of columns, the upper triangle of Q."""
    cols = _flat(shape)[1]
    if not _matrix(shape) or cols % 4:
        return None
    return {"oft_R.weight": _normal((cols // 4, 6), rng, 0.02)}


def hra(shape: Shape, rng: torch.Generator) -> Tensors | None:
    return {"hra_u": _normal((_flat(shape)[1], 2), rng, 1.0)} if _matrix(shape) else None


def _magnitude(shape: Shape, rng: torch.Generator, axis: int) -> Tensor:
    size = [1] * len(shape)
    size[axis] = shape[axis]
    length = math.prod(shape) / shape[axis]
    return WEIGHT_STD * math.sqrt(length) * (1 + _normal(tuple(size), rng, 0.02))


def dora(shape: Shape, rng: torch.Generator) -> Tensors | None:
    """The magnitude along the out axis, as trainers write it today."""
    plain = lora(shape, rng)
    return plain and {**plain, "dora_scale": _magnitude(shape, rng, 0)}


def input_dora(shape: Shape, rng: torch.Generator) -> Tensors | None:
    plain = lora(shape, rng)
    return plain and {**plain, "dora_scale": _magnitude(shape, rng, 1)}


def doha(shape: Shape, rng: torch.Generator) -> Tensors | None:
    plain = loha(shape, rng)
    return plain and {**plain, "dora_scale": _magnitude(shape, rng, 0)}


def dokr(shape: Shape, rng: torch.Generator) -> Tensors | None:
    plain = lokr(shape, rng)
    return plain and {**plain, "dora_scale": _magnitude(shape, rng, 0)}


def lora_with_bias(shape: Shape, rng: torch.Generator) -> Tensors | None:
    """A LoRA that also trained the layer's bias, in both spellings of that."""
    plain = lora(shape, rng)
    extra = {"lora_up.bias": _normal(shape[:1], rng, 0.01), "diff_b": _normal(shape[:1], rng, 0.01)}
    return plain and {**plain, **extra}


def sparse_lora(shape: Shape, rng: torch.Generator) -> Tensors | None:
    """A LoRA with the sparse remainder that extraction leaves."""
    plain = lora(shape, rng)
    if plain is None:
        return None
    rows, cols = _flat(shape)
    places = torch.randperm(rows * cols, generator=rng)[:5]
    indices = torch.stack([places // cols, places % cols])
    values = _normal((indices.shape[1],), rng, 0.05)
    sparse = {"bias_indices": indices, "bias_values": values, "bias_size": torch.tensor([rows, cols])}
    return {**plain, **sparse}


ALGORITHMS: Mapping[str, Maker] = {
    maker.__name__: maker
    for maker in (
        lora, tucker, loha, tucker_loha, lokr, low_lokr, tucker_lokr, glora, ia3, input_ia3, full, full_with_bias,
        bias_alone, norm, oft, rescaled_oft, boft, input_oft, hra, dora, input_dora, doha, dokr, lora_with_bias,
        sparse_lora,
    )
}  # fmt: skip

WITHOUT_NEW_BIASES = tuple(
    name for name in ALGORITHMS if name not in ("full_with_bias", "bias_alone", "lora_with_bias")
)
"""Algorithms that never ask a layer for a bias it does not have."""


def network(
    layers: Mapping[str, Shape], algorithm: str, *, dtype: torch.dtype = torch.float16, seed: int = 0
) -> Tensors:
    """The whole file: layers whose shape the algorithm can not have are left out. Alpha stays a float32 number."""
    rng = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, shape in layers.items():
        for suffix, tensor in (ALGORITHMS[algorithm](shape, rng) or {}).items():
            stored = tensor.to(dtype) if tensor.is_floating_point() and suffix != "alpha" else tensor
            tensors[f"{name}.{suffix}"] = stored.contiguous()
    assert tensors, f"{algorithm} has no layer of any of these shapes"
    return tensors


def write_network(
    path: Path,
    layers: Mapping[str, Shape],
    algorithm: str,
    *,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """``network`` as a safetensors file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network(layers, algorithm, dtype=dtype, seed=seed), path, dict(metadata or {}))
    return path
