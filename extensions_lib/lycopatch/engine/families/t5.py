"""T5 encoders (the third text encoder of Stable Diffusion 3), which have one naming only.

Source: the module tree of transformers ``T5EncoderModel`` (version 1.1: gated GELU).
"""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.families.layers import BoundLayer, Part, Paths, Shape

HF = "hf"
TOPS = {HF: frozenset({"shared", "encoder"})}

_EMBEDDINGS = ("shared", "encoder.embed_tokens")
"""Two names of one tensor: transformers ties them."""


@dataclass(frozen=True, slots=True)
class T5Config:
    """A T5 encoder's structure; ``inner`` is heads · head width."""

    width: int
    layers: int
    mlp: int
    heads: int
    inner: int
    vocabulary: int = 32128
    buckets: int = 32


T5_XXL = T5Config(width=4096, layers=24, mlp=10240, heads=64, inner=4096)


def tensors(config: T5Config) -> dict[str, Shape]:
    """Return name → shape of every weight."""
    d = config.width
    shapes: dict[str, Shape] = {"shared.weight": (config.vocabulary, d)}
    for n in range(config.layers):
        attention, feed_forward = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        for name in ("q", "k", "v"):
            shapes[f"{attention}.SelfAttention.{name}.weight"] = (config.inner, d)
        shapes[f"{attention}.SelfAttention.o.weight"] = (d, config.inner)
        if n == 0:
            shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (config.buckets, config.heads)
        shapes[f"{attention}.layer_norm.weight"] = (d,)
        shapes[f"{feed_forward}.DenseReluDense.wi_0.weight"] = (config.mlp, d)
        shapes[f"{feed_forward}.DenseReluDense.wi_1.weight"] = (config.mlp, d)
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = (d, config.mlp)
        shapes[f"{feed_forward}.layer_norm.weight"] = (d,)
    shapes["encoder.final_layer_norm.weight"] = (d,)
    return shapes


def bind(part: Part) -> list[BoundLayer]:
    """Return every layer of a live T5 encoder, the tied embedding once."""
    layers: list[BoundLayer] = []
    modules = part.modules()
    embedding = next((name for name in _EMBEDDINGS if name in modules), None)
    both: Paths = tuple((HF, name) for name in _EMBEDDINGS)
    for module in modules:
        if module == embedding:
            layers.append(part.whole(module, both))
        elif module not in _EMBEDDINGS:
            layers.append(part.whole(module, ((HF, module),)))
    return layers


def read_config(part: Part) -> T5Config | None:
    """Return the structure of a live T5 encoder as a config; None when its first block is incomplete."""
    attention, gate = "encoder.block.0.layer.0.SelfAttention.", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    query, bias = part.shapes.get(attention + "q.weight"), part.shapes.get(attention + "relative_attention_bias.weight")
    if query is None or bias is None or gate not in part.shapes:
        return None
    blocks = {name.split(".")[2] for name in part.shapes if name.startswith("encoder.block.")}
    return T5Config(query[1], len(blocks), part.shapes[gate][0], heads=bias[1], inner=query[0])
