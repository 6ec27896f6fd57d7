"""A small library with what people have: good files, damaged ones, hostile ones, two of one name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.ui.networks import Networks
from networks import write_network

LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
HOSTILE = '"><img src=x onerror=alert(1)>'


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    lora, lyco = tmp_path / "Lora", tmp_path / "LyCORIS"
    (lora / "styles").mkdir(parents=True)
    lyco.mkdir()
    metadata = {
        "ss_output_name": "Inkwash",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_tag_frequency": json.dumps({"10_ink": {"ink wash": 12, "tree": 3}}),
    }
    write_network(lora / "styles" / "ink.safetensors", LAYERS, "lora", metadata=metadata)
    loha = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha"}', "ss_v2": "True"}
    write_network(lyco / "mist.safetensors", LAYERS, "loha", metadata={**loha, "modelspec.trigger_phrase": "mst"})
    hostile = {"ss_output_name": HOSTILE, HOSTILE: HOSTILE, "modelspec.trigger_phrase": "\u202e" + HOSTILE}
    write_network(lora / f"hostile {HOSTILE.replace('/', '')}.safetensors", LAYERS, "lora", metadata=hostile)
    write_network(lora / "twin.safetensors", LAYERS, "lora")
    write_network(lyco / "twin.safetensors", LAYERS, "lora")
    (lora / "cut.safetensors").write_bytes((lyco / "mist.safetensors").read_bytes()[:5000])
    return [lora, lyco]


@pytest.fixture
def catalog(folders: list[Path]) -> Catalog:
    return Catalog(folders)


@pytest.fixture
def networks(catalog: Catalog) -> Networks:
    return Networks(lambda: catalog)
