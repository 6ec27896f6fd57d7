"""Stable Diffusion 3 against diffusers' own class: fused, split and exchanged tensors in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from lycopatch.engine.families import mmdit
from lycopatch.engine.families.binding import CUSTOM, BoundModel, bind, references
from lycopatch.engine.families.layers import BoundLayer, RowRange, Shape
from lycopatch.engine.families.mmdit import MMDiTConfig

Package = Callable[[str], ModuleType]
MetaShapes = Callable[[Callable[[], Any]], dict[str, Shape]]

CONFIGS = [
    pytest.param(MMDiTConfig(depth=24, hidden=1536), "sd3", None, id="sd3 medium"),
    pytest.param(MMDiTConfig(24, 1536, dual_blocks=13, qk_norm=True), "sd3", "SD3.5 medium", id="sd3.5 medium"),
    pytest.param(MMDiTConfig(38, 2432, qk_norm=True), "sd3", "SD3.5 large", id="sd3.5 large"),
    pytest.param(MMDiTConfig(2, 128, dual_blocks=1, qk_norm=True, context_dim=48), CUSTOM, None, id="custom"),
]


def live(config: MMDiTConfig, package: Package, meta_shapes: MetaShapes) -> dict[str, Shape]:
    diffusers = package("diffusers")
    return meta_shapes(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=config.channels,
            num_layers=config.depth,
            attention_head_dim=64,
            num_attention_heads=config.hidden // 64,
            joint_attention_dim=config.context_dim,
            caption_projection_dim=config.hidden,
            pooled_projection_dim=config.vector_dim,
            out_channels=config.channels,
            pos_embed_max_size=16,
            dual_attention_layers=tuple(range(config.dual_blocks)),
            qk_norm="rms_norm" if config.qk_norm else None,
        )
    )


def by_path(bound: BoundModel) -> dict[str, BoundLayer]:
    return {path: layer for layer in bound.layers for _, path in layer.paths}


def assert_covered_once_per_naming(bound: BoundModel, shapes: dict[str, Shape], naming: str) -> None:
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for layer in bound.layers:
        if naming in dict(layer.paths):
            for row in (*layer.weight, *layer.bias):
                rows[row.tensor].append((row.start, row.stop))
    assert set(rows) == {name for name in shapes if name not in ("pos_embed", "pos_embed.pos_embed")}
    for tensor, found in rows.items():
        edges = [edge for row in sorted(found) for edge in row]
        assert (edges[0], edges[-1]) == (0, shapes[tensor][0]), tensor
        assert edges[1:-1:2] == edges[2:-1:2], tensor


@pytest.mark.parametrize(("config", "family", "variant"), CONFIGS)
def test_the_original_and_diffusers_own_class_have_the_same_paths_and_shapes(
    config: MMDiTConfig, family: str, variant: str | None, package: Package, meta_shapes: MetaShapes
) -> None:
    ours, theirs = mmdit.tensors(config), live(config, package, meta_shapes)
    left, right = bind(ours), bind(theirs)
    assert {frozenset(layer.paths): layer.shape for layer in left.layers} == {
        frozenset(layer.paths): layer.shape for layer in right.layers
    }
    for bound, shapes in ((left, ours), (right, theirs)):
        assert (bound.family, bound.variant) == (family, variant)
        for naming in (mmdit.LDM, mmdit.DIFFUSERS):
            assert_covered_once_per_naming(bound, shapes, naming)


def test_a_fused_tensor_is_one_layer_for_the_original_and_three_for_diffusers() -> None:
    layers = by_path(references()["sd3"])
    fused = "model.diffusion_model.joint_blocks.4.context_block.attn.qkv"
    assert layers["joint_blocks.4.context_block.attn.qkv"].weight == (RowRange(fused + ".weight", 0, 4608),)
    for k, name in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
        layer = layers[f"transformer_blocks.4.attn.{name}"]
        assert layer.weight == (RowRange(fused + ".weight", 1536 * k, 1536 * (k + 1)),)
        assert layer.bias == (RowRange(fused + ".bias", 1536 * k, 1536 * (k + 1)),)


def test_a_fused_name_on_a_split_model_is_three_tensors_in_order(package: Package, meta_shapes: MetaShapes) -> None:
    shapes = live(MMDiTConfig(2, 128), package, meta_shapes)
    layer = by_path(bind({"transformer." + name: shape for name, shape in shapes.items()}))[
        "joint_blocks.1.x_block.attn.qkv"
    ]
    names = [f"transformer.transformer_blocks.1.attn.{name}" for name in ("to_q", "to_k", "to_v")]
    assert layer.weight == tuple(RowRange(name + ".weight", 0, 128) for name in names)
    assert layer.bias == tuple(RowRange(name + ".bias", 0, 128) for name in names)
    assert layer.shape == (384, 128)
    assert layer.bias_name is None


def test_the_last_modulations_have_their_halves_exchanged_between_the_namings(
    package: Package, meta_shapes: MetaShapes
) -> None:
    config = MMDiTConfig(2, 128)
    pairs = {
        "final_layer.adaLN_modulation.1": "norm_out.linear",
        "joint_blocks.1.context_block.adaLN_modulation.1": "transformer_blocks.1.norm1_context.linear",
    }
    for shapes, here in ((mmdit.tensors(config), 0), (live(config, package, meta_shapes), 1)):
        layers = by_path(bind(shapes))
        for pair in pairs.items():
            own, other = pair[here], pair[1 - here]
            tensor = own + ".weight"
            assert layers[own].weight == (RowRange(tensor, 0, 256),)
            assert layers[other].weight == (RowRange(tensor, 128, 256), RowRange(tensor, 0, 128))
            assert [row.start for row in layers[other].bias] == [128, 0]
            assert layers[other].bias_name == own + ".bias"
        both = layers["joint_blocks.0.context_block.adaLN_modulation.1"]
        assert both is layers["transformer_blocks.0.norm1_context.linear"]


def test_a_flux_transformer_is_not_taken_for_stable_diffusion_3() -> None:
    shapes: dict[str, Shape] = {
        "transformer.transformer_blocks.0.attn.add_q_proj.weight": (3072, 3072),
        "transformer.context_embedder.weight": (3072, 4096),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
        "text_encoder.text_model.embeddings.token_embedding.weight": (49408, 768),
    }
    assert set(bind(shapes).prefixes) == {"te1"}
