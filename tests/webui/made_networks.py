"""The networks that the tests write into the WebUI's folders, and what they should do to a weight.

``expected`` knows the formulas by itself, in float64: the product of two matrices, Kronecker's, and DoRA's rescaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from keyset_files import read_keyset
from networks import RANK, network

SAMPLES = {
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    ),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    ),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": "lora_unet_down_blocks_0_attentions_0_proj_in",
}
"""Weights that are looked at number by number: name in the checkpoint → layer in the networks."""

TAGS = ("<lora:ink:1>", "<lora:ink:0.5>", "<lyco:kron:1>", "<lyco:magnitude:1>", "<lora:ink:0.7><lyco:kron:0.5:0.3>")

WORD = "inkword"
"""The embedding inside ``charm``."""

HOSTILE = '"><img src=x onerror=alert(1)>'


def write_networks(lora: Path, lycoris: Path) -> None:
    """``ink`` and ``charm`` are LoRA, ``kron`` is LoKr, ``magnitude`` DoRA; ``torn`` is damaged, ``evil`` hostile."""
    layers = _layers()
    some = {name: layers[name] for name in SAMPLES.values()}
    lora.mkdir(parents=True)
    lycoris.mkdir(parents=True)
    save_file(_scaled(network(layers, "lora", seed=1)), lora / "ink.safetensors", {"ss_output_name": "inkwash"})
    save_file(_scaled(network(layers, "low_lokr", seed=2)), lycoris / "kron.safetensors", {})
    unet = {name: shape for name, shape in layers.items() if name.startswith("lora_unet_")}
    save_file(network(unet, "dora", seed=3), lycoris / "magnitude.safetensors", {})
    embedding = torch.randn(2, 768, generator=torch.Generator().manual_seed(4))
    bundle = {f"bundle_emb.{WORD}.string_to_param.*": embedding}
    save_file({**network(some, "lora", seed=5), **bundle}, lora / "charm.safetensors", {})
    whole = (lora / "ink.safetensors").read_bytes()
    (lora / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    evil = network(some, "lora", seed=6)
    save_file(evil, lora / "evil.safetensors", {"ss_output_name": HOSTILE, "ss_tag_frequency": HOSTILE})
    Image.new("RGB", (64, 96), "teal").save(lora / "ink.preview.png")
    (lora / "ink.json").write_text('{"activation text": "inkwash style", "preferred weight": 0.7}', encoding="utf-8")


def expected(file: Path, name: str, weight: Tensor, multiplier: float = 1.0) -> Tensor:
    """What a weight shall be, in float64. DoRA for the multiplier 1 only."""
    layer, tensors = SAMPLES[name], load_file(file)
    own = {
        key.removeprefix(f"{layer}."): value.double() for key, value in tensors.items() if key.startswith(f"{layer}.")
    }
    base = weight.double()
    if not own:
        return base
    if "lokr_w1" in own:
        scale = own["alpha"] / own["lokr_w2_b"].shape[0]
        delta = torch.kron(own["lokr_w1"], own["lokr_w2_a"] @ own["lokr_w2_b"]) * scale
    else:
        delta = own["lora_up.weight"].flatten(1) @ own["lora_down.weight"].flatten(1) * own["alpha"] / RANK
    changed = base + multiplier * delta.reshape(base.shape)
    if "dora_scale" in own:
        length = changed.flatten(1).norm(dim=1).reshape(-1, *[1] * (changed.dim() - 1))
        changed = changed * own["dora_scale"] / length
    return changed


def _layers() -> Mapping[str, tuple[int, ...]]:
    """Layer → shape of its weight, as a published network has them."""
    specs = read_keyset("sd1_kohya_lora_r4")
    up, down = ".lora_up.weight", ".lora_down.weight"
    names = [key.removesuffix(up) for key in specs if key.endswith(up)]
    return {name: (specs[name + up].shape[0], *specs[name + down].shape[1:]) for name in names}


def _scaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ΔW at about a third of weights that shrink with the width of their layer: seen in the picture, and no more."""
    strength = {"lora_down.weight": 120.0, "lokr_w1": 1.0}
    found = dict(tensors)
    for key, tensor in tensors.items():
        factor = strength.get(key.partition(".")[2])
        if factor is not None:
            found[key] = tensor * (factor / math.sqrt(math.prod(tensor.shape[1:])))
    return found
