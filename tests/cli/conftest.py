"""The command line run in this process, and small files for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.cli import main
from networks import write_network
from random_models import layers_of, sd15


@dataclass(frozen=True)
class Run:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def lycopatch(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a command: its exit code and what it wrote."""

    def run(*arguments: object) -> Run:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def real_layers() -> dict[str, tuple[int, ...]]:
    """A few layers of Stable Diffusion 1 in their real sizes."""
    sizes = {
        f"lora_unet_down_blocks_{block}_attentions_0_transformer_blocks_0_attn2_to_{part}": (width, 768)
        for block, width in ((0, 320), (1, 640))
        for part in ("k", "v")
    }
    return sizes | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "Lora"
    found.mkdir()
    return found


@pytest.fixture
def sound(folder: Path, real_layers: dict[str, tuple[int, ...]]) -> Path:
    """A LoRA in order, with metadata of its training."""
    metadata = {
        "ss_output_name": "Inkwash",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_learning_rate": "0.0001",
        "ss_tag_frequency": json.dumps({"10_ink": {"ink wash": 12, "tree": 3}}),
    }
    return write_network(folder / "ink.safetensors", real_layers, "lora", metadata=metadata)


@pytest.fixture(scope="session")
def model() -> dict[str, Tensor]:
    """Every layer of SD 1.5, forty times narrower, in half precision, with what else lies in a checkpoint."""
    extra = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77).reshape(1, 77),
        "alphas_cumprod": torch.linspace(0.9991, 0.0047, 1000),
        "first_stage_model.decoder.conv_in.weight": torch.randn(8, 4, 3, 3).half(),
        "odd": torch.ones(3, dtype=torch.float16),
    }
    return sd15(shrink=40) | extra


@pytest.fixture
def checkpoint(model: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    metadata = {"format": "pt", "modelspec.title": "Tiny", "modelspec.hash_sha256": "0x12"}
    save_file({name: tensor.clone() for name, tensor in model.items()}, path, metadata)
    return path


@pytest.fixture
def layers(model: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """kohya's name → shape of layers of ``model``."""
    return layers_of(model, only=("attentions_0_transformer", "conv", "layers_1_"))
