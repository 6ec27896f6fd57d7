"""The ends of keys: every spelling of a tensor's role, in one table.

Trainers mix spellings of the end (diffusers writes ``lora.up`` and ``lora_A`` into one file) and share them, so ends
are one table for all dialects; what a dialect owns is how the layer in front is named.
"""

from __future__ import annotations

from typing import NamedTuple


class KeyParts(NamedTuple):
    """A key taken apart: the layer as the file spells it, and the canonical suffix."""

    layer: str
    suffix: str


_SPELLINGS: dict[str, tuple[str, ...]] = {
    "lora_up": ("lora_up.weight", "lora_B.weight", "lora_B", "lora.up.weight", "lora_linear_layer.up.weight"),
    "lora_down": ("lora_down.weight", "lora_A.weight", "lora_A", "lora.down.weight", "lora_linear_layer.down.weight"),
    "lora_mid": ("lora_mid.weight",),
    "lora_E": ("lora_E",),
    "lora_bias": ("lora_B.bias", "lora_up.bias"),
    "lora_embedding_A": ("lora_embedding_A", "lora_embedding_A.weight"),
    "lora_embedding_B": ("lora_embedding_B", "lora_embedding_B.weight"),
    "alpha": ("alpha",),
    "scale": ("scale",),
    "scalar": ("scalar",),
    "dora_scale": ("dora_scale",),
    "magnitude": ("lora_magnitude_vector", "lora_magnitude_vector.weight", "magnitude"),
    "a1": ("a1.weight",),
    "a2": ("a2.weight",),
    "b1": ("b1.weight",),
    "b2": ("b2.weight",),
    "bm": ("bm.weight",),
    "oft_R": ("oft_R.weight", "oft_R"),
    "scaled_oft": ("oft_R.scaled_oft",),
    "p_layer": ("p_layer.weight",),
    "q_layer": ("q_layer.weight",),
    "base_p": ("base_p.weight",),
    "base_q": ("base_q.weight",),
}

_AS_WRITTEN = (
    "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b "
    "lokr_t1 lokr_t2 diff diff_b w_norm b_norm weight on_input bias oft_blocks oft_diag rescale oft_r oft_s boft_R "
    "boft_s lambda_layer base_lambda bias_indices bias_values bias_size set_weight reshape_weight hra_u vera_lambda_b "
    "vera_lambda_d vera_A vera_B fourierft_spectrum ia3_l randlora_lambda randlora_gamma shira_weight "
    "glora_A glora_B glora_C glora_D glora_E"
).split()

SUFFIXES: dict[str, str] = {
    **{name: name for name in _AS_WRITTEN},
    **{spelling: canonical for canonical, spellings in _SPELLINGS.items() for spelling in spellings},
}

# peft's raw state dicts put the adapter's name into the key: lora_A.<name>.weight, lokr_w1.<name>
_NAMED = frozenset(spelling.split(".")[0] for spelling in SUFFIXES) - {
    "weight",
    "bias",
    "alpha",
    "scale",
    "lora",
    "diff",
}

# HCP-Diffusion: <path>.___.layer.lora_down.weight, .___.layer.W_down, .___.alpha (which already is alpha / rank)
_HCP: dict[str, str] = {
    "layer.lora_up.weight": "lora_up",
    "layer.lora_down.weight": "lora_down",
    "layer.W_up": "lora_up",
    "layer.W_down": "lora_down",
    "alpha": "scale",
}
_HCP_MARK = ".___."

_UP_DOWN = {"up": "lora_up", "down": "lora_down"}


def split_key(key: str) -> KeyParts | None:
    """The layer and the suffix of a key; None when its end is known to no dialect."""
    if _HCP_MARK in key:
        layer, _, tail = key.partition(_HCP_MARK)
        return KeyParts(f"{layer}.___", _HCP[tail]) if tail in _HCP else None
    if key.startswith(("unet:", "text_encoder:")):
        layer, _, role = key.rpartition(":")
        return KeyParts(layer, _UP_DOWN[role]) if role in _UP_DOWN and layer.count(":") == 1 else None
    parts = key.split(".")
    if parts[-1] == "scale" and parts[-2:-1] in (["query_norm"], ["key_norm"]):
        # control networks of Black Forest Labs: the norm's new values, not a factor
        return KeyParts(".".join(parts[:-1]), "set_weight")
    for length in (3, 2, 1):
        if len(parts) > length and (suffix := SUFFIXES.get(".".join(parts[-length:]))):
            # an adapter name may stand where the tail was cut: lora_A.<name>.weight
            if suffix in ("weight", "bias") and (named := _with_adapter_name(parts)):
                return named
            return KeyParts(".".join(parts[:-length]), suffix)
    return _old_diffusers(parts) or _split_block(parts) or _with_adapter_name(parts)


def _old_diffusers(parts: list[str]) -> KeyParts | None:
    """``….to_q_lora.up.weight``, and x-flux's ``….qkv_lora1.up.weight``"""
    if len(parts) < 3 or parts[-1] != "weight" or parts[-2] not in _UP_DOWN:
        return None
    if parts[-3].endswith("_lora"):
        return KeyParts(".".join([*parts[:-3], parts[-3].removesuffix("_lora")]), _UP_DOWN[parts[-2]])
    if parts[-3].endswith(("_lora1", "_lora2")):
        return KeyParts(".".join(parts[:-2]), _UP_DOWN[parts[-2]])
    return None


def _with_adapter_name(parts: list[str]) -> KeyParts | None:
    """``….lora_A.<name>.weight`` and ``….lokr_w1.<name>``"""
    if parts[-1] in ("weight", "bias"):
        old = _old_diffusers(parts)
        if old:
            return old
        if len(parts) > 3 and parts[-3] in _NAMED and (suffix := SUFFIXES.get(f"{parts[-3]}.{parts[-1]}")):
            return KeyParts(".".join(parts[:-3]), suffix)
        return None
    if len(parts) > 2 and parts[-2] in _NAMED and (suffix := SUFFIXES.get(parts[-2])):
        return KeyParts(".".join(parts[:-2]), suffix)
    return None


def _split_block(parts: list[str]) -> KeyParts | None:
    """``….oft_blocks.<i>``: one part of a fused projection."""
    if len(parts) > 2 and parts[-2] == "oft_blocks" and parts[-1].isdecimal():
        return KeyParts(f"{'.'.join(parts[:-2])}#{parts[-1]}", "oft_blocks")
    return None
