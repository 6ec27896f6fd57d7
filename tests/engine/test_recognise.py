"""Which base model a network was made for: shapes decide, metadata help, and doubt is said aloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from keyset_files import KeysetFile, keyset_file, model_shapes, read_keyset
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.families import FAMILIES
from lycopatch.engine.recognise import TITLES, Verdict, recognise

Shape = tuple[int, ...]


def lora(layer: str, rows: int, *inputs: int) -> dict[str, Shape]:
    up = (rows, 4, 1, 1) if len(inputs) > 1 else (rows, 4)
    return {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": (4, *inputs)}


def verdict_of(tensors: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> Verdict:
    return recognise(parse_adapter(KeysetFile(tensors, metadata)))


K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_3_resnets_0_conv1"
BOTH = lora(CONV, 1280, 1280, 3, 3)


# --- by shape ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "family", "evidence"),
    [
        (lora(K, 640, 768), "sd1", "cross-attention width 768: Stable Diffusion 1"),
        (lora(K, 640, 1024), "sd2", "cross-attention width 1024: Stable Diffusion 2"),
        (lora(K, 640, 2048), "sdxl", "cross-attention width 2048: Stable Diffusion XL"),
        (lora(K, 768, 1280), "sdxl_refiner", "cross-attention width 1280: Stable Diffusion XL refiner"),
        (lora("transformer.transformer_blocks.5.attn.to_q", 1536, 1536), "sd3", "1 of 1 layers fit Stable Diffusion 3"),
        (
            lora("lora_te_text_model_encoder_layers_3_self_attn_q_proj", 1024, 1024),
            "sd2",
            "text-encoder width 1024: Stable Diffusion 2",
        ),
        (
            lora("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q", 1280, 1280),
            "sdxl",
            "1 of 1 layers fit Stable Diffusion XL",
        ),
    ],
)
def test_one_telling_layer_is_enough(tensors: dict[str, Shape], family: str, evidence: str):
    verdict = verdict_of(tensors)
    assert (verdict.family, verdict.title, verdict.confidence) == (family, TITLES[family], 0.95)
    assert evidence in verdict.evidence
    assert verdict.allows(family)
    others = {other.name for other in FAMILIES} - set(verdict.candidates)
    assert not any(verdict.allows(other) for other in others)


def test_the_second_text_encoder_tells_xl_from_one():
    first = lora("lora_te1_text_model_encoder_layers_3_self_attn_q_proj", 768, 768)
    second = lora("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", 1280, 1280)
    verdict = verdict_of(first | second)
    assert verdict.family == "sdxl"
    assert "second text-encoder width 1280: Stable Diffusion XL" in verdict.evidence
    assert verdict.components == {"te1": 1, "te2": 1}


def test_what_two_families_have_alike_is_not_decided():
    verdict = verdict_of(BOTH)
    assert verdict.candidates == ("sd1", "sd2")
    assert verdict.title == "Stable Diffusion 1 or Stable Diffusion 2"
    assert verdict.confidence == 0.475
    assert "these layers are the same in Stable Diffusion 1 and Stable Diffusion 2" in verdict.evidence
    assert verdict.allows("sd1")
    assert verdict.allows("sd2")
    assert not verdict.allows("sdxl")


@pytest.mark.parametrize("kind", ["oft_blocks", "boft", "w_norm"])
def test_a_change_of_the_outputs_alone_does_not_tell_one_from_two(kind: str):
    shape = {"oft_blocks": (64, 10, 10), "boft": (3, 64, 10, 10), "w_norm": (1280,)}[kind]
    layer = CONV.replace("conv1", "norm2") if kind == "w_norm" else K
    verdict = verdict_of({f"{layer}.{'w_norm' if kind == 'w_norm' else 'oft_blocks'}": shape})
    assert verdict.candidates[:2] == ("sd1", "sd2")
    assert verdict.confidence < 0.5
    assert " or " in verdict.title


def test_ssd1b_is_one_of_the_candidates_where_it_has_the_same_layers():
    shared = lora("lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k", 640, 2048)
    verdict = verdict_of(shared)
    assert (verdict.family, verdict.candidates, verdict.confidence) == ("sdxl", ("sdxl", "ssd1b"), 0.95)
    assert verdict.allows("ssd1b")
    beyond = lora("lora_unet_mid_block_attentions_0_transformer_blocks_9_attn2_to_k", 1280, 2048)
    verdict = verdict_of(shared | beyond)
    assert verdict.candidates == ("sdxl",)
    assert not verdict.allows("ssd1b")


def test_every_part_of_the_network_is_counted():
    assert recognise(parse_adapter(keyset_file("sdxl_kohya_lora_r2"))).components == {
        "unet": 750,
        "te1": 72,
        "te2": 192,
    }


@pytest.mark.parametrize("channels", [4, 8, 9])
def test_a_first_convolution_alone_belongs_to_three_families_whatever_its_channels(channels: int):
    verdict = verdict_of(lora("lora_unet_conv_in", 320, channels, 3, 3))
    assert {"sd1", "sd2", "sdxl"} <= set(verdict.candidates)


def test_an_inpainting_network_is_of_its_family():
    verdict = verdict_of(lora("lora_unet_conv_in", 320, 9, 3, 3) | lora(K, 640, 768))
    assert (verdict.family, verdict.confidence) == ("sd1", 0.95)


def test_an_lcm_network_is_an_ordinary_one():
    """Distilled networks cover the U-Net, time embedding and convolutions included, and have no text encoder."""
    tensors = {key: spec.shape for key, spec in read_keyset("sd1_lycoris_locon_full_preset").items() if "_unet_" in key}
    verdict = verdict_of(tensors, {"ss_network_module": "networks.lora"})
    assert (verdict.family, verdict.confidence, set(verdict.components)) == ("sd1", 0.95, {"unet"})


# --- with metadata ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "SD_V2"}, "sd2"),
        ({"ss_v2": "True"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd1"),
    ],
)
def test_metadata_decide_what_shapes_leave_open(metadata: dict[str, str], family: str):
    verdict = verdict_of(BOTH, metadata)
    assert (verdict.family, verdict.title, verdict.confidence) == (family, TITLES[family], 0.99)
    assert f"the metadata say {TITLES[family]}" in verdict.evidence
    assert verdict.candidates == ("sd1", "sd2")


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "Stable Diffusion XL"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-refiner/lora"}, "Stable Diffusion XL refiner"),
        ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "Stable Diffusion 3"),
        ({"ss_base_model_version": "sd3_m"}, "Stable Diffusion 3"),
    ],
)
def test_shapes_win_against_metadata_and_the_contradiction_is_said(metadata: dict[str, str], named: str):
    verdict = verdict_of(lora(K, 640, 768), metadata)
    assert (verdict.family, verdict.candidates) == ("sd1", ("sd1",))
    assert verdict.confidence == pytest.approx(0.95 * 0.8)
    assert f"the metadata say {named}, the shapes do not" in verdict.evidence


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "pt"},
        {"ss_v2": "False"},
        {"ss_base_model_version": "None"},
        {"ss_base_model_version": "flux1"},
        {"ss_sd_model_name": "sd_xl_base_1.0.safetensors"},
        {"modelspec.architecture": ""},
    ],
)
def test_metadata_that_name_no_family_change_nothing(metadata: dict[str, str]):
    assert verdict_of(BOTH, metadata) == verdict_of(BOTH)


def test_metadata_that_agree_make_it_surer():
    verdict = verdict_of(lora(K, 640, 768), {"ss_base_model_version": "sd_v1"})
    assert verdict.confidence == 0.99


# --- nothing to go by -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensors", [{}, {"nonsense": (3,)}, {f"{K}.lora_up.weight": (640, 4)}], ids=str)
def test_a_file_without_a_layer_has_no_family(tensors: dict[str, Shape]):
    verdict = verdict_of(tensors, {"ss_base_model_version": "sd_v1"})
    assert (verdict.family, verdict.confidence, verdict.candidates) == (None, 0.0, ())
    assert verdict.evidence == ("the file holds no layer of a network",)
    assert verdict.allows("sd1")


def test_a_network_of_a_stranger_has_no_family_and_may_be_tried():
    verdict = verdict_of(lora("my_own_model_layer_1", 640, 768))
    assert (verdict.family, verdict.title) == (None, "an unknown base model")
    assert verdict.evidence == ("no layer fits any known base model by name and size",)
    assert verdict.allows("sd1")


def test_known_names_of_unknown_sizes_have_no_family():
    assert verdict_of(lora(K, 64, 77)).family is None


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (
            dict.fromkeys(model_shapes("sd15_checkpoint"), (2, 2)),
            "a model's whole weights, not a network to add to one",
        ),
        ({"lllite_unet_x.conditioning1.0.weight": (16, 3, 4, 4)}, "a ControlNet-LLLite"),
        ({"emb_params": (4, 768)}, "a textual-inversion embedding; it belongs into the embeddings folder"),
    ],
    ids=["checkpoint", "lllite", "embedding"],
)
def test_what_is_no_network_has_no_family(tensors: dict[str, Shape], what: str):
    adapter = parse_adapter(KeysetFile(tensors))
    assert adapter.not_a_network == what
    assert recognise(adapter).family is None


def test_a_layer_that_fits_nothing_makes_it_less_sure():
    verdict = verdict_of(lora(K, 640, 768) | lora("lora_unet_something_else", 3, 3))
    assert (verdict.family, verdict.confidence) == ("sd1", 0.475)
    assert "1 of 2 layers fit Stable Diffusion 1" in verdict.evidence


def test_any_model_allows_a_network_when_its_own_family_is_unknown():
    assert verdict_of(lora(K, 640, 768)).allows("custom")


# --- families that come later -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "flux"),
        ("transformer.single_transformer_blocks.3.attn.to_q", "flux"),
        ("lora_unet_single_blocks_7_linear1", "flux"),
        ("lora_unet_distilled_guidance_layer_in_proj", "chroma"),
        ("diffusion_model.blocks.3.self_attn.q", "wan"),
        ("lora_unet__blocks_3_cross_attn_k", "wan"),
        ("diffusion_model.noise_refiner.0.attention.qkv", "lumina"),
        ("transformer.transformer_blocks.0.img_mlp.net.2", "qwen_image"),
    ],
)
def test_a_later_family_is_called_by_its_name(layer: str, family: str):
    verdict = verdict_of(lora(layer, 3072, 3072))
    assert verdict.family == family
    assert f"{verdict.title} can not be patched yet" in verdict.evidence
    assert not verdict.allows("sd1")
    assert not verdict.allows("sdxl")


def test_the_files_name_says_nothing():
    file = KeysetFile(lora(K, 640, 768), path=Path("sdxl_flux_pony.safetensors"))
    assert recognise(parse_adapter(file)).family == "sd1"
