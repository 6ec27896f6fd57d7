"""Keysets of whole models, and model classes of other packages built without storage."""

from __future__ import annotations

import gzip
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lycopatch.engine.families.layers import Shape

MODELS = Path(__file__).parents[2] / "keysets" / "models"


@pytest.fixture
def keyset() -> Callable[[str], dict[str, Shape]]:
    """Name of a model keyset → tensor name → shape."""

    def read(name: str) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        with gzip.open(MODELS / f"{name}.tsv.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                key, _, dims = line.rstrip("\n").split("\t")
                shapes[key] = tuple(int(dim) for dim in dims.split(",")) if dims else ()
        return shapes

    return read


@pytest.fixture
def package() -> Callable[[str], ModuleType]:
    """Import a package or skip the test; its own warnings are not our failures."""

    def load(name: str) -> ModuleType:
        pytest.importorskip(name.partition(".")[0], exc_type=ImportError)
        return importlib.import_module(name)

    return load


@pytest.fixture
def meta_shapes() -> Callable[[Callable[[], Any]], dict[str, Shape]]:
    """Build a module on the meta device and return the shapes of its state dict."""

    def build(make: Callable[[], Any]) -> dict[str, Shape]:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            module = make()
        return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}

    return build
