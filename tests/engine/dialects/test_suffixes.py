"""The ends of keys: which part is the layer's name, and what the tensor is in it."""

from __future__ import annotations

import pytest

from keyset_files import keyset_names, read_keyset
from lycopatch.engine.dialects.suffixes import SUFFIXES, split_key

ATTN = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
SPLITS = {
    # kohya, LyCORIS, OneTrainer
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": ("lora_unet_mid_block_attentions_0_proj_in", "lora_up"),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": ("lora_te_text_model_encoder_layers_0_mlp_fc1", "alpha"),
    "lora_unet_conv_in.diff_b": ("lora_unet_conv_in", "diff_b"),
    "lora_unet_x.weight": ("lora_unet_x", "weight"),
    "lora_unet_x.on_input": ("lora_unet_x", "on_input"),
    "lora_unet_x.a1.weight": ("lora_unet_x", "a1"),
    "lora_unet_x.p_layer.weight": ("lora_unet_x", "p_layer"),
    "lora_unet_x.oft_R.weight": ("lora_unet_x", "oft_R"),
    "lora_unet_x.oft_R.scaled_oft": ("lora_unet_x", "scaled_oft"),
    "lora_unet_x.lora_up.bias": ("lora_unet_x", "lora_bias"),
    "lora_unet.down_blocks.0.lora_down.weight": ("lora_unet.down_blocks.0", "lora_down"),
    "lora_unet_double_blocks_0_img_attn_qkv.oft_blocks.1": ("lora_unet_double_blocks_0_img_attn_qkv#1", "oft_blocks"),
    # diffusers, old and new
    f"{ATTN}.processor.to_q_lora.up.weight": (f"{ATTN}.processor.to_q", "lora_up"),
    f"{ATTN}.to_q.lora.down.weight": (f"{ATTN}.to_q", "lora_down"),
    f"{ATTN}.to_out.0.lora.down.weight": (f"{ATTN}.to_out.0", "lora_down"),
    "text_encoder.x.q_proj.lora_linear_layer.up.weight": ("text_encoder.x.q_proj", "lora_up"),
    # peft, with and without the adapter's name
    "base_model.model.x.lora_A.weight": ("base_model.model.x", "lora_down"),
    "base_model.model.x.lora_A.default.weight": ("base_model.model.x", "lora_down"),
    "base_model.model.x.lora_B.my_style.bias": ("base_model.model.x", "lora_bias"),
    "base_model.model.x.lora_magnitude_vector": ("base_model.model.x", "magnitude"),
    "base_model.model.x.lora_magnitude_vector.default.weight": ("base_model.model.x", "magnitude"),
    "base_model.model.x.lora_embedding_A.default": ("base_model.model.x", "lora_embedding_A"),
    "base_model.model.x.lokr_w1.default": ("base_model.model.x", "lokr_w1"),
    "base_model.model.x.hada_t1.default": ("base_model.model.x", "hada_t1"),
    "base_model.model.x.oft_R.default.weight": ("base_model.model.x", "oft_R"),
    "base_model.model.x.boft_s": ("base_model.model.x", "boft_s"),
    # HCP-Diffusion: what it calls alpha is alpha / rank already
    "a.b.___.layer.lora_up.weight": ("a.b.___", "lora_up"),
    "a.b.___.layer.W_down": ("a.b.___", "lora_down"),
    "a.b.___.alpha": ("a.b.___", "scale"),
    # cloneofsimo
    "unet:12:up": ("unet:12", "lora_up"),
    "text_encoder:0:down": ("text_encoder:0", "lora_down"),
    # x-flux and the control networks of Black Forest Labs
    "double_blocks.0.processor.qkv_lora1.down.weight": ("double_blocks.0.processor.qkv_lora1", "lora_down"),
    "single_blocks.0.norm.key_norm.scale": ("single_blocks.0.norm.key_norm", "set_weight"),
}


@pytest.mark.parametrize("key", SPLITS)
def test_a_key_is_split_into_layer_and_suffix(key: str):
    assert split_key(key) == SPLITS[key]


@pytest.mark.parametrize(
    "key",
    ["", "alpha", "lora_unet_x", "lora_unet_x.nonsense", "lora_unet_x.lora_up.weight.extra", "a.___.beta", "unet:1:mid",
     "unet:1:2:up", "x.processor.lora1.up"],
)  # fmt: skip
def test_an_unknown_end_is_no_suffix(key: str):
    assert split_key(key) is None


def test_no_spelling_of_a_suffix_hides_a_longer_one():
    """``lora.up.weight`` ends in ``up.weight``: the longest known end has to win for every pair."""
    for spelling, canonical in SUFFIXES.items():
        assert split_key(f"some.layer.{spelling}") == ("some.layer", canonical), spelling


def test_every_key_of_every_published_file_has_a_known_end():
    unknown = [
        key
        for name in [*keyset_names(), *keyset_names("future")]
        for key in read_keyset(name)
        if split_key(key) is None and not key.startswith("bundle_emb.")
    ]
    assert unknown == []
