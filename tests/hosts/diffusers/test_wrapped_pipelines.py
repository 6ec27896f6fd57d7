"""Pipelines that another library has wrapped: compiled, offloaded, with networks of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hosts.diffusers.pipelines import UNET_QUERY, offload, picture, same_weights, weights
from lycopatch.engine.errors import UnknownModel
from lycopatch.hosts.diffusers import NetworkLoader


def compiled(module: nn.Module) -> nn.Module:
    # "eager" wraps like every other backend and needs no compiler
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Guards may run slower")  # newer versions of torch on Python 3.13.0
def test_a_compiled_u_net_is_patched_where_it_computes(sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    loader.activate("<lora:ink:1>")
    patched = picture(sd1)
    loader.deactivate()
    plain = picture(sd1)
    sd1.unet = compiled(sd1.unet)
    for fresh in (loader, NetworkLoader(sd1, folders=[networks])):
        assert fresh.activate("<lora:ink:1>").ok
        assert abs(picture(sd1) - patched).max() < 1 / 255
        fresh.deactivate()
        assert abs(picture(sd1) - plain).max() < 1 / 255


def test_a_layer_that_is_compiled_alone_keeps_its_name(sd1: Any, networks: Path) -> None:
    attention = sd1.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    attention.to_q = compiled(attention.to_q)
    sd1.unet.mid_block = compiled(sd1.unet.mid_block)
    before = weights(sd1)
    loader = NetworkLoader(sd1, folders=[networks])
    assert loader.activate("<lora:ink:1>").tags[0].layers_applied == 2
    assert not same_weights(sd1, before)
    loader.deactivate()
    assert same_weights(sd1, before)


@pytest.mark.parametrize("wrap", ["each layer", "each block"])
def test_weights_that_accelerate_offloads_are_patched_where_they_rest(wrap: str, sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    loader.activate("<lora:ink:1>")
    patched = picture(sd1, output="latent")
    loader.deactivate()
    plain = picture(sd1, output="latent")
    offload(sd1, ["BasicTransformerBlock"] if wrap == "each block" else None)
    assert sd1.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight.is_meta
    assert loader.activate("<lora:ink:1>").ok
    assert torch.equal(picture(sd1, output="latent"), patched)
    loader.deactivate()
    assert torch.equal(picture(sd1, output="latent"), plain)


def test_an_offloaded_layer_can_not_be_given_a_bias_and_says_so(sd1: Any, tmp_path: Path) -> None:
    save_file({f"{UNET_QUERY}.diff_b": torch.ones(16)}, tmp_path / "ink.safetensors")
    offload(sd1)
    report = NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1>")
    assert "has no bias and can not be given one" in report.messages()[0]
    picture(sd1)


def test_weights_on_disk_are_refused_with_a_sentence(sd1: Any, networks: Path, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    sd1.unet = accelerate.disk_offload(sd1.unet, str(tmp_path / "offload"), execution_device=torch.device("cpu"))
    loader = NetworkLoader(sd1, folders=[networks])
    with pytest.raises(UnknownModel, match="meta device, which holds no numbers"):
        loader.activate("<lora:ink:1>")
    assert loader.deactivate() == 0


def test_a_model_without_numbers_is_refused_with_a_sentence(sd1: Any, networks: Path) -> None:
    sd1.unet.to("meta")
    before = weights(sd1)
    with pytest.raises(UnknownModel, match=r'"unet\.down_blocks'):
        NetworkLoader(sd1, folders=[networks]).activate("<lora:ink:1>")
    encoder = {name: tensor for name, tensor in before.items() if name.startswith("text_encoder.")}
    assert all(torch.equal(tensor, weights(sd1)[name]) for name, tensor in encoder.items())


def test_a_pipeline_with_networks_of_its_own_is_refused_until_they_are_gone(sd1: Any, networks: Path) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    loader = NetworkLoader(sd1, folders=[networks])
    sd1.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(UnknownModel, match="unload_lora_weights"):
        NetworkLoader(sd1, folders=[networks])
    with pytest.raises(UnknownModel, match="unload_lora_weights"):
        loader.activate("<lora:ink:1>")
    sd1.unload_lora_weights()
    assert loader.activate("<lora:ink:1>").ok


def test_networks_can_be_taken_out_after_the_pipeline_got_some_of_its_own(sd1: Any, networks: Path) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    before = weights(sd1)
    loader = NetworkLoader(sd1, folders=[networks])
    loader.activate("<lora:ink:1>")
    sd1.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    assert loader.deactivate() == 2
    sd1.unload_lora_weights()
    assert same_weights(sd1, before)


def test_fused_projections_are_refused_until_they_are_split_again(sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    sd1.fuse_qkv_projections(vae=False)
    with pytest.raises(UnknownModel, match="unfuse_qkv_projections"):
        loader.activate("<lora:ink:1>")
    sd1.unfuse_qkv_projections(vae=False)
    assert loader.activate("<lora:ink:1>").tags[0].layers_applied == 2
