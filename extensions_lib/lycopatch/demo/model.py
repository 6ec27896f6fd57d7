"""The model that travels with the package: Stable Diffusion's own architecture, small, trained on drawings of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "model"
NETWORKS = Path(__file__).parent / "networks"
"""Networks for this model, trained with lycoris-lora and peft."""

JUDGE = FOLDER / "judge.safetensors"
NAME = "LycoPatch demo"


def load_pipeline(folder: Path | None = None, device: str = "cpu") -> Any:
    """A ``StableDiffusionPipeline`` from a folder as diffusers saves it, in fp32. Nothing is asked of the network.

    ``folder``: the model of the package when left out.
    """
    from diffusers import StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

    pipe = StableDiffusionPipeline.from_pretrained(folder or FOLDER, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.float()
    return pipe.to(device)
