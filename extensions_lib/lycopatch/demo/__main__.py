"""``python -m lycopatch.demo``: prompts on a small Stable Diffusion, what each did, and the proof that it is undone."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.demo.small import make_checkpoint, make_networks
from lycopatch.engine.originals import same_bits
from lycopatch.engine.reading import open_tensor_file
from lycopatch.hosts.memory import NetworkLoader

PROMPTS = (
    "a harbour at dawn <lora:ink:0.8>",
    "a harbour at dawn <lora:ink:0.8> <lyco:paper:0.5:1>",
    "a harbour at dawn <lyco:paper:0.5:1> <lora:ink:0.8>",
    "a harbour at dawn <lora:inc:0.8> <lora:glow:0.6>",
    "a harbour at dawn <lora:glow:much>",
    "a harbour at dawn",
)


def main() -> int:
    """Run the prompts; 0 when the model ends bit-equal to its checkpoint."""
    with tempfile.TemporaryDirectory(prefix="lycopatch-demo-") as folder:
        checkpoint, networks = Path(folder, "small.safetensors"), Path(folder, "networks")
        networks.mkdir()
        save_file(make_checkpoint(), checkpoint)
        made = make_networks(networks)
        with open_tensor_file(checkpoint) as file:
            model = {name: file.read(name) for name in file.specs}
        print(f"A Stable Diffusion 1 in miniature: {len(model)} tensors. Networks: {', '.join(made)}.\n")
        equal = _run(model, checkpoint, networks)
    return 0 if equal else 1


def _run(model: dict[str, Tensor], checkpoint: Path, networks: Path) -> bool:
    pristine = {name: tensor.clone() for name, tensor in model.items()}
    loader = NetworkLoader(model, [networks], checkpoint=checkpoint)
    for prompt in PROMPTS:
        report = loader.activate(prompt)
        print(prompt)
        for tag in report.tags:
            print(f"  {tag.summary()}")
        for issue in report.issues:
            print(f"  {issue.message}")
        change = _relative_change(model, pristine)
        print(
            f"  {report.tensors_written} tensors written, {report.tensors_restored} restored "
            f"in {report.seconds * 1000:.0f} ms; the weights differ by {change:.6%}\n"
        )
    loader.close()
    equal = sum(same_bits(model[name], pristine[name]) for name in model)
    print(f"{equal} of {len(model)} tensors are bit-equal to the checkpoint.")
    return equal == len(model)


def _relative_change(model: dict[str, Tensor], pristine: dict[str, Tensor]) -> float:
    """‖W − W₀‖ / ‖W₀‖ over all tensors."""
    changed = sum(float((model[name].double() - pristine[name].double()).square().sum()) for name in pristine)
    whole = sum(float(tensor.double().square().sum()) for tensor in pristine.values())
    return (changed / whole) ** 0.5


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
