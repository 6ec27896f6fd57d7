"""Layers trained with ``peft``: made, saved and read out of the forward pass by that package.

One case is not asked of the forward pass: OFT on a k×k convolution unfolds and folds the image, which is no convolution
any more, so there the merged weight is taken. AdaLoRA whose rank was cut down by training is left out: the saver drops
the number that the scale is divided by.
"""

from __future__ import annotations

import json
import tempfile
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    HRAConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    VeraConfig,
)
from torch import Tensor, nn

from oracles.case import (
    DTYPE_NAMES,
    EXACT,
    F32,
    HALVES,
    NORMED,
    ROTATED,
    Numbers,
    OracleCase,
    relative,
    stored,
    undisturbed_randomness,
)
from oracles.layers import effective_parameters, make_layer, parameters_of

PREFIX = "base_model.model."
PATH = "layer"
KNOBS = ("lora_B", "lora_embedding_B", "hada_w1_a", "lokr_w1", "lokr_w1_a", "vera_lambda_b")
"""ΔW is proportional to each of these."""
CHANGE = 0.5


class Model(nn.Module):
    """The smallest thing peft wraps: the layer, and a wider neighbour because VeRA shares matrices between layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.neighbour = nn.Linear(40, 56, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Recipe:
    """One kind of trained layer."""

    name: str
    config: PeftConfig
    algorithm: str
    layer: str
    modifiers: tuple[str, ...] = ()
    halves: bool = False
    tolerance: float = EXACT
    merged: bool = False  # ask the merged weight, see above


@lru_cache(maxsize=1)
def peft_cases() -> list[OracleCase]:
    """Every recipe in float32, the marked ones also in float16 and bfloat16."""
    with undisturbed_randomness(), _block_diagonal_in_torch():
        return [_build(recipe, dtype) for recipe in _recipes() for dtype in (F32, *(HALVES if recipe.halves else ()))]


@contextmanager
def _block_diagonal_in_torch() -> Iterator[None]:
    """A stand-in for the CUDA kernel that BOFT compiles at its first use, and without which it has one stage only.

    What the kernel does is to put blocks on a diagonal.
    """

    def forward(blocks: Tensor) -> list[Tensor]:
        return [torch.stack([torch.block_diag(*stage) for stage in blocks])]

    kernel = types.SimpleNamespace(forward=forward)
    with mock.patch("peft.tuners.boft.layer.get_fbd_cuda", return_value=kernel):
        yield


def _recipes() -> list[Recipe]:
    return [*_lora(), *_lycoris_like(), *_scalings(), *_rotations()]


def _lora() -> list[Recipe]:
    def make(name: str, layer: str, *, halves: bool = False, modifiers: tuple[str, ...] = (), **options: Any) -> Recipe:
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": [PATH]} | options
        algorithm = "LoCon" if layer.startswith("conv3x3") else "LoRA"
        tolerance = NORMED if modifiers else EXACT
        return Recipe(f"lora{name}", LoraConfig(**settings), algorithm, layer, modifiers, halves, tolerance)

    dora: dict[str, Any] = {"use_dora": True, "modifiers": ("DoRA",)}
    return [
        make("", "linear", halves=True),
        make("", "linear_square"),
        make("", "linear_bias"),
        make("", "conv1x1"),
        make("", "conv3x3", halves=True),
        make("", "conv3x3_stride2"),
        make("", "conv3x3_9in"),
        make("", "embedding"),
        make("-alpha-is-rank", "linear", lora_alpha=4),
        make("-rs", "linear", use_rslora=True, halves=True),
        make("-rs-rank6", "conv3x3", use_rslora=True, r=6),
        make("-bias", "linear_bias", lora_bias=True, halves=True),
        make("-bias", "conv1x1", lora_bias=True),
        make("-dora", "linear", halves=True, **dora),
        make("-dora", "linear_square", **dora),
        make("-dora", "linear_bias", **dora),
        make("-dora", "conv1x1", **dora),
        make("-dora", "conv1x1_square", **dora),  # here (1, out, 1, 1) looks like a magnitude per input
        make("-dora", "conv3x3", halves=True, **dora),
        make("-dora", "conv3x3_stride2", **dora),
        make("-dora-rs", "linear", use_rslora=True, **dora),
        Recipe(
            "adalora",
            AdaLoraConfig(init_r=4, target_r=4, lora_alpha=6, total_step=1000, tfinal=10, target_modules=[PATH]),
            "LoRA",
            "linear",
            tolerance=5e-6,  # the trainer divides by the rank + 1e-5
        ),
    ]


def _lycoris_like() -> list[Recipe]:
    def loha(name: str, layer: str, *, halves: bool = False, **options: Any) -> Recipe:
        config = LoHaConfig(r=4, alpha=6, target_modules=[PATH], **options)
        return Recipe(f"loha{name}", config, "LoHa", layer, halves=halves)

    def lokr(name: str, layer: str, rank: int, *, halves: bool = False, **options: Any) -> Recipe:
        config = LoKrConfig(r=rank, alpha=6, target_modules=[PATH], **options)
        return Recipe(f"lokr-{name}", config, "LoKr", layer, halves=halves)

    return [
        loha("", "linear", halves=True),
        loha("", "conv1x1"),
        loha("", "conv3x3"),
        loha("-tucker", "conv3x3", use_effective_conv2d=True),
        lokr("fullfull", "linear", 8, halves=True),  # times alpha / r, in contrast to LyCORIS
        lokr("fullfull", "conv3x3", 4),
        lokr("fulllow", "linear", 2),
        lokr("fulllow", "conv3x3", 2),
        lokr("lowlow", "linear", 2, decompose_both=True),
        lokr("tucker", "conv3x3", 2, use_effective_conv2d=True),
        lokr("factor4", "linear", 2, decompose_factor=4),
    ]


def _scalings() -> list[Recipe]:
    def ia3(side: str, layer: str, *, halves: bool = False) -> Recipe:
        config = IA3Config(target_modules=[PATH], feedforward_modules=[PATH] if side == "in" else [])
        return Recipe(f"ia3-{side}", config, "IA3", layer, halves=halves)

    vera = VeraConfig(r=8, target_modules=[PATH, "neighbour"])
    return [
        ia3("out", "linear", halves=True),
        ia3("out", "linear_bias"),
        ia3("out", "linear_square"),
        ia3("out", "conv3x3"),
        ia3("in", "linear"),
        ia3("in", "linear_bias"),
        ia3("in", "conv3x3"),
        Recipe("vera", vera, "VeRA", "linear", halves=True),
        Recipe("vera", vera, "VeRA", "linear_bias"),
    ]


def _rotations() -> list[Recipe]:
    def oft(name: str, layer: str, block: int, *, halves: bool = False, merged: bool = False, **options: Any) -> Recipe:
        config = OFTConfig(oft_block_size=block, target_modules=[PATH], **options)
        return Recipe(f"oft{name}", config, "OFT", layer, halves=halves, tolerance=ROTATED, merged=merged)

    def boft(layer: str, stages: int, *, halves: bool = False) -> Recipe:
        config = BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=stages, target_modules=[PATH])
        return Recipe(f"boft-{stages}", config, "BOFT", layer, halves=halves, tolerance=ROTATED)

    def hra(name: str, layer: str, *, halves: bool = False, **options: Any) -> Recipe:
        config = HRAConfig(r=4, target_modules=[PATH], **options)
        return Recipe(f"hra{name}", config, "HRA", layer, halves=halves, tolerance=ROTATED)

    return [
        oft("", "linear", 5, halves=True),
        oft("", "linear_square", 8),
        oft("", "linear_bias", 6),
        oft("", "conv1x1", 6),
        oft("", "conv3x3", 6, merged=True),
        oft("-exact", "linear", 5, use_cayley_neumann=False, halves=True),
        oft("-exact", "conv1x1", 6, use_cayley_neumann=False),
        oft("-shared", "linear", 5, block_share=True),
        oft("-shared-exact", "linear_square", 8, block_share=True, use_cayley_neumann=False),
        boft("linear", 1, halves=True),
        boft("linear_square", 1),
        boft("linear_square", 3),
        boft("linear_bias", 1),
        boft("conv1x1", 2),
        boft("conv3x3_stride2", 1),
        hra("", "linear", halves=True),
        hra("", "conv3x3"),
        hra("-orthogonalised", "linear", apply_GS=True),
    ]


@torch.no_grad()
def _build(recipe: Recipe, dtype: torch.dtype) -> OracleCase:
    identity = f"peft-{recipe.name}-{recipe.layer}-{DTYPE_NAMES[dtype]}"
    numbers = Numbers(identity)
    layer = make_layer(recipe.layer, numbers, dtype)
    weight, bias = parameters_of(layer, dtype)
    reference_layer = make_layer(recipe.layer, Numbers(identity), dtype)

    model = peft.get_peft_model(Model(layer), recipe.config, autocast_adapter_dtype=False).double().eval()
    wrapped = model.base_model.model.layer
    _train(wrapped, model, numbers, reference_layer, dtype)

    saved = _saved(model)
    here = f"{PREFIX}{PATH}."
    tensors = {key.removeprefix(here): stored(value, dtype) for key, value in saved.items() if key.startswith(here)}
    shared = {key: stored(value, dtype) for key, value in saved.items() if not key.startswith(PREFIX)}
    for value, kept in ((saved[here + key], kept) for key, kept in tensors.items()):
        assert torch.equal(value, kept.double()), f"{identity}: the file does not hold what was trained"

    if recipe.merged:
        wrapped.merge()
        reference_weight, reference_bias = wrapped.base_layer.weight.clone(), None if bias is None else bias.double()
    else:
        reference_weight, reference_bias = effective_parameters(wrapped, reference_layer)
    return OracleCase(
        id=identity,
        algorithm=recipe.algorithm,
        modifiers=recipe.modifiers,
        layer_kind=recipe.layer,
        tensors=tensors,
        weight=weight,
        bias=bias,
        reference_weight=reference_weight,
        reference_bias=reference_bias,
        origin="peft",
        config=_written_config(recipe.config),
        layer_prefix=PREFIX,
        tolerance=recipe.tolerance,
        shared=shared,
    )


def _train(
    wrapped: nn.Module, model: nn.Module, numbers: Numbers, reference_layer: nn.Module, dtype: torch.dtype
) -> None:
    """Random numbers in every parameter of the adapter, a ΔW that can be measured, and only what ``dtype`` can hold."""
    adapter = {name: p for name, p in wrapped.named_parameters() if not name.startswith("base_layer")}
    for name, parameter in adapter.items():
        shape = tuple(parameter.shape)
        kind = name.split(".")[0]
        if kind == "lora_magnitude_vector":
            parameter.mul_(numbers.uniform(*shape, low=0.6, high=1.5))
        elif kind in ("ia3_l", "boft_s"):
            parameter.copy_(numbers.uniform(*shape, low=0.5, high=1.6))
        elif kind != "ranknum":
            parameter.copy_(numbers.normal(*shape, std=0.2))
    projections = [buffer for name, buffer in model.named_buffers() if "vera_" in name]
    for buffer in projections:
        buffer.copy_(numbers.normal(*buffer.shape, std=0.2))

    knobs = [p for name, p in adapter.items() if name.split(".")[0] in KNOBS and not name.endswith("bias")]
    if knobs:
        variants = dict(getattr(wrapped, "lora_variant", {}))  # DoRA: measured without it
        if variants:
            wrapped.lora_variant.clear()
        original = reference_layer.weight
        changed, _ = effective_parameters(wrapped, reference_layer)
        for parameter in knobs:
            parameter.mul_(CHANGE / relative(changed - original, original))
        if variants:
            wrapped.lora_variant.update(variants)
    for parameter in (*adapter.values(), *projections):
        parameter.copy_(stored(parameter, dtype))


def _saved(model: peft.PeftModel) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # peft takes the bias of ``lora_bias=True`` for a damaged matrix.
        warnings.filterwarnings("ignore", r"Adapter 'default': 1 LoRA tensor.*lora_B\.bias")
        return peft.get_peft_model_state_dict(model)


def _written_config(config: PeftConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return json.loads((Path(folder) / "adapter_config.json").read_text())
