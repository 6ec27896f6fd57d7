"""Pipelines and a network that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from hosts.diffusers.pipelines import TEXT_QUERY, UNET_QUERY, WIDTH, lora, tiny_sd1, tiny_sdxl


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Where the tokenizer's files go."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return folder


@pytest.fixture
def sd1(words: Path) -> Any:
    return tiny_sd1(words)


@pytest.fixture
def sdxl(words: Path) -> Any:
    return tiny_sdxl(words)


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    """A folder with the network ``ink`` for the tiny SD1: a layer of the U-Net and one of the text encoder."""
    folder = tmp_path / "networks"
    folder.mkdir()
    save_file(lora({UNET_QUERY: (16, 16), TEXT_QUERY: (WIDTH, WIDTH)}), folder / "ink.safetensors")
    return folder
