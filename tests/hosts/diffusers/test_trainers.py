"""Networks as trainers attach and save them: our picture is that of the trainer's own live network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hosts.diffusers.pipelines import picture, tiny_sd1, tiny_sd3, tiny_sdxl
from lycopatch.hosts.diffusers import NetworkLoader

peft = pytest.importorskip("peft", exc_type=ImportError)
LYCORIS_ERRORS = (ImportError, AttributeError)
"""What importing lycoris-lora raises where it is not there, and before torch 2.4."""

PIPELINES: dict[str, Callable[[Path], Any]] = {"sd1": tiny_sd1, "sdxl": tiny_sdxl, "sd3": tiny_sd3}
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
ATTENTION = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv_in",
    "add_q_proj",
]


@contextmanager
def quiet() -> Iterator[None]:
    """Other packages' warnings are not our failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def randomise(parameters: Iterator[nn.Parameter]) -> None:
    """Numbers that show: trainers start with zeros, and a network of zeros would prove nothing."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape) * 0.3)


def attach(module: nn.Module, targets: list[str], **options: Any) -> None:
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=True, **options)
    with quiet():
        module.add_adapter(config)  # type: ignore[operator]
    randomise(parameter for name, parameter in module.named_parameters() if "lora_" in name)


def compare(pipe: Any, live: np.ndarray, folder: Path, prompt: str) -> None:
    """The fresh pipeline's picture with the network is the live one; without it, it is the plain one."""
    plain = picture(pipe)
    assert np.abs(live - plain).max() > 4 / 255, "the network does nothing"
    with NetworkLoader(pipe, folders=[folder]) as loader:
        report = loader.activate(prompt)
        assert report.ok, report.messages()
        assert np.abs(picture(pipe) - live).max() <= 1e-4
        loader.activate(prompt.replace(":1>", ":0>"))
        assert picture(pipe).tobytes() == plain.tobytes()
    assert picture(pipe).tobytes() == plain.tobytes()


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("options", [{"lora_alpha": 2}, {"lora_alpha": 2, "use_dora": True}], ids=["lora", "dora"])
def test_what_save_lora_weights_wrote(family: str, options: dict[str, Any], words: Path, tmp_path: Path) -> None:
    from diffusers.utils import convert_state_dict_to_diffusers

    pipe = PIPELINES[family](words)
    parts: dict[str, Any] = {}
    for name in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, name, None)
        if module is not None:
            attach(module, TEXT if name.startswith("text") else ATTENTION, **options)
            with quiet():
                saved = peft.get_peft_model_state_dict(module)
            parts[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(saved)
    live = picture(pipe)
    type(pipe).save_lora_weights(tmp_path / "saved", **parts)
    compare(PIPELINES[family](words), live, tmp_path / "saved", "<lora:pytorch_lora_weights:1>")


def test_what_save_lora_adapter_wrote_with_another_alpha_than_rank(words: Path, tmp_path: Path) -> None:
    pipe = tiny_sd1(words)
    if not hasattr(pipe.unet, "save_lora_adapter"):
        pytest.skip("this version of diffusers has no save_lora_adapter")
    attach(pipe.unet, ATTENTION, lora_alpha=5)
    live = picture(pipe)
    pipe.unet.save_lora_adapter(tmp_path / "saved")
    compare(tiny_sd1(words), live, tmp_path / "saved", "<lora:pytorch_lora_weights:1>")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "options",
    [{"algo": "lora"}, {"algo": "loha"}, {"algo": "lokr", "factor": 4}, {"algo": "lora", "dora_wd": True}],
    ids=["lora", "loha", "lokr", "dora"],
)
def test_what_lycoris_wrote_for_kohyas_scripts(
    family: str, options: dict[str, Any], words: Path, tmp_path: Path
) -> None:
    kohya = pytest.importorskip("lycoris.kohya", exc_type=LYCORIS_ERRORS)
    pipe = PIPELINES[family](words)
    encoders = [getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
    with quiet():
        # its preset with everything names the U-Net's time embedding twice, and refuses itself
        network = kohya.create_network(
            1.0, 4, 2.0, None, encoders if len(encoders) > 1 else encoders[0], pipe.unet, preset="attn-mlp", **options
        )
        network.apply_to(encoders if len(encoders) > 1 else encoders[0], pipe.unet, True, True)
    randomise(network.parameters())
    live = picture(pipe)
    network.save_weights(str(tmp_path / "ink.safetensors"), None, {})
    compare(PIPELINES[family](words), live, tmp_path, "<lyco:ink:1>")


@pytest.mark.parametrize("options", [{"algo": "loha"}, {"algo": "full"}, {"algo": "lora", "train_norm": True}])
def test_what_lycoris_wrote_for_a_lone_model(options: dict[str, Any], words: Path, tmp_path: Path) -> None:
    lycoris = pytest.importorskip("lycoris", exc_type=LYCORIS_ERRORS)
    pipe = tiny_sd1(words)
    with quiet():
        network = lycoris.create_lycoris(pipe.unet, 1.0, linear_dim=4, linear_alpha=2.0, **options)
        network.apply_to()
    randomise(network.parameters())
    live = picture(pipe)
    network.save_weights(str(tmp_path / "ink.safetensors"), None, {})
    compare(tiny_sd1(words), live, tmp_path, "<lyco:ink:1>")
