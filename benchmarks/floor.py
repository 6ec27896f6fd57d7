"""The floor: the same arithmetic as a bare torch loop over data that already lies in memory.

Nothing is read, parsed, verified or planned, and the originals are at hand. Each weight is computed from its original:
fp32 accumulation over blocks of whole rows, one rounding, into the live tensor. The choices are measured (Zen 4, MKL):
whole rows, because torch converts between fp16 and fp32 two to three times slower on strided views; 2^20 elements for
one product, the fastest of 2^15 to 2^21; 2^18 for the two products of a LoHa.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.adapters import Layer, read_layers
from benchmarks.measure import Seconds, timed

LORA_BLOCK = 1 << 20
LOHA_BLOCK = 1 << 18
Tags = Sequence[tuple[str, float]]


class Floor:
    """A contender like the others, except that making one (reading files, copying originals) is not measured."""

    def __init__(self, live: dict[str, torch.Tensor], folder: Path, stems: Sequence[str]) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in live.items()}
        self.live = live
        self.layers = {
            stem: {layer.weight: _in_memory(layer) for layer in read_layers(folder / f"{stem}.safetensors", shapes)}
            for stem in stems
        }
        touched = dict.fromkeys(weight for layers in self.layers.values() for weight in layers)
        self.pristine = {name: live[name].clone() for name in touched}
        widest = max(tensor[0].numel() for tensor in self.pristine.values())
        self.scratch = [torch.empty(max(LORA_BLOCK, widest)) for _ in range(2)]
        self.active: set[str] = set()

    def apply(self, tags: Tags) -> None:
        wanted = {name for stem, _ in tags for name in self.layers[stem]}
        for name in self.active - wanted:
            self.live[name].copy_(self.pristine[name])
        for name in wanted:
            parts = [(self.layers[stem][name], multiplier) for stem, multiplier in tags if name in self.layers[stem]]
            self._write(self.live[name], self.pristine[name], parts)
        self.active = wanted

    def remove(self) -> None:
        for name in self.active:
            self.live[name].copy_(self.pristine[name])
        self.active = set()

    def _write(self, live: torch.Tensor, pristine: torch.Tensor, parts: list[tuple[Layer, float]]) -> None:
        kind = parts[0][0].kind
        if kind.startswith("lokr"):
            write_lokr(live, pristine, *parts[0])
        elif kind.startswith("loha"):
            write_loha(live.flatten(1), pristine.flatten(1), *parts[0], self.scratch)
        else:
            write_lora(live.flatten(1), pristine.flatten(1), parts, self.scratch[0])


def write_lora(
    live: torch.Tensor, pristine: torch.Tensor, parts: list[tuple[Layer, float]], scratch: torch.Tensor
) -> None:
    """live = round(pristine + Σ multiplier · scale · up @ down). A stack is one product of the joint rank."""
    ups = [layer.tensors["lora_up.weight"].flatten(1).float().mul_(m * layer.scale) for layer, m in parts]
    downs = [layer.tensors["lora_down.weight"].flatten(1).float() for layer, _ in parts]
    up, down = (ups[0], downs[0]) if len(parts) == 1 else (torch.cat(ups, 1), torch.cat(downs, 0))
    for rows in row_blocks(live, LORA_BLOCK):
        block = like(scratch, live[rows])
        block.copy_(pristine[rows])
        block.addmm_(up[rows], down)
        live[rows].copy_(block)


def write_loha(
    live: torch.Tensor, pristine: torch.Tensor, layer: Layer, multiplier: float, scratch: list[torch.Tensor]
) -> None:
    """live = round(pristine + multiplier · scale · (w1_a @ w1_b) ⊙ (w2_a @ w2_b))."""
    factors = {suffix: tensor.float() for suffix, tensor in layer.tensors.items()}
    factors["hada_w1_a"].mul_(multiplier * layer.scale)
    for rows in row_blocks(live, LOHA_BLOCK):
        block, half = (like(buffer, live[rows]) for buffer in scratch)
        torch.mm(factors["hada_w1_a"][rows], factors["hada_w1_b"], out=block)
        torch.mm(factors["hada_w2_a"][rows], factors["hada_w2_b"], out=half)
        block.mul_(half)
        block.add_(pristine[rows])
        live[rows].copy_(block)


def write_lokr(live: torch.Tensor, pristine: torch.Tensor, layer: Layer, multiplier: float) -> None:
    """live = round(pristine + multiplier · w1 ⊗ w2): one broadcast, no Kronecker product is ever materialised.

    torch's fp16 ``addcmul`` on the CPU computes in fp32 and rounds once.
    """
    small, large = layer.tensors["lokr_w1"], layer.tensors["lokr_w2"].flatten(1)
    (a, b), (k, n) = small.shape, large.shape
    torch.addcmul(
        pristine.view(a, k, b, n),
        small.view(a, 1, b, 1),
        large.view(1, k, 1, n),
        value=multiplier * layer.scale,
        out=live.view(a, k, b, n),
    )


def row_blocks(matrix: torch.Tensor, elements: int) -> Iterator[slice]:
    """Slices of whole rows, each of at most ``elements`` (but at least one row)."""
    step = max(1, elements // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        yield slice(start, min(start + step, matrix.shape[0]))


def like(scratch: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return scratch[: block.numel()].view(block.shape)


def _in_memory(layer: Layer) -> Layer:
    """The layer with tensors of its own: the ones read may still be a map of the file."""
    tensors = {suffix: tensor.clone() for suffix, tensor in layer.tensors.items()}
    return Layer(layer.name, layer.weight, layer.kind, tensors, layer.scale)


def references(floor: Floor, stem: str) -> dict[str, Seconds]:
    """Physical references: copying the touched bytes, and the shortest wrong way, fp16 ``addmm_`` in place.

    ``addmm_`` rounds more than once, and a CPU without fp16 arithmetic is very slow at it: every 8th layer is measured
    and scaled up by its share of the elements.
    """
    layers = floor.layers[stem]

    def copy() -> None:
        for name in layers:
            floor.live[name].copy_(floor.pristine[name])

    found = {"memcpy of the touched weights": timed(copy)}
    if "lora_up.weight" not in next(iter(layers.values())).tensors:
        return found
    sample = list(layers.values())[::8]
    share = sum(floor.live[s.weight].numel() for s in sample) / sum(floor.live[name].numel() for name in layers)
    seconds = timed(_addmm_in_place(floor, sample))
    copy()
    found["fp16 addmm_ in place, more than one rounding"] = Seconds(seconds.cpu / share, seconds.wall / share)
    return found


def _addmm_in_place(floor: Floor, layers: Sequence[Layer]) -> Callable[[], None]:
    def run() -> None:
        for layer in layers:
            up, down = (layer.tensors[f"lora_{side}.weight"].flatten(1) for side in ("up", "down"))
            floor.live[layer.weight].flatten(1).addmm_(up, down, alpha=0.8 * layer.scale)

    return run
