"""A tensor that somebody else wrote while networks were in it is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lycopatch.hosts.memory import NetworkLoader
from networks import write_network
from random_models import copied, differing, layers_of, sd15

PLACES = ("down_blocks_0_attentions_0", "layers_0_")
QUERY = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def pristine() -> dict[str, Tensor]:
    return dict(sd15(shrink=40))


@pytest.fixture
def folder(tmp_path: Path, pristine: dict[str, Tensor]) -> Path:
    write_network(tmp_path / "lora.safetensors", layers_of(pristine, only=PLACES), "lora", seed=1)
    return tmp_path


@pytest.fixture
def model(pristine: dict[str, Tensor]) -> dict[str, Tensor]:
    return copied(pristine)


def test_what_others_wrote_stays_when_the_networks_go(
    folder: Path, model: dict[str, Tensor], pristine: dict[str, Tensor]
) -> None:
    loader = NetworkLoader(model, [folder])
    assert loader.activate("<lora:lora>").ok
    theirs = torch.full_like(model[QUERY], 0.25)
    model[QUERY].copy_(theirs)
    report = loader.activate("")
    [issue] = report.issues
    assert issue.kind == "changed by others"
    assert QUERY in issue.message
    assert torch.equal(model[QUERY], theirs)
    assert differing(model, pristine) == [QUERY]


def test_what_others_wrote_is_the_original_of_the_next_network(folder: Path, model: dict[str, Tensor]) -> None:
    loader = NetworkLoader(model, [folder])
    loader.activate("<lora:lora>")
    theirs = torch.full_like(model[QUERY], 0.25)
    model[QUERY].copy_(theirs)
    loader.activate("<lora:lora:0.5>")
    half = model[QUERY].float() - theirs.float()
    loader.activate("<lora:lora>")
    assert torch.allclose(model[QUERY].float() - theirs.float(), 2 * half, atol=2e-3)
    assert loader.deactivate() > 0
    assert torch.equal(model[QUERY], theirs)


def test_deactivating_overwrites_nothing_of_others(folder: Path, model: dict[str, Tensor]) -> None:
    loader = NetworkLoader(model, [folder])
    loader.activate("<lora:lora>")
    model[QUERY].fill_(float("nan"))
    loader.deactivate()
    assert model[QUERY].isnan().all()


def test_an_own_write_is_never_taken_for_somebody_else_s(folder: Path, model: dict[str, Tensor]) -> None:
    loader = NetworkLoader(model, [folder])
    for prompt in ("<lora:lora>", "<lora:lora:-0.5>", "", "<lora:lora>", "<lora:lora>"):
        assert loader.activate(prompt).ok
    loader.deactivate()
    assert loader.activate("<lora:lora>").ok
