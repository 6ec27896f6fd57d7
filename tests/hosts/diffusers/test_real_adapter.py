"""A published network on the classes that Stable Diffusion 1.5 is loaded into, without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from hosts.diffusers.pipelines import diffusers, transformers
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.planning import PatchPlan, Wanted, plan
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.report import TagReport
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.targets import TargetIndex
from lycopatch.hosts.diffusers.components import live_model

FILE = Path(__file__).parents[2] / "data" / "analog_svd_rank4.safetensors"


@pytest.fixture(scope="module")
def sd15() -> dict[str, nn.Module]:
    with torch.device("meta"):
        denoiser = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
        return {"unet": denoiser, "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes))}


@pytest.fixture(scope="module")
def planned(sd15: dict[str, nn.Module]) -> tuple[PatchPlan, TagReport]:
    with open_tensor_file(FILE) as file:
        adapter = parse_adapter(file)
    index = TargetIndex.of(live_model(sd15).shapes())
    assert index.model.family == "sd1"
    patches, (report,) = plan([Wanted(parse_prompt("<lora:analog:1>").requests[0], adapter)], index)
    return patches, report


def layers_as_the_tool_walked_them(sd15: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """(what the file calls it, the layer): down, up and then the middle blocks; k, v, q and out in the text encoder."""
    denoiser, number = sd15["unet"], 0
    for part in (*denoiser.down_blocks, *denoiser.up_blocks, denoiser.mid_block):  # type: ignore[misc]
        for attention in getattr(part, "attentions", ()):
            (block,) = attention.transformer_blocks
            first = [getattr(block.attn1, name) for name in ("to_q", "to_k", "to_v")]
            second = [getattr(block.attn2, name) for name in ("to_q", "to_k", "to_v")]
            for layer in (
                *first,
                block.attn1.to_out[0],
                block.ff.net[0].proj,
                *second,
                block.attn2.to_out[0],
            ):
                yield f"unet:{number}", layer
                number += 1
    encoder = getattr(sd15["text_encoder"], "text_model", sd15["text_encoder"]).encoder
    for n, layer in enumerate(encoder.layers):
        for k, name in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
            yield f"text_encoder:{4 * n + k}", getattr(layer.self_attn, name)


def test_every_key_of_it_is_applied(planned: tuple[PatchPlan, TagReport]) -> None:
    patches, report = planned
    assert (report.layers_applied, report.layers_total, len(patches)) == (192, 192, 192)
    assert {outcome: len(keys) for outcome, keys in report.keys.items() if keys} == {"applied": 384}
    assert not report.issues


def test_every_layer_of_it_lands_where_its_tool_found_it(
    sd15: dict[str, nn.Module], planned: tuple[PatchPlan, TagReport]
) -> None:
    names = {
        id(layer): f"{component}.{path}.weight"
        for component, module in sd15.items()
        for path, layer in module.named_modules()
    }
    expected = {names[id(layer)]: file_name for file_name, layer in layers_as_the_tool_walked_them(sd15)}
    assert len(expected) == 192
    found = {
        name: contribution.layer_id[2].partition("@")[0]
        for name, patch in planned[0].patches.items()
        for contribution in patch.contributions
    }
    assert found == expected
