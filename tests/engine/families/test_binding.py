"""Binding real models: the right family, every weight exactly once, and one set of paths whatever the naming."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.families.binding import CUSTOM, BoundModel, bind
from lycopatch.engine.families.layers import BoundLayer, RowRange, Shape

Keyset = Callable[[str], dict[str, Shape]]

# name → family, number of tensors that are no layer's: buffers and the logit scale (the VAE is not counted)
MODELS = {
    "sd15_checkpoint": ("sd1", 13),
    "sd15_diffusers_unet": ("sd1", 0),
    "sd15_inpainting_checkpoint": ("sd1", 13),
    "sd15_inpainting_diffusers_unet": ("sd1", 0),
    "sd15_instruct_pix2pix_checkpoint": ("sd1", 13),
    "sd21_checkpoint": ("sd2", 13),
    "sd21_diffusers_unet": ("sd2", 0),
    "sd2_transformers_te": ("sd2", 0),
    "sdxl_base_checkpoint": ("sdxl", 2),
    "sdxl_base_diffusers_unet": ("sdxl", 0),
    "sdxl_refiner_checkpoint": ("sdxl_refiner", 1),
    "sdxl_refiner_diffusers_unet": ("sdxl_refiner", 0),
    "clip_l_transformers_te": (CUSTOM, 0),
    "sdxl_te2_transformers": (CUSTOM, 0),
}


def by_path(bound: BoundModel, component: str = "unet") -> dict[str, BoundLayer]:
    return {path: layer for layer in bound.layers if layer.component == component for _, path in layer.paths}


def paths_and_shapes(bound: BoundModel, component: str) -> dict[frozenset[tuple[str, str]], Shape]:
    return {frozenset(layer.paths): layer.shape for layer in bound.layers if layer.component == component}


@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_every_weight_and_bias_is_bound_exactly_once(name: str, keyset: Keyset) -> None:
    shapes = keyset(name)
    rows: dict[str, list[RowRange]] = defaultdict(list)
    for layer in bind(shapes).layers:
        for row in (*layer.weight, *layer.bias):
            rows[row.tensor].append(row)
    for tensor, found in rows.items():
        edges = [edge for row in sorted(found, key=lambda row: row.start) for edge in (row.start, row.stop)]
        assert edges[0] == 0, tensor
        assert edges[-1] == shapes[tensor][0], tensor
        assert edges[1:-1:2] == edges[2:-1:2], tensor
    loose = [tensor for tensor in shapes if tensor not in rows and not tensor.startswith("first_stage_model.")]
    assert len(loose) == MODELS[name][1], loose
    assert not any(tensor.startswith("first_stage_model.") for tensor in rows)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_is_recognised(name: str, keyset: Keyset) -> None:
    bound = bind(keyset(name))
    assert bound.family == MODELS[name][0]
    assert bound.evidence
    variant = "inpainting" if "inpainting" in name else "instruct-pix2pix" if "pix2pix" in name else None
    assert bound.variant == variant


@pytest.mark.parametrize("name", MODELS)
def test_a_layers_shape_is_that_of_its_rows(name: str, keyset: Keyset) -> None:
    shapes = keyset(name)
    for layer in bind(shapes).layers:
        live = (sum(row.stop - row.start for row in layer.weight), *shapes[layer.weight[0].tensor][1:])
        assert layer.shape == (live[::-1] if layer.transposed else live)
        assert not layer.bias or sum(row.stop - row.start for row in layer.bias) == layer.shape[0]


@pytest.mark.parametrize(
    ("original", "diffusers", "component"),
    [
        ("sd15_checkpoint", "sd15_diffusers_unet", "unet"),
        ("sd15_inpainting_checkpoint", "sd15_inpainting_diffusers_unet", "unet"),
        ("sd21_checkpoint", "sd21_diffusers_unet", "unet"),
        ("sdxl_base_checkpoint", "sdxl_base_diffusers_unet", "unet"),
        ("sdxl_refiner_checkpoint", "sdxl_refiner_diffusers_unet", "unet"),
        ("sd15_checkpoint", "clip_l_transformers_te", "te1"),
        ("sdxl_base_checkpoint", "clip_l_transformers_te", "te1"),
        ("sdxl_base_checkpoint", "sdxl_te2_transformers", "te2"),
        ("sdxl_refiner_checkpoint", "sdxl_te2_transformers", "te2"),
    ],
)
def test_one_model_has_the_same_paths_and_shapes_in_both_namings(
    original: str, diffusers: str, component: str, keyset: Keyset
) -> None:
    left = paths_and_shapes(bind(keyset(original)), component)
    right = paths_and_shapes(bind(keyset(diffusers)), component)
    assert left == right
    assert all(len(paths) >= 2 for paths in left)


def test_open_clip_has_one_block_and_a_projection_more_than_diffusers_keeps_of_sd2(keyset: Keyset) -> None:
    whole = paths_and_shapes(bind(keyset("sd21_checkpoint")), "te1")
    kept = paths_and_shapes(bind(keyset("sd2_transformers_te")), "te1")
    assert kept.items() < whole.items()
    surplus = {path for paths in whole.keys() - kept.keys() for naming, path in paths if naming == "hf"}
    assert all(path == "text_projection" or ".layers.23." in path for path in surplus)


def test_the_upsampler_of_sdxls_first_up_block_is_member_2(keyset: Keyset) -> None:
    sdxl = by_path(bind(keyset("sdxl_base_checkpoint")))
    assert sdxl["up_blocks.0.upsamplers.0.conv"] is sdxl["output_blocks.2.2.conv"]
    sd1 = by_path(bind(keyset("sd15_checkpoint")))
    assert sd1["up_blocks.0.upsamplers.0.conv"] is sd1["output_blocks.2.1.conv"]
    assert sd1["up_blocks.1.upsamplers.0.conv"] is sd1["output_blocks.5.2.conv"]


def test_open_clips_fused_projections_are_three_layers_of_their_rows(keyset: Keyset) -> None:
    layers = by_path(bind(keyset("sd21_checkpoint")), "te1")
    fused = "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_"
    for k, name in enumerate(("q_proj", "k_proj", "v_proj")):
        layer = layers[f"text_model.encoder.layers.3.self_attn.{name}"]
        assert layer.weight == (RowRange(fused + "weight", 1024 * k, 1024 * (k + 1)),)
        assert layer.bias == (RowRange(fused + "bias", 1024 * k, 1024 * (k + 1)),)
        assert layer.shape == (1024, 1024)
        assert layer is layers[f"encoder.layers.3.self_attn.{name}"]


def test_open_clips_bare_parameters_are_layers_and_its_projection_is_transposed() -> None:
    shapes = {
        "token_embedding.weight": (100, 64),
        "positional_embedding": (77, 64),
        "transformer.resblocks.0.attn.in_proj_weight": (192, 64),
        "text_projection": (64, 48),
    }
    layers = by_path(bind(shapes), "te1")
    position = layers["text_model.embeddings.position_embedding"]
    assert (position.weight, position.shape) == ((RowRange("positional_embedding", 0, 77),), (77, 64))
    projection = layers["text_projection"]
    assert (projection.weight, projection.shape) == ((RowRange("text_projection", 0, 64),), (48, 64))
    assert projection.transposed
    assert not position.transposed
    assert projection.bias_name is None


def test_a_bias_that_is_not_there_has_the_name_it_would_have(keyset: Keyset) -> None:
    query = by_path(bind(keyset("sd15_checkpoint")))["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert query.bias == ()
    assert query.bias_name == "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.bias"


def hijacked(name: str) -> str:
    """The name a tensor has in a WebUI's live model, where text encoders and token embeddings are wrapped."""
    if name.startswith("cond_stage_model."):
        name = name.replace("cond_stage_model.", "cond_stage_model.wrapped.", 1)
    elif name.startswith("conditioner.embedders."):
        head, number, rest = name.split(".", 2)[0], name.split(".")[2], name.split(".", 3)[3]
        name = f"{head}.embedders.{number}.wrapped.{rest}"
    return name.replace("token_embedding.weight", "token_embedding.wrapped.weight")


@pytest.mark.parametrize("name", ["sd15_checkpoint", "sd21_checkpoint", "sdxl_base_checkpoint"])
def test_a_hijacked_webui_model_has_the_same_layers_under_its_live_names(name: str, keyset: Keyset) -> None:
    plain = bind(keyset(name))
    live = bind({hijacked(tensor): shape for tensor, shape in keyset(name).items()})
    for before, after in zip(plain.layers, live.layers, strict=True):
        assert before.paths == after.paths
        assert tuple(hijacked(row.tensor) for row in before.weight) == tuple(row.tensor for row in after.weight)
    assert live.prefixes["te1"].startswith(("cond_stage_model.wrapped.", "conditioner.embedders.0.wrapped."))


def test_a_conditioner_that_is_registered_twice_is_bound_once(keyset: Keyset) -> None:
    shapes = keyset("sdxl_base_checkpoint")
    twice = shapes | {
        name.replace("conditioner.", "cond_stage_model.", 1): shape
        for name, shape in shapes.items()
        if name.startswith("conditioner.")
    }
    assert bind(twice).layers == bind(shapes).layers


def test_a_pipelines_components_side_by_side_are_told_apart(keyset: Keyset) -> None:
    pipeline: dict[str, Shape] = {"vae.encoder.conv_in.weight": (128, 3, 3, 3)}
    parts = {
        "unet": "sdxl_base_diffusers_unet",
        "text_encoder": "clip_l_transformers_te",
        "text_encoder_2": "sdxl_te2_transformers",
    }
    for prefix, name in parts.items():
        pipeline |= {f"{prefix}.{tensor}": shape for tensor, shape in keyset(name).items()}
    bound = bind(pipeline)
    assert bound.family == "sdxl"
    assert bound.prefixes == {"unet": "unet.", "te1": "text_encoder.", "te2": "text_encoder_2."}
    checkpoint = bind(keyset("sdxl_base_checkpoint"))
    assert {(layer.component, frozenset(layer.paths), layer.shape) for layer in bound.layers} == {
        (layer.component, frozenset(layer.paths), layer.shape) for layer in checkpoint.layers
    }


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_u_net_alone_is_recognised_wherever_it_hangs(prefix: str, keyset: Keyset) -> None:
    root = "model.diffusion_model."
    shapes = {
        prefix + name[len(root) :]: shape for name, shape in keyset("sd15_checkpoint").items() if name.startswith(root)
    }
    bound = bind(shapes)
    assert (bound.family, bound.prefixes) == ("sd1", {"unet": prefix})


def test_text_encoders_named_as_in_forge_are_told_apart(keyset: Keyset) -> None:
    shapes = {"clip_g.transformer." + name: shape for name, shape in keyset("sdxl_te2_transformers").items()}
    shapes |= {"clip_l.transformer." + name: shape for name, shape in keyset("clip_l_transformers_te").items()}
    assert bind(shapes).prefixes == {"te1": "clip_l.transformer.", "te2": "clip_g.transformer."}


def test_text_model_is_optional_in_the_live_names(keyset: Keyset) -> None:
    shapes = keyset("clip_l_transformers_te")
    short = bind({name.removeprefix("text_model."): shape for name, shape in shapes.items()})
    assert paths_and_shapes(short, "te1") == paths_and_shapes(bind(shapes), "te1")


def test_a_bare_clip_l_may_belong_to_several_families(keyset: Keyset) -> None:
    bound = bind(keyset("clip_l_transformers_te"))
    assert bound.candidates == ("sd1", "sdxl", "ssd1b", "sd3")


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)},
        {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3), "betas": (1000,)},
        {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (64, 64)},
    ],
    ids=["nothing", "vae", "controlnet", "vision tower"],
)
def test_what_holds_nothing_patchable_is_refused_with_a_sentence(shapes: dict[str, Shape]) -> None:
    with pytest.raises(UnknownModel, match="This model can not be patched: none of its"):
        bind(shapes)


def test_blocks_numbered_with_gaps_keep_their_own_names_only(keyset: Keyset) -> None:
    shapes = {name: shape for name, shape in keyset("sd15_checkpoint").items() if ".input_blocks.5." not in name}
    bound = bind(shapes)
    assert bound.family == CUSTOM
    layers = by_path(bound)
    assert layers["input_blocks.7.1.proj_in"].paths == (("ldm", "input_blocks.7.1.proj_in"),)
    assert ("diffusers", "conv_out") in layers["out.2"].paths


def test_a_module_that_no_rule_knows_keeps_its_own_name(keyset: Keyset) -> None:
    extra: dict[str, Shape] = {
        "model.diffusion_model.input_blocks.1.0.gate.weight": (320, 320),
        "model.diffusion_model.input_blocks.1.0.scale.weight": (),
    }
    layers = by_path(bind(keyset("sd15_checkpoint") | extra))
    assert layers["input_blocks.1.0.gate"].paths == (("ldm", "input_blocks.1.0.gate"),)
    assert "input_blocks.1.0.scale" not in layers
