"""CLIP text encoders: transformers (``hf``) and open_clip names, from a config and from a live model.

open_clip keeps q, k and v fused in ``attn.in_proj_weight`` and its ``text_projection`` transposed (it computes x @ P);
adapters are always trained on the split, untransposed layers. transformers 5 dropped the ``text_model.`` level of some
classes, so every path is also given without it (``hf_short``).
Source: the module trees of transformers ``CLIPTextModel`` and of open_clip's text tower.
"""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.families.layers import BoundLayer, Part, Paths, Piece, Shape

HF, HF_SHORT, OPENCLIP = "hf", "hf_short", "openclip"

TOPS = {
    HF: frozenset({"text_model", "embeddings", "encoder", "final_layer_norm", "text_projection"}),
    OPENCLIP: frozenset({"transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"}),
}

_OUTER = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding": "positional_embedding",
    "final_layer_norm": "ln_final",
}
_MEMBERS = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_TO_HF = {name: hf for hf, name in (_OUTER | _MEMBERS).items()}
_HF_BLOCKS, _OPENCLIP_BLOCKS = "encoder.layers.", "transformer.resblocks."


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """A text encoder's structure; its MLP is 4 · width; ``projection``: width of the pooled output, if there is one."""

    width: int
    layers: int
    projection: int | None = None
    vocabulary: int = 49408
    positions: int = 77


CLIP_L = ClipConfig(width=768, layers=12)
CLIP_H = ClipConfig(width=1024, layers=24, projection=1024)
CLIP_BIG_G = ClipConfig(width=1280, layers=32, projection=1280)


def tensors(config: ClipConfig, naming: str) -> dict[str, Shape]:
    """Return name → shape of every weight and bias, in ``hf`` or ``openclip`` names."""
    d = config.width
    outer: dict[str, Shape] = {
        "embeddings.token_embedding.weight": (config.vocabulary, d),
        "embeddings.position_embedding.weight": (config.positions, d),
        "final_layer_norm.weight": (d,),
        "final_layer_norm.bias": (d,),
    }
    members: dict[str, Shape] = {
        "layer_norm1": (d,),
        "self_attn.out_proj": (d, d),
        "layer_norm2": (d,),
        "mlp.fc1": (4 * d, d),
        "mlp.fc2": (d, 4 * d),
    }
    if naming == HF:
        shapes = {"text_model." + name: shape for name, shape in outer.items()}
        members |= {f"self_attn.{name}": (d, d) for name in _PROJECTIONS}
        blocks = "text_model." + _HF_BLOCKS
    else:
        shapes = {_openclip_tensor(name): shape for name, shape in outer.items()}
        members = {_MEMBERS[name]: shape for name, shape in members.items()}
        blocks = _OPENCLIP_BLOCKS
    for n in range(config.layers):
        for member, shape in members.items():
            shapes[f"{blocks}{n}.{member}.weight"] = shape
            shapes[f"{blocks}{n}.{member}.bias"] = shape[:1]
        if naming == OPENCLIP:
            shapes[f"{blocks}{n}.attn.in_proj_weight"] = (3 * d, d)
            shapes[f"{blocks}{n}.attn.in_proj_bias"] = (3 * d,)
    if config.projection is not None:
        pooled = config.projection
        shapes |= {"text_projection.weight": (pooled, d)} if naming == HF else {"text_projection": (d, pooled)}
    return shapes


def _openclip_tensor(name: str) -> str:
    module, _, kind = name.rpartition(".")
    renamed = _OUTER[module]
    return renamed if renamed == "positional_embedding" else f"{renamed}.{kind}"


def bind(part: Part) -> list[BoundLayer]:
    """Return every layer of a live text encoder; open_clip's fused q, k, v become three layers."""
    return _bind_hf(part) if part.naming == HF else _bind_openclip(part)


def _bind_hf(part: Part) -> list[BoundLayer]:
    layers: list[BoundLayer] = []
    for module in part.modules():
        layers.append(part.whole(module, _paths(module.removeprefix("text_model."))))
    return layers


def _bind_openclip(part: Part) -> list[BoundLayer]:
    layers: list[BoundLayer] = []
    for name, shape in part.shapes.items():
        if name.endswith(".attn.in_proj_weight"):
            layers += _split_projections(part, name, shape)
        elif name == "positional_embedding":
            layers.append(part.bare(name, _paths("embeddings.position_embedding")))
        elif name == "text_projection":
            layers.append(part.bare(name, _paths(name), transposed=True))
        elif name.endswith(".weight"):
            module = name[:-7]
            short = _short_hf(module)
            layers.append(part.whole(module, _paths(short) if short else ((OPENCLIP, module),)))
    return layers


def _split_projections(part: Part, name: str, shape: Shape) -> list[BoundLayer]:
    block = name.removesuffix(".attn.in_proj_weight").removeprefix(_OPENCLIP_BLOCKS)
    bias = name.removesuffix("weight") + "bias"
    d = shape[0] // 3
    return [
        part.rows(_paths(f"{_HF_BLOCKS}{block}.self_attn.{projection}"), [Piece(name, bias, k * d, (k + 1) * d)])
        for k, projection in enumerate(_PROJECTIONS)
    ]


def _short_hf(module: str) -> str | None:
    """An open_clip module path → the path in transformers names without ``text_model.``."""
    if not module.startswith(_OPENCLIP_BLOCKS):
        return "text_projection" if module == "text_projection" else _TO_HF.get(module)
    block, _, member = module[len(_OPENCLIP_BLOCKS) :].partition(".")
    renamed = _TO_HF.get(member)
    return f"{_HF_BLOCKS}{block}.{renamed}" if renamed else None


def _paths(short: str) -> Paths:
    """Every name of the layer that transformers calls ``short`` (without ``text_model.``)."""
    if short == "text_projection":
        return ((HF, short), (OPENCLIP, short))
    paths: Paths = ((HF, "text_model." + short), (HF_SHORT, short))
    if short.startswith(_HF_BLOCKS):
        block, _, member = short[len(_HF_BLOCKS) :].partition(".")
        renamed = _MEMBERS.get(member)
        return (*paths, (OPENCLIP, f"{_OPENCLIP_BLOCKS}{block}.{renamed}")) if renamed else paths
    renamed = _OUTER.get(short)
    return (*paths, (OPENCLIP, renamed)) if renamed else paths


def read_config(part: Part) -> ClipConfig | None:
    """Return the structure of a live text encoder as a config; None without a token embedding."""
    if part.naming == HF:
        outer = "text_model." if any(name.startswith("text_model.") for name in part.shapes) else ""
        embedding, blocks = outer + "embeddings.token_embedding.weight", outer + _HF_BLOCKS
    else:
        embedding, blocks = "token_embedding.weight", _OPENCLIP_BLOCKS
    shape = part.shapes.get(embedding)
    if shape is None:
        return None
    layers = {name[len(blocks) :].partition(".")[0] for name in part.shapes if name.startswith(blocks)}
    projection = part.shapes.get("text_projection.weight" if part.naming == HF else "text_projection")
    pooled = None if projection is None else projection[0 if part.naming == HF else 1]
    return ClipConfig(width=shape[1], layers=len(layers), projection=pooled, vocabulary=shape[0])
