"""Find the models inside a live model: which names are a U-Net's, an MMDiT's, a text encoder's, and below which prefix.

Each structure betrays itself by one tensor name (its anchor), wherever it hangs: a checkpoint, the modules of a WebUI,
a pipeline's components side by side, or alone. What has no anchor (VAE, ControlNet, EMA copies, buffers) is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lycopatch.engine.families import clip, mmdit, t5, unet
from lycopatch.engine.families.layers import Part, Shape, Shapes, Structure
from lycopatch.engine.types import COMPONENTS, Component

WRAPPER = "wrapped."
"""A level that a WebUI's hijack inserts in the path of text encoders and of their token embedding."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """``anchor`` betrays a structure, if ``companion`` lies beside it; ``outer`` is an optional level of its own."""

    structure: Structure
    naming: str
    anchor: str
    companion: str
    tops: frozenset[str]
    outer: str = ""


def _marks() -> tuple[_Mark, ...]:
    query = "encoder.layers.0.self_attn.q_proj.weight"
    qkv = "joint_blocks.0.x_block.attn.qkv.weight"
    added = "transformer_blocks.0.attn.add_q_proj.weight"
    fused = "transformer.resblocks.0.attn.in_proj_weight"
    t5_query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    time = "time_embedding.linear_1.weight"
    return (
        _Mark("unet", unet.LDM, "out.2.weight", "input_blocks.0.0.weight", unet.TOPS[unet.LDM]),
        _Mark("unet", unet.DIFFUSERS, time, "conv_out.weight", unet.TOPS[unet.DIFFUSERS]),
        _Mark("mmdit", mmdit.LDM, qkv, "x_embedder.proj.weight", mmdit.TOPS[mmdit.LDM]),
        _Mark("mmdit", mmdit.DIFFUSERS, added, "pos_embed.proj.weight", mmdit.TOPS[mmdit.DIFFUSERS]),
        _Mark("clip", clip.HF, query, "embeddings.token_embedding.weight", clip.TOPS[clip.HF], "text_model."),
        _Mark("clip", clip.OPENCLIP, fused, "token_embedding.weight", clip.TOPS[clip.OPENCLIP]),
        _Mark("t5", t5.HF, t5_query, t5_query, t5.TOPS[t5.HF]),
    )


def find_parts(shapes: Shapes) -> list[Part]:
    """Return every model found in ``shapes`` (live tensor name → shape), each component at most once."""
    clean = {name.replace(WRAPPER, "") if WRAPPER in name else name: name for name in shapes}
    roots = _roots(clean)
    if any(prefix.startswith("conditioner.") for prefix, _ in roots):
        # A WebUI registers the conditioner a second time under the name that older models use.
        roots = [(prefix, mark) for prefix, mark in roots if not prefix.startswith("cond_stage_model.")]
    parts = [_collect(prefix, mark, clean, shapes) for prefix, mark in roots]
    return _with_components(parts)


def _roots(clean: Mapping[str, str]) -> list[tuple[str, _Mark]]:
    marks = _marks()
    anchors = tuple(mark.anchor for mark in marks)
    roots: list[tuple[str, _Mark]] = []
    for name in clean:
        if not name.endswith(anchors):
            continue
        for mark in marks:
            prefix = name.removesuffix(mark.anchor)
            if prefix == name or (prefix and not prefix.endswith(".")) or prefix + mark.companion not in clean:
                continue
            roots.append((prefix.removesuffix(mark.outer), mark))
    return roots


def _collect(prefix: str, mark: _Mark, clean: Mapping[str, str], shapes: Shapes) -> Part:
    """Gather the tensors below ``prefix`` whose first segment belongs to the structure."""
    found: dict[str, Shape] = {}
    live: dict[str, str] = {}
    length = len(prefix)
    for name, original in clean.items():
        if name.startswith(prefix):
            inner = name[length:]
            if inner.partition(".")[0] in mark.tops:
                found[inner] = shapes[original]
                live[inner] = original
    anchor = live[next(name for name in found if name.endswith(mark.anchor))]
    return Part(mark.structure, mark.naming, "unet", _live_prefix(anchor, mark), found, live)


def _live_prefix(anchor: str, mark: _Mark) -> str:
    return anchor.removesuffix(mark.anchor).removesuffix(mark.outer)


def _with_components(parts: Iterable[Part]) -> list[Part]:
    """Say which component each part is: labelled encoders first, then the others in order. The first of each stays."""
    taken: dict[Component, Part] = {}
    unlabelled: list[Part] = []
    for part in parts:
        component = _component(part)
        if component is None:
            unlabelled.append(part)
        elif component not in taken:
            taken[component] = replace(part, component=component)
    for part in sorted(unlabelled, key=lambda part: part.prefix):
        free: list[Component] = [name for name in COMPONENTS[1:] if name not in taken]
        if free:
            taken[free[0]] = replace(part, component=free[0])
    return [taken[name] for name in COMPONENTS if name in taken]


_LABELS: dict[str, Component] = {
    "text_encoder": "te1",
    "text_encoder_2": "te2",
    "text_encoder_3": "te3",
    "clip_l": "te1",
    "clip_h": "te1",
    "clip_g": "te2",
    "t5xxl": "te3",
}
_SECOND_ENCODER_WIDTH = clip.CLIP_BIG_G.width


def _component(part: Part) -> Component | None:
    """What a part's kind, path or width says about which one it is; None: only its place among the others can tell."""
    if part.structure in ("unet", "mmdit"):
        return "unet"
    for segment in part.prefix.split("."):
        if segment in _LABELS:
            return _LABELS[segment]
    if part.structure == "t5":
        return "te3"
    config = clip.read_config(part)
    return "te2" if config is not None and config.width == _SECOND_ENCODER_WIDTH else None
