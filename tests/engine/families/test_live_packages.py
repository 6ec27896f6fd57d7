"""Classes of the packages that models really come from, built without storage."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from lycopatch.engine.families import t5
from lycopatch.engine.families.binding import CUSTOM, BoundModel, bind, references
from lycopatch.engine.families.layers import BoundLayer, Shape
from lycopatch.engine.families.t5 import T5Config

Package = Callable[[str], ModuleType]
MetaShapes = Callable[[Callable[[], Any]], dict[str, Shape]]


def by_path(bound: BoundModel) -> dict[str, BoundLayer]:
    return {path: layer for layer in bound.layers for _, path in layer.paths}


def tiny_unet(diffusers: ModuleType, layers_per_block: int) -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        layers_per_block=layers_per_block,
        attention_head_dim=8,
    )


@pytest.mark.parametrize("layers_per_block", [1, 2, 3])
def test_a_tiny_u_net_of_no_known_family_binds_in_both_namings(
    layers_per_block: int, package: Package, meta_shapes: MetaShapes
) -> None:
    diffusers = package("diffusers")
    shapes = meta_shapes(lambda: tiny_unet(diffusers, layers_per_block))
    bound = bind(shapes)
    assert (bound.family, bound.candidates) == (CUSTOM, ())
    assert {row.tensor for layer in bound.layers for row in (*layer.weight, *layer.bias)} == set(shapes)
    assert all({naming for naming, _ in layer.paths} == {"ldm", "diffusers"} for layer in bound.layers)
    layers, step = by_path(bound), layers_per_block + 1
    assert layers["down_blocks.1.resnets.0.conv1"] is layers[f"input_blocks.{step + 1}.0.in_layers.2"]
    assert layers["down_blocks.0.downsamplers.0.conv"] is layers[f"input_blocks.{step}.0.op"]
    assert layers["up_blocks.0.upsamplers.0.conv"] is layers[f"output_blocks.{step - 1}.1.conv"]
    assert layers["up_blocks.1.upsamplers.0.conv"] is layers[f"output_blocks.{2 * step - 1}.2.conv"]


def test_the_original_names_of_a_tiny_u_net_lead_back_to_its_diffusers_names(
    package: Package, meta_shapes: MetaShapes
) -> None:
    diffusers = package("diffusers")
    there = bind(meta_shapes(lambda: tiny_unet(diffusers, 1)))
    original: dict[str, Shape] = {}
    for layer in there.layers:
        path = dict(layer.paths)["ldm"]
        original[path + ".weight"] = layer.shape
        if layer.bias:
            original[path + ".bias"] = layer.shape[:1]
    back = bind(original)
    assert {frozenset(layer.paths): layer.shape for layer in back.layers} == {
        frozenset(layer.paths): layer.shape for layer in there.layers
    }


def test_ssd_1b_is_recognised_in_diffusers_names(package: Package, meta_shapes: MetaShapes) -> None:
    diffusers = package("diffusers")
    shapes = meta_shapes(
        lambda: diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, [2, 2], [4, 4]],
            reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
            cross_attention_dim=2048,
            attention_head_dim=[5, 10, 20],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    )
    bound = bind(shapes)
    assert bound.family == "ssd1b"
    reference = {
        frozenset(layer.paths): layer.shape for layer in references()["ssd1b"].layers if layer.component == "unet"
    }
    assert {frozenset(layer.paths): layer.shape for layer in bound.layers} == reference


def test_an_open_clip_text_tower_has_the_paths_of_the_transformers_class(
    package: Package, meta_shapes: MetaShapes
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        towers = package("open_clip.transformer")
    transformers = package("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, projection_dim=48
    )
    theirs = bind(meta_shapes(lambda: towers.TextTransformer(width=64, heads=2, layers=2, output_dim=48)))
    ours = bind(meta_shapes(lambda: transformers.CLIPTextModelWithProjection(config)))
    assert {frozenset(layer.paths): layer.shape for layer in theirs.layers} == {
        frozenset(layer.paths): layer.shape for layer in ours.layers
    }


def test_the_transformers_text_encoder_binds_whole_in_every_version(package: Package, meta_shapes: MetaShapes) -> None:
    transformers = package("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2
    )
    shapes = meta_shapes(lambda: transformers.CLIPTextModel(config))
    bound = bind(shapes)
    bound_names = {row.tensor for layer in bound.layers for row in (*layer.weight, *layer.bias)}
    assert bound_names == {name for name in shapes if not name.endswith("position_ids")}
    assert "text_model.encoder.layers.1.mlp.fc1" in by_path(bound)


def test_a_t5_encoder_binds_whole_and_its_tied_embedding_once(package: Package, meta_shapes: MetaShapes) -> None:
    transformers = package("transformers")
    config = transformers.T5Config(
        d_model=64, d_ff=96, d_kv=16, num_heads=2, num_layers=2, vocab_size=100, feed_forward_proj="gated-gelu"
    )
    shapes = meta_shapes(lambda: transformers.T5EncoderModel(config))
    bound = bind({"text_encoder_3." + name: shape for name, shape in shapes.items()})
    assert bound.prefixes == {"te3": "text_encoder_3."}
    tied = {"encoder.embed_tokens.weight"}
    ours = t5.tensors(T5Config(width=64, layers=2, mlp=96, heads=2, inner=32, vocabulary=100))
    assert ours == {name: shape for name, shape in shapes.items() if name not in tied}
    assert {layer.weight[0].tensor.removeprefix("text_encoder_3.") for layer in bound.layers} == set(ours)
    assert by_path(bound)["shared"] is by_path(bound)["encoder.embed_tokens"]
