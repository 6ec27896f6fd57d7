"""Small models that compute: every layer of the true name and class is called, one after the other.

What goes through them has the shape [batch, places, channels]; each layer takes as many channels as it needs. So every
weight has its part in the result, though the result is no picture.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
PLACES = 8
Tree = TypeVar("Tree", bound="Chain")


class Chain(nn.Module):
    """A node of the tree: calls its children in order. Children are reached by name, or by number."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for name, child in self.named_children():
            x = child(x, context) if isinstance(child, Chain) else through(child, name, x, context)
        for name, own in self.named_parameters(recurse=False):
            x = settled(fitted(x, own.shape[-1]) * (1 + own.float().mean(0)), name)
        return x

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> nn.Module:
        return list(self.children())[index]


def fitted(x: Tensor, channels: int) -> Tensor:
    """As many channels as a layer wants: repeated, or the first ones."""
    if x.shape[-1] >= channels:
        return x[..., :channels]
    return x.repeat(1, 1, -(-channels // x.shape[-1]))[..., :channels]


def settled(x: Tensor, name: str = "") -> Tensor:
    """Numbers about 1, in float32, whatever the layer did."""
    x = x.float()
    return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-3)


def through(layer: nn.Module, name: str, x: Tensor, context: Tensor | None) -> Tensor:
    """One layer. Keys and values of cross-attention look at the text."""
    if isinstance(layer, nn.Conv2d):
        taken = fitted(x, layer.in_channels)
        side = int(taken.shape[1] ** 0.5)
        y = layer(_typed(layer, taken.transpose(1, 2).reshape(len(x), -1, side, side))).flatten(2).transpose(1, 2)
    elif isinstance(layer, nn.Linear):
        of_text = context is not None and name in ("to_k", "to_v") and layer.in_features == context.shape[-1]
        taken = context.float().mean(1, keepdim=True).expand(-1, x.shape[1], -1) if of_text else x
        y = layer(_typed(layer, fitted(taken, layer.in_features)))
    elif isinstance(layer, nn.MultiheadAttention):
        taken = _typed(layer.out_proj, fitted(x, layer.embed_dim).transpose(0, 1))
        y = layer(taken, taken, taken, need_weights=False)[0].transpose(0, 1)
    elif isinstance(layer, nn.GroupNorm):
        y = layer(_typed(layer, fitted(x, layer.num_channels).transpose(1, 2))).transpose(1, 2)
    else:
        assert isinstance(layer, nn.LayerNorm)
        y = layer(_typed(layer, fitted(x, layer.normalized_shape[0])))
    return settled(fitted(x, y.shape[-1]) + y.float())


def _typed(layer: Any, x: Tensor) -> Tensor:
    """What a layer is given: its own type, except where autocast takes care (fp8 is no type to compute in)."""
    computable = layer.weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return x.to(layer.weight.dtype) if computable else x.float()


def build(shapes: Shapes, root: Tree) -> Tree:
    """Grow ``root`` into the tree of modules whose state dict has exactly these names and shapes."""
    for name, shape in shapes.items():
        *path, attribute = name.split(".")
        _place(root, path, attribute, shape, shapes)
    return root


def _place(root: Chain, path: list[str], attribute: str, shape: tuple[int, ...], shapes: Shapes) -> None:
    owner: nn.Module = root
    for depth, part in enumerate(path):
        below = owner._modules.get(part)
        if below is None:
            below = _layer(".".join(path[: depth + 1]), shapes)
            owner.add_module(part, below)
        owner = below
    if isinstance(owner, Chain):
        owner.register_parameter(attribute, nn.Parameter(torch.zeros(shape)))
    assert tuple(owner.get_parameter(attribute).shape) == shape, (path, attribute, shape)


def _layer(path: str, shapes: Shapes) -> nn.Module:
    fused = shapes.get(f"{path}.in_proj_weight")
    if fused is not None:
        return nn.MultiheadAttention(fused[1], 1)
    shape, bias = shapes.get(f"{path}.weight"), f"{path}.bias" in shapes
    if shape is None:
        return Chain()
    if len(shape) == 4:
        return nn.Conv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2, bias=bias)
    if path.endswith(("token_embedding", "position_embedding")):
        return nn.Embedding(*shape)
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=bias)
    is_group = path.split(".")[-2:-1] in (["in_layers"], ["out_layers"], ["out"]) or path.endswith(".norm")
    return nn.GroupNorm(4, shape[0]) if is_group else nn.LayerNorm(shape[0])


class TextModel(Chain):
    """A text encoder below ``transformer`` (transformers' CLIP) or ``model`` (open_clip)."""

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Word → number, the same one every time."""
        return [[zlib.crc32(word.encode()) % 63 + 1 for word in text.split()] for text in texts]

    def encode(self, tokens: Tensor) -> Tensor:
        """[batch, places] → [batch, places, width]"""
        if "transformer" in self._modules:
            clip: Any = self.transformer
            body = clip.text_model
            positions = body.embeddings.position_embedding.weight
            return clip(body.embeddings.token_embedding(tokens) + positions[None, : tokens.shape[1]])
        clip = self.model
        return clip(clip.token_embedding(tokens) + clip.positional_embedding[None, : tokens.shape[1]])

    def forward(self, texts: Any, context: Any = None) -> Tensor:
        rows = [(tokens + [0] * PLACES)[:PLACES] for tokens in self.tokenize(texts)]
        return self.encode(torch.tensor(rows))


class TextTower(Chain):
    """What lies below ``transformer`` or ``model``: the embeddings are looked up outside, the rest is a chain."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm, nn.MultiheadAttention)) and not _inside_attention(
                module, self
            ):
                x = through(module, "", x, None)
        projection = getattr(self, "text_projection", None)
        return x if projection is None else x @ projection.float()


def _inside_attention(module: nn.Module, root: nn.Module) -> bool:
    inner = (attention.out_proj for attention in root.modules() if isinstance(attention, nn.MultiheadAttention))
    return any(module is each for each in inner)


class UNet(Chain):
    """``model.diffusion_model``."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        from modules import sd_unet

        if sd_unet.current_unet is not None:
            return sd_unet.current_unet.forward(x, None, context)
        size = x.shape
        out = super().forward(x.flatten(2).transpose(1, 2), context)
        return fitted(out, size[1]).transpose(1, 2).reshape(size)


class Vae(nn.Module):
    """``first_stage_model``: is loaded, moved and typed apart from the rest."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.decoder = build({name.removeprefix("decoder."): shape for name, shape in shapes.items()}, Chain())

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder.conv_out(z.to(self.decoder.conv_out.weight.dtype))

    def encode(self, x: Tensor) -> Tensor:
        return x
