"""Every dialect's name of a layer leads to that layer, in every base model. The names are written out here, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from keyset_files import KeysetFile, model_shapes
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.dialects import DIALECTS
from lycopatch.engine.families import FAMILIES
from lycopatch.engine.families.layers import RowRange
from lycopatch.engine.planning import Wanted, plan
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex

Shape = tuple[int, ...]


class Place(NamedTuple):
    """A layer by the names that its trainers see, and the live tensor it is (``first`` row … in a fused one)."""

    component: str
    names: tuple[str, ...]
    tensor: str
    shape: Shape
    first: int = 0


def unet(diffusers: str, ldm: str, *shape: int) -> Place:
    return Place("unet", (diffusers, ldm), f"model.diffusion_model.{ldm}.weight", shape)


def text(component: str, name: str, tensor: str, *shape: int, first: int = 0) -> Place:
    return Place(component, (name,), tensor, shape, first)


B4 = "down_blocks.1.attentions.0.transformer_blocks.0", "input_blocks.4.1.transformer_blocks.0"
HF3, OPEN3 = "text_model.encoder.layers.3", "transformer.resblocks.3"
SD1_AND_SD2 = [
    unet(f"{B4[0]}.attn1.to_q", f"{B4[1]}.attn1.to_q", 640, 640),
    unet(f"{B4[0]}.attn1.to_out.0", f"{B4[1]}.attn1.to_out.0", 640, 640),
    unet(f"{B4[0]}.ff.net.0.proj", f"{B4[1]}.ff.net.0.proj", 5120, 640),
    unet(f"{B4[0]}.ff.net.2", f"{B4[1]}.ff.net.2", 640, 2560),
    unet(f"{B4[0]}.norm2", f"{B4[1]}.norm2", 640),
    unet("down_blocks.1.attentions.0.norm", "input_blocks.4.1.norm", 640),
    unet("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op", 320, 320, 3, 3),
    unet("down_blocks.2.resnets.0.conv_shortcut", "input_blocks.7.0.skip_connection", 1280, 640, 1, 1),
    unet("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1", 1280, 1280),
    unet("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv", 1280, 1280, 3, 3),
    unet("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv", 1280, 1280, 3, 3),
    unet("up_blocks.3.resnets.2.norm1", "output_blocks.11.0.in_layers.0", 640),
    unet("up_blocks.3.resnets.2.conv2", "output_blocks.11.0.out_layers.3", 320, 320, 3, 3),
    unet("time_embedding.linear_2", "time_embed.2", 1280, 1280),
    unet("conv_norm_out", "out.0", 320),
]
OPENCLIP_SD2 = "cond_stage_model.model"
OPENCLIP_SDXL = "conditioner.embedders.1.model"


def fused_encoder(component: str, root: str, d: int) -> list[Place]:
    """open_clip under the names that every trainer uses for it."""
    fused = f"{root}.{OPEN3}.attn.in_proj_weight"
    return [
        text(component, f"{HF3}.self_attn.q_proj", fused, d, d),
        text(component, f"{HF3}.self_attn.k_proj", fused, d, d, first=d),
        text(component, f"{HF3}.self_attn.v_proj", fused, d, d, first=2 * d),
        text(component, f"{HF3}.self_attn.out_proj", f"{root}.{OPEN3}.attn.out_proj.weight", d, d),
        text(component, f"{HF3}.mlp.fc1", f"{root}.{OPEN3}.mlp.c_fc.weight", 4 * d, d),
        text(component, f"{HF3}.layer_norm2", f"{root}.{OPEN3}.ln_2.weight", d),
        text(component, "text_model.final_layer_norm", f"{root}.ln_final.weight", d),
    ]


def clip_l(root: str) -> list[Place]:
    return [
        text("te1", f"{HF3}.self_attn.q_proj", f"{root}.{HF3}.self_attn.q_proj.weight", 768, 768),
        text("te1", f"{HF3}.mlp.fc2", f"{root}.{HF3}.mlp.fc2.weight", 768, 3072),
        text("te1", f"{HF3}.layer_norm1", f"{root}.{HF3}.layer_norm1.weight", 768),
    ]


XL4 = "down_blocks.1.attentions.0.transformer_blocks.1", "input_blocks.4.1.transformer_blocks.1"
XLMID = "mid_block.attentions.0.transformer_blocks.9", "middle_block.1.transformer_blocks.9"
REFINER = "down_blocks.1.attentions.0.transformer_blocks.3", "input_blocks.4.1.transformer_blocks.3"
PLACES: dict[str, list[Place]] = {
    "sd1": [
        *SD1_AND_SD2,
        unet(f"{B4[0]}.attn2.to_k", f"{B4[1]}.attn2.to_k", 640, 768),
        unet("mid_block.attentions.0.proj_in", "middle_block.1.proj_in", 1280, 1280, 1, 1),
        *clip_l("cond_stage_model.transformer"),
    ],
    "sd2": [
        *SD1_AND_SD2,
        unet(f"{B4[0]}.attn2.to_v", f"{B4[1]}.attn2.to_v", 640, 1024),
        unet("mid_block.attentions.0.proj_in", "middle_block.1.proj_in", 1280, 1280),
        *fused_encoder("te1", OPENCLIP_SD2, 1024),
    ],
    "sdxl": [
        unet(f"{XL4[0]}.attn2.to_k", f"{XL4[1]}.attn2.to_k", 640, 2048),
        unet(f"{XLMID[0]}.attn1.to_out.0", f"{XLMID[1]}.attn1.to_out.0", 1280, 1280),
        unet(f"{XLMID[0]}.norm3", f"{XLMID[1]}.norm3", 1280),
        unet("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv", 1280, 1280, 3, 3),
        unet("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection", 320, 640, 1, 1),
        unet("add_embedding.linear_1", "label_emb.0.0", 1280, 2816),
        *clip_l("conditioner.embedders.0.transformer"),
        *fused_encoder("te2", OPENCLIP_SDXL, 1280),
    ],
    "sdxl_refiner": [
        unet(f"{REFINER[0]}.attn2.to_k", f"{REFINER[1]}.attn2.to_k", 768, 1280),
        unet(f"{REFINER[0]}.norm1", f"{REFINER[1]}.norm1", 768),
        unet("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv", 1536, 1536, 3, 3),
        unet("add_embedding.linear_1", "label_emb.0.0", 1536, 2560),
        *fused_encoder("te2", "conditioner.embedders.0.model", 1280),
    ],
}
QKV = "model.diffusion_model.joint_blocks.5.{}.attn.qkv.weight"
SD3_PLACES = [
    Place("unet", ("transformer_blocks.5.attn.to_q",), QKV.format("x_block"), (1536, 1536)),
    Place("unet", ("transformer_blocks.5.attn.to_k",), QKV.format("x_block"), (1536, 1536), 1536),
    Place("unet", ("transformer_blocks.5.attn.add_v_proj",), QKV.format("context_block"), (1536, 1536), 3072),
    Place("unet", ("joint_blocks.5.x_block.attn.qkv",), QKV.format("x_block"), (4608, 1536)),
    unet("transformer_blocks.5.attn.to_add_out", "joint_blocks.5.context_block.attn.proj", 1536, 1536),
    unet("transformer_blocks.5.ff.net.0.proj", "joint_blocks.5.x_block.mlp.fc1", 6144, 1536),
    unet("transformer_blocks.5.norm1.linear", "joint_blocks.5.x_block.adaLN_modulation.1", 9216, 1536),
    unet("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0", 1536, 256),
    *clip_l("text_encoders.clip_l.transformer"),
    text("te2", f"{HF3}.mlp.fc1", f"text_encoders.clip_g.transformer.{HF3}.mlp.fc1.weight", 5120, 1280),
    text(
        "te3",
        "encoder.block.7.layer.0.SelfAttention.q",
        "text_encoders.t5xxl.transformer.encoder.block.7.layer.0.SelfAttention.q.weight",
        4096,
        4096,
    ),
]
CHECKPOINTS = {
    "sd1": "sd15_checkpoint",
    "sd2": "sd21_checkpoint",
    "sdxl": "sdxl_base_checkpoint",
    "sdxl_refiner": "sdxl_refiner_checkpoint",
}

KOHYA = ("lora_up.weight", "lora_down.weight")
PEFT = ("lora_B.weight", "lora_A.weight")
NEW = ("lora.up.weight", "lora.down.weight")
OLD_TEXT = ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight")


class Spelling(NamedTuple):
    """A layer's name in a file, and how a LoRA's up and down matrices are called behind it (joined by ``glue``)."""

    dialect: str
    name: str
    up_down: tuple[str, str]
    glue: str = "."


def spellings(place: Place) -> Iterator[Spelling]:
    for path in place.names:
        flat = path.replace(".", "_")
        yield from _unet(path, flat) if place.component == "unet" else _text(place.component, path, flat)
        yield Spelling("bare", path, PEFT)
        yield Spelling("peft", f"base_model.model.{path}", PEFT)
        yield Spelling("peft", f"base_model.model.{path}", ("lora_B.default.weight", "lora_A.default.weight"))
        if place.component != "te3":  # older than T5 in image models
            yield Spelling("hcp", f"{path}.___", ("layer.lora_up.weight", "layer.lora_down.weight"))
            yield Spelling("hcp", f"{path}.___", ("layer.W_up", "layer.W_down"))


def _unet(path: str, flat: str) -> Iterator[Spelling]:
    yield Spelling("kohya", f"lora_unet_{flat}", KOHYA)
    yield Spelling("kohya", f"oft_unet_{flat}", KOHYA)
    yield Spelling("lycoris", f"lycoris_{flat}", KOHYA)
    yield Spelling("lycoris", f"lycoris_unet_{flat}", KOHYA)
    yield Spelling("diffusers", f"unet.{path}", PEFT)
    yield Spelling("diffusers", f"unet.{path}", NEW)
    yield Spelling("diffusers", f"transformer.{path}", PEFT)
    yield Spelling("peft", f"unet.base_model.model.{path}", PEFT)
    yield Spelling("comfy", f"diffusion_model.{path}", PEFT)
    yield Spelling("comfy", f"model.diffusion_model.{path}", PEFT)
    yield Spelling("onetrainer", f"lora_unet.{path}", KOHYA)
    yield Spelling("onetrainer", f"lora_transformer.{path}", KOHYA)
    yield Spelling("onetrainer", f"lora_transformer_{flat}", KOHYA)
    block, _, member = path.rpartition(".attn")
    if block and ".transformer_blocks." in path:
        # diffusers' attention processors: attn1.processor.to_q_lora.up.weight; to_out.0 is called to_out
        attention, _, projection = member.partition(".")
        old = f"{block}.attn{attention}.processor.{projection.removesuffix('.0')}"
        yield Spelling("diffusers", f"unet.{old}", ("lora.up.weight", "lora.down.weight"), "_")
        yield Spelling("bare", old, ("lora.up.weight", "lora.down.weight"), "_")


_KOHYA_TEXT = {"te1": ("lora_te_", "lora_te1_"), "te2": ("lora_te2_",), "te3": ("lora_te3_",)}
_DIFFUSERS_TEXT = {"te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
_COMFY_TEXT = {"te1": ("clip_l", "clip_h"), "te2": ("clip_g",), "te3": ("t5xxl",)}
_OLD_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def _text(component: str, path: str, flat: str) -> Iterator[Spelling]:
    for prefix in _KOHYA_TEXT[component]:
        yield Spelling("kohya", f"{prefix}{flat}", KOHYA)
        yield Spelling("kohya", f"{prefix}{flat.removeprefix('text_model_')}", KOHYA)
        if flat.startswith("text_model_"):
            yield Spelling("kohya", f"{prefix}text_model_{flat}", KOHYA)
        yield Spelling("onetrainer", f"{prefix[:-1]}.{path}", KOHYA)
    root = _DIFFUSERS_TEXT[component]
    yield Spelling("lycoris", f"lycoris_{root}_{flat}", KOHYA)
    yield Spelling("diffusers", f"{root}.{path}", PEFT)
    yield Spelling("diffusers", f"{root}.{path}", OLD_TEXT)
    yield Spelling("diffusers", f"{root}.{path.removeprefix('text_model.')}", PEFT)
    yield Spelling("peft", f"{root}.base_model.model.{path}", PEFT)
    for encoder in _COMFY_TEXT[component]:
        yield Spelling("comfy", f"text_encoders.{encoder}.transformer.{path}", PEFT)
        yield Spelling("comfy", f"{encoder}.transformer.{path}", PEFT)
    for encoder in {"te1": ("clip_B",), "te2": ("clip_bigG",)}.get(component, ()):
        yield Spelling("hcp", f"{encoder}.{path}.___", ("layer.W_up", "layer.W_down"))
    head, _, last = path.rpartition(".")
    if last in _OLD_PROJECTIONS:
        old = f"{root}.{head}.{_OLD_PROJECTIONS[last]}"
        yield Spelling("diffusers", old, ("lora.up.weight", "lora.down.weight"), "_")


@cache
def index_of(family: str) -> TargetIndex:
    if family in CHECKPOINTS:
        return TargetIndex.of(model_shapes(CHECKPOINTS[family]))
    return TargetIndex.of(next(one for one in FAMILIES if one.name == family).checkpoint())


def flat_columns(shape: Shape) -> int:
    columns = 1
    for extent in shape[1:]:
        columns *= extent
    return columns


def lora(spelling: Spelling, shape: Shape) -> dict[str, Shape]:
    up, down = spelling.up_down
    front = spelling.name + spelling.glue
    return {f"{front}{up}": (shape[0], 4), f"{front}{down}": (4, flat_columns(shape))}


def other_algorithms(name: str, shape: Shape) -> Iterator[tuple[str, dict[str, Shape]]]:
    rows, columns = shape[0], flat_columns(shape)
    yield "LoKr", {f"{name}.lokr_w1": (4, 4), f"{name}.lokr_w2": (rows // 4, columns // 4)}
    halves = {"a": (rows, 2), "b": (2, columns)}
    yield "LoHa", {f"{name}.hada_w{n}_{side}": size for n in (1, 2) for side, size in halves.items()}
    yield "OFT", {f"{name}.oft_blocks": (rows // 8, 8, 8)}
    yield "Full", {f"{name}.diff": shape}


def planned(tensors: dict[str, Shape], index: TargetIndex) -> tuple[str, str, list[RowRange]]:
    """(dialect, algorithm, where it lands) of a file of one layer; nothing may be left over."""
    adapter = parse_adapter(KeysetFile(tensors))
    (layer,) = adapter.layers
    patches, (report,) = plan([Wanted(AdapterRequest("n", 1.0, 1.0, None, "<lora:n>"), adapter)], index)
    assert not report.issues, report.issues
    assert sorted(report.keys["applied"]) == sorted(tensors)
    ranges = {row for patch in patches.patches.values() for one in patch.contributions for row in one.target.weight}
    assert {row.tensor for row in ranges} == {patch.tensor for patch in patches.patches.values() if not patch.is_bias}
    return layer.dialect, layer.algorithm_name, sorted(ranges, key=lambda row: row.start)


def expected(place: Place) -> list[RowRange]:
    return [RowRange(place.tensor, place.first, place.first + place.shape[0])]


ALL_PLACES = [(family, place) for family, places in {**PLACES, "sd3": SD3_PLACES}.items() for place in places]


@pytest.mark.parametrize(
    ("family", "place"), ALL_PLACES, ids=lambda value: value if isinstance(value, str) else value.names[0]
)
def test_every_spelling_of_a_layer_lands_on_its_tensor(family: str, place: Place):
    index = index_of(family)
    for spelling in spellings(place):
        if len(place.shape) == 1:
            norm = {f"{spelling.name}.w_norm": place.shape, f"{spelling.name}.b_norm": place.shape}
            if spelling.dialect != "hcp":
                assert planned(norm, index) == (spelling.dialect, "Norm", expected(place)), spelling
            continue
        dialect, algorithm, where = planned(lora(spelling, place.shape), index)
        assert (dialect, where) == (spelling.dialect, expected(place)), spelling
        assert algorithm == "LoRA"
        if spelling.dialect == "hcp" or spelling.glue != ".":
            continue  # they write LoRA only
        for wanted, tensors in other_algorithms(spelling.name, place.shape):
            assert planned(tensors, index) == (spelling.dialect, wanted, expected(place)), spelling


def test_every_dialect_is_tried():
    tried = {spelling.dialect for _, place in ALL_PLACES for spelling in spellings(place)}
    assert tried | {"cloneofsimo"} == {dialect.name for dialect in DIALECTS}


def test_no_name_belongs_to_two_dialects():
    names = {spelling.name for _, place in ALL_PLACES for spelling in spellings(place)} | {
        "unet:3",
        "text_encoder:0@48",
    }
    for name in names:
        assert len([dialect.name for dialect in DIALECTS if dialect.owns(name)]) == 1, name


@pytest.mark.parametrize(
    "model", ["sd15_diffusers_unet", "sd21_diffusers_unet", "sdxl_base_diffusers_unet", "sdxl_refiner_diffusers_unet"]
)
def test_a_diffusers_u_net_answers_to_the_same_names(model: str):
    family = {"sd15": "sd1", "sd21": "sd2", "sdxl_base": "sdxl"}.get(
        model.removesuffix("_diffusers_unet"), "sdxl_refiner"
    )
    index = TargetIndex.of(model_shapes(model))
    for place in PLACES[family]:
        if place.component == "unet" and len(place.shape) > 1:
            for spelling in spellings(place):
                _, _, where = planned(lora(spelling, place.shape), index)
                assert where == [RowRange(f"{place.names[0]}.weight", 0, place.shape[0])], spelling


def test_the_exchanged_halves_of_sd3s_last_modulation_come_back_in_the_models_order():
    tensors = lora(Spelling("diffusers", "transformer.norm_out.linear", PEFT), (3072, 1536))
    adapter = parse_adapter(KeysetFile(tensors))
    patches, _ = plan([Wanted(AdapterRequest("n", 1.0, 1.0, None, "<lora:n>"), adapter)], index_of("sd3"))
    (patch,) = patches.patches.values()
    name = "model.diffusion_model.final_layer.adaLN_modulation.1.weight"
    assert patch.contributions[0].target.weight == (RowRange(name, 1536, 3072), RowRange(name, 0, 1536))


@pytest.mark.parametrize(
    "model", sorted({*CHECKPOINTS.values(), "sd15_inpainting_checkpoint", "sd15_instruct_pix2pix_checkpoint"})
)
def test_no_two_layers_of_one_part_share_a_name(model: str):
    index = TargetIndex.of(model_shapes(model))
    assert index.conflicts == ()
    assert len(index.spellings) > 10 * len(index.model.layers)


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_no_two_layers_of_a_family_share_a_name(family: str):
    assert TargetIndex.of(next(one for one in FAMILIES if one.name == family).checkpoint()).conflicts == ()


# --- cloneofsimo: positions instead of names --------------------------------------------------------------------------

SD1_BLOCKS = [
    *(f"input_blocks.{n}.1" for n in (1, 2, 4, 5, 7, 8)),
    *(f"output_blocks.{n}.1" for n in range(3, 12)),
    "middle_block.1",
]
WALK = "attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 ff.net.0.proj attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0"


@pytest.mark.parametrize("geglu", [True, False])
def test_a_position_of_cloneofsimo_is_counted_in_the_order_of_the_walk(geglu: bool):
    index = index_of("sd1")
    walk = [member for member in WALK.split() if geglu or "ff" not in member]
    total = len(SD1_BLOCKS) * len(walk)
    assert total == (144 if geglu else 128)
    for position in (0, 1, 3, 4, len(walk), len(walk) + 7, 6 * len(walk), total - len(walk), total - 1):
        block, member = divmod(position, len(walk))
        (layer,) = index.find(f"unet:{position}@{total}")
        wanted = f"model.diffusion_model.{SD1_BLOCKS[block]}.transformer_blocks.0.{walk[member]}.weight"
        assert [row.tensor for row in layer.weight] == [wanted]


def test_cloneofsimo_counts_clips_projections_as_transformers_creates_them():
    for position, projection in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
        (layer,) = index_of("sd1").find(f"text_encoder:{4 + position}@48")
        assert layer.weight[0].tensor.endswith(f".layers.1.self_attn.{projection}.weight")
