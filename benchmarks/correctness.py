"""Was it right? Against float64, and against the checkpoint after everything was removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.adapters import delta64, read_layers
from benchmarks.model import read_some

EVERY = 20
Tags = Sequence[tuple[str, float]]


def correctly_rounded(live: Mapping[str, torch.Tensor], checkpoint: Path, folder: Path, tags: Tags) -> float:
    """The share of weights equal to the float64 result rounded once to fp16, over every 20th touched layer."""
    shapes = {name: tuple(tensor.shape) for name, tensor in live.items()}
    files = [(read_layers(folder / f"{stem}.safetensors", shapes), multiplier) for stem, multiplier in tags]
    sample = [layer.weight for layer in files[0][0]][::EVERY]
    originals = read_some(checkpoint, sample)
    equal = total = 0
    for name in sample:
        exact = originals[name].double().flatten(1)
        for layers, multiplier in files:
            exact += sum(multiplier * delta64(layer, shapes[name]) for layer in layers if layer.weight == name)
        # numpy rounds float64 to float16 once; torch goes through float32
        rounded = torch.from_numpy(exact.numpy().astype(np.float16))
        equal += int((rounded == live[name].flatten(1)).sum())
        total += rounded.numel()
    return equal / total


def changed_tensors(live: Mapping[str, torch.Tensor], checkpoint: Path) -> int:
    """How many tensors differ from the checkpoint in any bit."""
    originals = read_some(checkpoint, live)
    return sum(not torch.equal(_bits(tensor), _bits(originals[name])) for name, tensor in live.items())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int16)
