"""The U-Nets of Stable Diffusion 1, 2, XL and their kin: from a config to names and shapes, and back from a live model.

Source: the module trees of CompVis/Stability ``UNetModel`` and of diffusers ``UNet2DConditionModel``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.families.layers import BoundLayer, Part, Paths, Shape
from lycopatch.engine.families.unet_layout import Layout, read_layout, units
from lycopatch.engine.families.unet_names import DIFFUSERS, LDM, OUTER_MODULES, RESNET_MEMBERS, Translator

TOPS = {
    LDM: frozenset({"time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out"}),
    DIFFUSERS: frozenset(
        (
            "conv_in time_embedding add_embedding class_embedding "
            "down_blocks mid_block up_blocks conv_norm_out conv_out"
        ).split()
    ),
}
"""The first segments of a U-Net's own tensors: what else lies beside them (a VAE, buffers) is not the U-Net's."""


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """A U-Net's structure: channels per level, attention layout, width of the text it attends to (None: no text).

    ``vector_dim``: width of the pooled text and size vector that SDXL adds to the time embedding.
    """

    channels: tuple[int, ...]
    layout: Layout
    context_dim: int | None
    linear_projection: bool
    vector_dim: int | None = None
    in_channels: int = 4
    out_channels: int = 4

    def resembles(self, other: UNetConfig) -> bool:
        """True when both have the same blocks; the first convolution and the vector may differ (variants)."""
        return (self.channels, self.layout, self.context_dim) == (other.channels, other.layout, other.context_dim)


def tensors(config: UNetConfig, naming: str) -> dict[str, Shape]:
    """Return name → shape of every parameter, in ``ldm`` or ``diffusers`` names."""
    first, embedding = config.channels[0], 4 * config.channels[0]
    shapes: dict[str, Shape] = {}
    shapes |= _with_bias(_outer("time_embed.0", naming), (embedding, first))
    shapes |= _with_bias(_outer("time_embed.2", naming), (embedding, embedding))
    if config.vector_dim is not None:
        shapes |= _with_bias(_outer("label_emb.0.0", naming), (embedding, config.vector_dim))
        shapes |= _with_bias(_outer("label_emb.0.2", naming), (embedding, embedding))
    width, skips = first, [0]
    for unit in units(config.layout):
        path = unit.ldm if naming == LDM else unit.diffusers
        out = config.channels[unit.level]
        if unit.diffusers == "conv_in":
            shapes |= _with_bias(path, (first, config.in_channels, 3, 3))
            skips = [first]
        elif unit.kind == "conv":
            shapes |= _with_bias(path, (width, width, 3, 3))
            if unit.diffusers.startswith("down"):
                skips.append(width)
        elif unit.kind == "attention":
            shapes |= _attention(path, out, unit.depth, config)
        else:
            entering = width + skips.pop() if unit.diffusers.startswith("up") else width
            shapes |= _resnet(path, naming, entering, out, embedding)
            width = out
            if unit.diffusers.startswith("down"):
                skips.append(width)
    shapes |= _with_bias(_outer("out.0", naming), (first,))
    shapes |= _with_bias(_outer("out.2", naming), (config.out_channels, first, 3, 3))
    return shapes


def _outer(ldm: str, naming: str) -> str:
    return ldm if naming == LDM else OUTER_MODULES[ldm]


def _with_bias(path: str, shape: Shape) -> dict[str, Shape]:
    return {path + ".weight": shape, path + ".bias": shape[:1]}


def _resnet(path: str, naming: str, entering: int, out: int, embedding: int) -> dict[str, Shape]:
    members: dict[str, Shape] = {
        "in_layers.0": (entering,),
        "in_layers.2": (out, entering, 3, 3),
        "emb_layers.1": (out, embedding),
        "out_layers.0": (out,),
        "out_layers.3": (out, out, 3, 3),
    }
    if entering != out:
        members["skip_connection"] = (out, entering, 1, 1)
    shapes: dict[str, Shape] = {}
    for member, shape in members.items():
        shapes |= _with_bias(f"{path}.{member if naming == LDM else RESNET_MEMBERS[member]}", shape)
    return shapes


def _attention(path: str, dim: int, depth: int, config: UNetConfig) -> dict[str, Shape]:
    projection: Shape = (dim, dim) if config.linear_projection else (dim, dim, 1, 1)
    shapes = _with_bias(path + ".norm", (dim,)) | _with_bias(path + ".proj_in", projection)
    for k in range(depth):
        block = f"{path}.transformer_blocks.{k}"
        for attn, context in (("attn1", dim), ("attn2", config.context_dim or dim)):
            shapes[f"{block}.{attn}.to_q.weight"] = (dim, dim)
            shapes[f"{block}.{attn}.to_k.weight"] = (dim, context)
            shapes[f"{block}.{attn}.to_v.weight"] = (dim, context)
            shapes |= _with_bias(f"{block}.{attn}.to_out.0", (dim, dim))
        shapes |= _with_bias(block + ".ff.net.0.proj", (8 * dim, dim))
        shapes |= _with_bias(block + ".ff.net.2", (dim, 4 * dim))
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _with_bias(f"{block}.{norm}", (dim,))
    return shapes | _with_bias(path + ".proj_out", projection)


def bind(part: Part) -> list[BoundLayer]:
    """Return every layer of a live U-Net with its live path and, where the structure gives one, the other naming's."""
    modules = part.modules()
    layout = read_layout(modules, part.naming)
    other = LDM if part.naming == DIFFUSERS else DIFFUSERS
    translate = Translator(layout, part.naming)
    layers: list[BoundLayer] = []
    for module in modules:
        translated = translate(module)
        paths: Paths = ((part.naming, module),)
        layers.append(part.whole(module, (*paths, (other, translated)) if translated else paths))
    return layers


def read_config(part: Part) -> UNetConfig | None:
    """Return the structure of a live U-Net as a config to compare with; None when its blocks can not be followed."""
    layout = read_layout(part.modules(), part.naming)
    if layout is None:
        return None
    shapes, ldm = part.shapes, part.naming == LDM
    first = shapes.get("input_blocks.0.0.weight" if ldm else "conv_in.weight")
    last = shapes.get(_outer("out.2", part.naming) + ".weight")
    if first is None or last is None:
        return None
    vector = shapes.get(_outer("label_emb.0.0", part.naming) + ".weight")
    conv = "in_layers.2" if ldm else RESNET_MEMBERS["in_layers.2"]
    channels = [0] * len(layout.down)
    context = projection = None
    for unit in units(layout):
        path = unit.ldm if ldm else unit.diffusers
        if unit.kind == "resnet" and unit.ldm.startswith("input"):
            channels[unit.level] = shapes.get(f"{path}.{conv}.weight", (0,))[0]
        elif unit.kind == "attention" and context is None:
            context = shapes.get(f"{path}.transformer_blocks.0.attn2.to_k.weight")
            projection = shapes.get(f"{path}.proj_in.weight")
    return UNetConfig(
        channels=tuple(channels),
        layout=layout,
        context_dim=context[1] if context else None,
        linear_projection=projection is not None and len(projection) == 2,
        vector_dim=vector[1] if vector else None,
        in_channels=first[1],
        out_channels=last[0],
    )
