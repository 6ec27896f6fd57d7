"""A model's patchable layers as data: where their rows live, and every module path an adapter may call them by.

A layer is what a trainer saw as one module. In the live model its weight may be a whole tensor, some rows of a fused
tensor (open_clip ``in_proj_weight``), or several tensors one after another (a fused name on a model that is split).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lycopatch.engine.types import Component

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Paths = tuple[tuple[str, str], ...]
Structure = Literal["unet", "mmdit", "clip", "t5"]


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows ``start`` to ``stop`` (dim 0, stop excluded) of the live tensor named ``tensor``."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class BoundLayer:
    """A layer found in a live model: its names in every vocabulary, and its rows in the adapter's order.

    ``paths`` are (naming, dotted module path) pairs, in no order. ``shape`` is that of the weight as the adapter
    sees it. ``bias`` is empty when the live layer has none; ``bias_name`` is then the name it would have (None: no
    single tensor could hold it). ``transposed``: the live tensor is (in, out), the adapter's weight (out, in).
    """

    component: Component
    paths: Paths
    shape: Shape
    weight: tuple[RowRange, ...]
    bias: tuple[RowRange, ...]
    bias_name: str | None
    transposed: bool = False

    @property
    def is_first_convolution(self) -> bool:
        """True for the U-Net's first layer, which reads more channels in inpainting and instruct-pix2pix models."""
        return self.component == "unet" and any(path in ("conv_in", "input_blocks.0.0") for _, path in self.paths)


@dataclass(frozen=True, slots=True)
class Part:
    """One model inside a live model: its tensors below ``prefix``, by names cleaned of hijack wrappers.

    ``shapes`` and ``live`` have the same keys: the name inside the part → shape, and → name in the live model.
    """

    structure: Structure
    naming: str
    component: Component
    prefix: str
    shapes: Shapes
    live: Mapping[str, str]

    def modules(self) -> list[str]:
        """The dotted paths of the modules that own a weight (more than a single number), in the live model's order."""
        return [name[:-7] for name, shape in self.shapes.items() if shape and name.endswith(".weight")]

    def whole(self, module: str, paths: Paths) -> BoundLayer:
        """A layer whose weight and bias are the whole tensors of ``module``."""
        name = module + ".weight"
        shape, live = self.shapes[name], self.live[name]
        bias = module + ".bias"
        rows = self.shapes.get(bias)
        if rows is None:
            return BoundLayer(self.component, paths, shape, (RowRange(live, 0, shape[0]),), (), live[:-6] + "bias")
        bias_live = self.live[bias]
        ranges = (RowRange(bias_live, 0, rows[0]),)
        return BoundLayer(self.component, paths, shape, (RowRange(live, 0, shape[0]),), ranges, bias_live)

    def bare(self, name: str, paths: Paths, *, transposed: bool = False) -> BoundLayer:
        """A layer whose weight is a Parameter without a module of its own."""
        shape = self.shapes[name]
        rows = (RowRange(self.live[name], 0, shape[0]),)
        seen = shape[::-1] if transposed else shape
        return BoundLayer(self.component, paths, seen, rows, (), None, transposed)

    def rows(self, paths: Paths, pieces: Sequence[Piece]) -> BoundLayer:
        """A layer made of the given row ranges of this part's tensors, in this order."""
        weight = tuple(RowRange(self.live[piece.weight], piece.start, piece.stop) for piece in pieces)
        shape = (sum(piece.stop - piece.start for piece in pieces), *self.shapes[pieces[0].weight][1:])
        biases = [self.live.get(piece.bias) for piece in pieces]
        bias = tuple(
            RowRange(name, piece.start, piece.stop)
            for name, piece in zip(biases, pieces, strict=True)
            if name is not None
        )
        if len(bias) != len(pieces):
            return BoundLayer(self.component, paths, shape, weight, (), None)
        name = bias[0].tensor if len({row.tensor for row in bias}) == 1 else None
        return BoundLayer(self.component, paths, shape, weight, bias, name)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop`` of a part's tensor ``weight``, and the same rows of ``bias`` where it exists."""

    weight: str
    bias: str
    start: int
    stop: int
