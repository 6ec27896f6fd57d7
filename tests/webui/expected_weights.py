"""Run by the WebUI's own Python: what every weight shall be, computed from files, outside of any WebUI.

Same arithmetic as in the WebUI (the engine), same torch and device, another host: the digests have to be equal.
In: JSON ``{"networks": [folder], "checkpoints": {file: [prompt]}, "device": "cpu", "dtypes": {name: dtype}}``.
Out: JSON ``{file: {prompt: {name: digest}}}``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "extensions_lib"))

from lycopatch.hosts.memory.loader import NetworkLoader


def main() -> None:
    task = json.load(sys.stdin)
    json.dump({file: _digests(Path(file), prompts, task) for file, prompts in task["checkpoints"].items()}, sys.stdout)


def _digests(file: Path, prompts: list[str], task: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    stored = load_file(file)
    model = {name: stored[name].to(task["device"], getattr(torch, dtype)) for name, dtype in task["dtypes"].items()}
    loader = NetworkLoader(model, task["networks"])
    found: dict[str, dict[str, str]] = {}
    for prompt in prompts:
        report = loader.activate(prompt)
        assert all(tag.layers_applied for tag in report.tags), report.messages()
        found[prompt] = {name: digest(tensor) for name, tensor in model.items()}
    return found


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()


if __name__ == "__main__":
    main()
