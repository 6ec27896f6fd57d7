"""This extension, installed in a replayed WebUI."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from a1111_replay import WebUI, write_lora

REPOSITORY = Path(__file__).resolve().parents[3]

LAYERS = {
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": (16, 16),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
}
"""One of the U-Net's and one of the text encoder's, in the small SD1 model of the replay."""


@pytest.fixture(autouse=True)
def fastapi_forgets() -> Iterator[None]:
    """Newer releases of fastapi remember what answers a route, and with it the whole extension of a finished test."""
    yield
    for each in vars(sys.modules.get("fastapi.dependencies.models", object)).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


@pytest.fixture(params=["1.5", "1.6", "1.9", "1.10"])
def version(request: pytest.FixtureRequest) -> str:
    """Each release whose behaviour differs."""
    return request.param


@pytest.fixture(params=[True, False], ids=["builtin-on", "builtin-off"])
def builtin_lora(request: pytest.FixtureRequest) -> bool:
    """Whether the built-in Lora extension is enabled."""
    return request.param


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., WebUI]:
    """``with install("1.10", …) as webui``: a WebUI with this extension and the network "ink", not started yet.

    Takes what ``WebUI`` takes; ``extensions`` are others, beside this one.
    """

    def new(version: str, *, extensions: dict[str, Path] | None = None, **more: Any) -> WebUI:
        webui = WebUI(version, tmp_path, extensions={"LycoPatch": REPOSITORY, **(extensions or {})}, **more)
        write_lora(webui.data / "models" / "Lora" / "ink.safetensors", LAYERS, seed=3)
        return webui

    return new


@pytest.fixture
def webui(install: Callable[..., WebUI], version: str, builtin_lora: bool) -> Iterator[WebUI]:
    """Each release, with and without the built-in Lora extension, started."""
    with install(version, builtin_lora=builtin_lora) as webui:
        yield webui.start()


@pytest.fixture
def weights() -> Callable[[WebUI], dict[str, torch.Tensor]]:
    """All that is in the model now, as a copy; names do not depend on what wraps a part of the model."""

    def copy(webui: WebUI) -> dict[str, torch.Tensor]:
        return {name.replace(".wrapped", ""): value.clone() for name, value in webui.model.state_dict().items()}

    return copy


@pytest.fixture
def running() -> Callable[[WebUI], Any]:
    """The extension's ``Extension`` object in a WebUI; fails unless there is exactly one."""

    def find(webui: WebUI) -> Any:
        callbacks = webui.module("script_callbacks").callback_map["callbacks_app_started"]
        owners = [getattr(each.callback, "__self__", None) for each in callbacks]
        (found,) = [owner for owner in owners if type(owner).__name__ == "Extension"]
        return found

    return find
