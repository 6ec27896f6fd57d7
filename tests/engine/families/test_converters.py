"""The oracle of the name maps: diffusers' own conversion of checkpoints moves the same numbers to the same names."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lycopatch.engine.families import clip, mmdit, sd1, sd2, sdxl, sdxl_refiner, ssd1b
from lycopatch.engine.families.binding import bind
from lycopatch.engine.families.clip import ClipConfig
from lycopatch.engine.families.family import Family
from lycopatch.engine.families.layers import BoundLayer, RowRange, Shape
from lycopatch.engine.families.mmdit import MMDiTConfig

Package = Callable[[str], ModuleType]
Tensors = dict[str, torch.Tensor]


def gathered(tensors: Tensors, rows: tuple[RowRange, ...], *, transposed: bool = False) -> torch.Tensor:
    """A layer's weight or bias in the adapter's order, put together from the live tensors."""
    whole = torch.cat([tensors[row.tensor][row.start : row.stop] for row in rows])
    return whole.T if transposed else whole


def assert_converted(layers: tuple[BoundLayer, ...], original: Tensors, converted: Tensors, naming: str) -> None:
    """Every layer with a path in ``naming`` holds what the converter put under that path, and nothing else is left."""
    unseen = set(converted)
    for layer in layers:
        for path in (path for name, path in layer.paths if name == naming):
            weight = gathered(original, layer.weight, transposed=layer.transposed)
            assert torch.equal(weight, converted[path + ".weight"]), path
            unseen.discard(path + ".weight")
            if layer.bias:
                assert torch.equal(gathered(original, layer.bias), converted[path + ".bias"]), path
                unseen.discard(path + ".bias")
    assert unseen == set()


def random_tensors(shapes: dict[str, Shape]) -> Tensors:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "family", [sd1.FAMILY, sd2.FAMILY, sdxl.FAMILY, sdxl_refiner.FAMILY, ssd1b.FAMILY], ids=lambda family: family.name
)
def test_every_u_net_path_is_where_diffusers_converter_puts_it(family: Family, package: Package) -> None:
    converters = package("diffusers.loaders.single_file_utils")
    shapes = {name: shape for name, shape in family.checkpoint().items() if name.startswith("model.diffusion_model.")}
    # The converter only renames: one number per tensor, its own, is enough to follow it.
    numbered = {name: torch.tensor([n]) for n, name in enumerate(shapes)}
    config: dict[str, object] = {"layers_per_block": 2}
    if any(".label_emb." in name for name in shapes):
        config["addition_embed_type"] = "text_time"
    converted = converters.convert_ldm_unet_checkpoint(dict(numbered), config)
    unseen = set(converted)
    for layer in bind(shapes).layers:
        path = dict(layer.paths)["diffusers"]
        assert converted[path + ".weight"] is numbered[layer.weight[0].tensor], path
        unseen.discard(path + ".weight")
        if layer.bias:
            assert converted[path + ".bias"] is numbered[layer.bias[0].tensor], path
            unseen.discard(path + ".bias")
    assert unseen == set()


def test_every_open_clip_path_is_where_diffusers_converter_puts_it(package: Package) -> None:
    converters = package("diffusers.loaders.single_file_utils")
    shapes = clip.tensors(ClipConfig(width=32, layers=2, projection=32, vocabulary=50), clip.OPENCLIP)
    prefix = "conditioner.embedders.0.model."
    prefixed = {prefix + name: shape for name, shape in shapes.items()}
    original = random_tensors(prefixed)
    encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=32))
    converted = converters.convert_open_clip_checkpoint(encoder, dict(original), prefix)
    assert_converted(bind(prefixed).layers, original, converted, clip.HF)


@pytest.mark.parametrize(
    "config",
    [
        MMDiTConfig(2, 128, context_dim=48, vector_dim=40),
        MMDiTConfig(3, 192, dual_blocks=2, qk_norm=True, context_dim=48, vector_dim=40),
    ],
    ids=["sd3", "sd3.5"],
)
def test_every_mmdit_row_is_where_diffusers_converter_puts_it(config: MMDiTConfig, package: Package) -> None:
    converters = package("diffusers.loaders.single_file_utils")
    shapes = mmdit.tensors(config)
    original = random_tensors(shapes)
    position = {"pos_embed": torch.randn(1, 256, config.hidden)}
    converted = converters.convert_sd3_transformer_checkpoint_to_diffusers(dict(original) | position)
    del converted["pos_embed.pos_embed"]
    assert_converted(bind(shapes).layers, original, converted, mmdit.DIFFUSERS)
