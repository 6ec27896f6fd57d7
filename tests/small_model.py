"""A U-Net, or a text encoder, of a handful of tensors, in which one layer is any weight a test wants to see patched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine.report import Report
from lycopatch.hosts.memory import NetworkLoader

ATTENTION = "mid_block.attentions.0"
PLACES = {
    "linear": f"{ATTENTION}.transformer_blocks.0.attn1.to_q",
    "linear_square": f"{ATTENTION}.transformer_blocks.0.attn1.to_v",
    "linear_bias": f"{ATTENTION}.transformer_blocks.0.attn2.to_out.0",
    "linear_prime": f"{ATTENTION}.transformer_blocks.0.attn2.to_k",
    "conv1x1": f"{ATTENTION}.proj_in",
    "conv1x1_square": f"{ATTENTION}.proj_out",
    "conv3x3": "mid_block.resnets.0.conv1",
    "conv3x3_stride2": "down_blocks.0.downsamplers.0.conv",
    "conv3x3_9in": "conv_in",
    "layernorm": f"{ATTENTION}.transformer_blocks.0.norm1",
    "groupnorm": "mid_block.resnets.0.norm1",
    "embedding": "text_model.embeddings.token_embedding",
}
"""Kind of layer → where a diffusers U-Net (or CLIP, for embeddings) has one."""

UNET = ("time_embedding.linear_1.weight", "conv_out.weight")
CLIP = ("text_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.embeddings.token_embedding.weight")


def model_with(kind: str, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The tensors of the smallest model that has such a layer; the layer's tensors are copies."""
    names = CLIP if kind == "embedding" else UNET
    tensors = {name: torch.full((4, 4), 0.5, dtype=weight.dtype) for name in names}
    tensors[f"{PLACES[kind]}.weight"] = weight.clone()
    if bias is not None:
        tensors[f"{PLACES[kind]}.bias"] = bias.clone()
    return tensors


@dataclass
class Bench:
    """A model in memory and one network file beside it."""

    model: dict[str, Tensor]
    folder: Path
    pristine: dict[str, Tensor] = field(init=False)
    loader: NetworkLoader = field(init=False)
    name: str = "network"

    def __post_init__(self) -> None:
        self.pristine = {name: tensor.clone() for name, tensor in self.model.items()}
        self.loader = NetworkLoader(self.model, [self.folder], workers=1)

    def write(
        self,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, object] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """The network file, and beside it the configuration that peft's saver would write."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = "network" if config is None else "adapter_model"
        contiguous = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, self.folder / f"{self.name}.safetensors", metadata=dict(metadata or {}))
        if config is not None:
            (self.folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")

    def activate(self, multiplier: float = 1.0, more: str = "") -> Report:
        """Make the file active alone, with one multiplier for all parts."""
        return self.loader.activate(f"<lora:{self.name}:{multiplier!r}{more}>")

    def is_pristine(self) -> bool:
        """True when every tensor of the model holds its original bits, and no other tensor is there."""
        return self.model.keys() == self.pristine.keys() and all(
            same_bits(tensor, self.pristine[name]) for name, tensor in self.model.items()
        )


def same_bits(left: Tensor, right: Tensor) -> bool:
    """True for the same numbers down to the sign of zero."""
    left, right = left.contiguous().view(-1), right.contiguous().view(-1)
    return left.dtype == right.dtype and torch.equal(left.view(torch.uint8), right.view(torch.uint8))
