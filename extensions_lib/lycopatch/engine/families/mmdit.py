"""The MMDiT of Stable Diffusion 3 and 3.5: from a config to names and shapes, and back from a live model.

The original keeps q, k, v fused in ``attn.qkv``; diffusers splits them. The final modulation, and that of the last
block's text stream, hold shift and scale in exchanged order. Such tensors are two sets of layers, one per naming.
Source: the module trees of Stability's ``MMDiTX`` and of diffusers ``SD3Transformer2DModel``, and the conversion
script of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass

from lycopatch.engine.families.layers import BoundLayer, Part, Piece, Shape

LDM, DIFFUSERS = "ldm", "diffusers"

TOPS = {
    LDM: frozenset("joint_blocks x_embedder t_embedder y_embedder context_embedder final_layer".split()),
    DIFFUSERS: frozenset("transformer_blocks pos_embed time_text_embed context_embedder norm_out proj_out".split()),
}
_BLOCKS = {LDM: "joint_blocks.", DIFFUSERS: "transformer_blocks."}

_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_MEMBERS = {
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
}
_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SPLIT = {part: fused for fused, parts in _FUSED.items() for part in parts}
_SWAPPED = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
_CONTEXT_MODULATION = {LDM: "context_block.adaLN_modulation.1", DIFFUSERS: "norm1_context.linear"}
_CONTEXT_OUTPUT = {LDM: "context_block.attn.proj", DIFFUSERS: "attn.to_add_out"}


@dataclass(frozen=True, slots=True)
class MMDiTConfig:
    """An MMDiT's structure, hidden = 64 · depth; ``dual_blocks``: how many blocks have a second attention."""

    depth: int
    hidden: int
    dual_blocks: int = 0
    qk_norm: bool = False
    context_dim: int = 4096
    vector_dim: int = 2048
    channels: int = 16

    def resembles(self, other: MMDiTConfig) -> bool:
        """True when both have the same blocks."""
        return self == other


def tensors(config: MMDiTConfig) -> dict[str, Shape]:
    """Return name → shape of every weight and bias in the original names."""
    h = config.hidden
    modules: dict[str, Shape] = {
        "x_embedder.proj": (h, config.channels, 2, 2),
        "t_embedder.mlp.0": (h, 256),
        "t_embedder.mlp.2": (h, h),
        "y_embedder.mlp.0": (h, config.vector_dim),
        "y_embedder.mlp.2": (h, h),
        "context_embedder": (h, config.context_dim),
    }
    norms: dict[str, Shape] = {}
    for i in range(config.depth):
        block, dual, pre_only = f"joint_blocks.{i}", i < config.dual_blocks, i == config.depth - 1
        for name in ("x_block", "context_block"):
            stream = f"{block}.{name}"
            whole = name == "x_block" or not pre_only
            attentions = ("attn", "attn2") if dual and name == "x_block" else ("attn",)
            for attention in attentions:
                modules[f"{stream}.{attention}.qkv"] = (3 * h, h)
                if whole:
                    modules[f"{stream}.{attention}.proj"] = (h, h)
                if config.qk_norm:
                    norms |= {f"{stream}.{attention}.{norm}.weight": (64,) for norm in ("ln_q", "ln_k")}
            if whole:
                modules |= {f"{stream}.mlp.fc1": (4 * h, h), f"{stream}.mlp.fc2": (h, 4 * h)}
            parts = (6 if whole else 2) + 3 * (len(attentions) - 1)
            modules[f"{stream}.adaLN_modulation.1"] = (parts * h, h)
    modules |= {"final_layer.linear": (4 * config.channels, h), "final_layer.adaLN_modulation.1": (2 * h, h)}
    shapes: dict[str, Shape] = {}
    for module, shape in modules.items():
        shapes |= {module + ".weight": shape, module + ".bias": shape[:1]}
    return shapes | norms


def bind(part: Part) -> list[BoundLayer]:
    """Return every layer of a live MMDiT; fused and exchanged tensors once per naming."""
    return _Binder(part).layers()


class _Binder:
    """Walks the modules of one live MMDiT. ``here`` is its naming, ``there`` the other one."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._from_ldm = part.naming == LDM
        self._here, self._there = (LDM, DIFFUSERS) if self._from_ldm else (DIFFUSERS, LDM)
        self._outer = _OUTER if self._from_ldm else {v: k for k, v in _OUTER.items()}
        self._members = _MEMBERS if self._from_ldm else {v: k for k, v in _MEMBERS.items()}
        self._swapped = _SWAPPED if self._from_ldm else {v: k for k, v in _SWAPPED.items()}

    def layers(self) -> list[BoundLayer]:
        layers: list[BoundLayer] = []
        for module in self._part.modules():
            blocks = _BLOCKS[self._here]
            if module.startswith(blocks):
                number, _, member = module[len(blocks) :].partition(".")
                layers += self._block_member(module, number, member)
            elif module in self._swapped:
                layers += self._exchanged(module, self._swapped[module])
            else:
                layers.append(self._same(module, self._outer.get(module)))
        return layers

    def _block_member(self, module: str, number: str, member: str) -> list[BoundLayer]:
        other = f"{_BLOCKS[self._there]}{number}."
        if member in _FUSED and self._from_ldm:
            return [self._same(module, None), *self._parts(module, [other + part for part in _FUSED[member]])]
        if member in _SPLIT and not self._from_ldm:
            fused = _SPLIT[member]
            whole = self._joined(number, fused, other + fused) if member == _FUSED[fused][0] else []
            return [*whole, self._same(module, None)]
        renamed = self._members.get(member)
        if member == _CONTEXT_MODULATION[self._here] and renamed is not None and self._is_last(number):
            return self._exchanged(module, other + renamed)
        return [self._same(module, other + renamed if renamed else None)]

    def _is_last(self, number: str) -> bool:
        """The last block has no text output: its modulation is shift and scale only, and diffusers exchanges them."""
        output = f"{_BLOCKS[self._here]}{number}.{_CONTEXT_OUTPUT[self._here]}.weight"
        return output not in self._part.shapes

    def _same(self, module: str, other: str | None) -> BoundLayer:
        here = ((self._here, module),)
        return self._part.whole(module, (*here, (self._there, other)) if other else here)

    def _parts(self, module: str, paths: list[str]) -> list[BoundLayer]:
        rows = self._part.shapes[module + ".weight"][0] // len(paths)
        return [
            self._part.rows(((self._there, path),), [_piece(module, k * rows, (k + 1) * rows)])
            for k, path in enumerate(paths)
        ]

    def _joined(self, number: str, fused: str, path: str) -> list[BoundLayer]:
        modules = [f"{_BLOCKS[self._here]}{number}.{name}" for name in _FUSED[fused]]
        if any(module + ".weight" not in self._part.shapes for module in modules):
            return []
        pieces = [_piece(module, 0, self._part.shapes[module + ".weight"][0]) for module in modules]
        return [self._part.rows(((self._there, path),), pieces)]

    def _exchanged(self, module: str, other: str) -> list[BoundLayer]:
        rows = self._part.shapes[module + ".weight"][0]
        pieces = [_piece(module, rows // 2, rows), _piece(module, 0, rows // 2)]
        return [self._same(module, None), self._part.rows(((self._there, other),), pieces)]


def _piece(module: str, start: int, stop: int) -> Piece:
    return Piece(module + ".weight", module + ".bias", start, stop)


def read_config(part: Part) -> MMDiTConfig | None:
    """Return the structure of a live MMDiT as a config to compare with; None when an embedder is missing."""
    ldm = part.naming == LDM
    shapes, blocks = part.shapes, _BLOCKS[part.naming]
    names = ("context_embedder", "y_embedder.mlp.0", "x_embedder.proj")
    embedders = [shapes.get((name if ldm else _OUTER[name]) + ".weight") for name in names]
    context, vector, patch = embedders
    if context is None or vector is None or patch is None:
        return None
    depth = {name[len(blocks) :].partition(".")[0] for name in shapes if name.startswith(blocks)}
    dual = sum(name.endswith(".x_block.attn2.qkv.weight" if ldm else ".attn2.to_q.weight") for name in shapes)
    norm = f"{blocks}0.{'x_block.attn.ln_q' if ldm else 'attn.norm_q'}.weight"
    return MMDiTConfig(len(depth), context[0], dual, norm in shapes, context[1], vector[1], patch[1])
