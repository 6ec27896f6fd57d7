"""The example of CONTRIBUTING.md works: ten lines add an algorithm that a session can apply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lycopatch.engine import adapter
from lycopatch.engine.algorithms import ALGORITHMS, base
from lycopatch.engine.dialects import suffixes
from lycopatch.engine.linalg import Dense
from lycopatch.hosts.memory import NetworkLoader

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def row_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's class, named in the table, and its suffix."""
    example = re.search(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None, "CONTRIBUTING.md has lost its example"
    names: dict[str, Any] = {**vars(base), "dataclass": dataclass, "Dense": Dense, "Tensor": torch.Tensor}
    # the names a new file imports; annotations stay text, as in the project's files
    exec(compile("from __future__ import annotations\n" + example[1], "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setattr(adapter, "ALGORITHMS", (*ALGORITHMS, names["RowScale"]))
    monkeypatch.setitem(suffixes.SUFFIXES, "row_scale", "row_scale")


@pytest.mark.usefixtures("row_scale")
def test_the_example_algorithm_is_recognised_applied_and_undone(tmp_path: Path) -> None:
    key = "down_blocks.0.attentions.0.proj_in.weight"
    model = {key: torch.randn(8, 8, 1, 1)}
    # the two names by which a U-Net is known
    model |= {"time_embedding.linear_1.weight": torch.randn(8, 8), "conv_out.weight": torch.randn(4, 8, 3, 3)}
    before = {name: tensor.clone() for name, tensor in model.items()}
    factors = torch.linspace(-1, 1, 8)
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.row_scale": factors}, tmp_path / "rows.safetensors")

    loader = NetworkLoader(model, [tmp_path])
    report = loader.activate("<lora:rows:0.5>")

    assert report.messages() == []
    assert report.tags[0].layers_applied == 1
    torch.testing.assert_close(model[key], before[key] * (1 + 0.5 * factors.view(8, 1, 1, 1)))
    loader.deactivate()
    assert all(torch.equal(model[name], before[name]) for name in model)
