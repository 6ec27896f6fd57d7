"""Layers trained with ``lycoris-lora``: made, saved and read out of the forward pass by that package.

What the package gets wrong and therefore is not asked (seen in 4.1.3): ``get_diff_weight`` and ``get_merged_weight`` of
LoHa and LoKr apply alpha/rank twice; DyLoRA's forward draws a random rank; a reload of (IA)³ and of several LoKr forms
fails, so the trained module itself is asked.

Left out because a file can not tell it: LoKr with both factors full under ``rs_lora`` trains √r times as strong as any
loader applies it, LyCORIS' own included, and GLoRA under ``rs_lora`` stores alpha without the √r.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from lycoris.modules.base import LycorisBaseModule
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.dylora import DyLoraModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from lycoris.modules.tlora import TLoraModule
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

ROTATIONS = (DiagOFTModule, ButterflyOFTModule)
KNOBS = {  # ΔW is proportional to these, taken together
    LoConModule: ("lora_up.weight",),
    LohaModule: ("hada_w1_a",),
    LokrModule: ("lokr_w1", "lokr_w1_a"),
    GLoRAModule: ("a1.weight", "b1.weight"),
}
CHANGE = 0.5
"""‖ΔW‖ / ‖W‖ that the linear algorithms are set to."""


@dataclass(frozen=True)
class Recipe:
    """One kind of trained layer. ``alpha`` and ``constraint`` are numbers that every dtype holds exactly."""

    name: str
    module: type[LycorisBaseModule]
    algorithm: str
    layer: str
    rank: int = 4
    alpha: float | None = 3.0
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    modifiers: tuple[str, ...] = ()
    halves: bool = False  # also as float16 and bfloat16
    raw: bool = False  # saved with plain ``nn.Module.state_dict``, which keeps ``scalar`` apart
    drop: tuple[str, ...] = ()
    cast_everything: bool = False  # the network saver with a dtype turns integer buffers into floats as well


@lru_cache(maxsize=1)
def lycoris_cases() -> list[OracleCase]:
    """Every recipe in float32, the marked ones also in float16 and bfloat16."""
    with undisturbed_randomness(), _quiet_log():
        return [_build(recipe, dtype) for recipe in _recipes() for dtype in (F32, *(HALVES if recipe.halves else ()))]


@contextmanager
def _quiet_log() -> Iterator[None]:
    """LyCORIS tells standard output about every factorisation it chooses."""
    log = logging.getLogger("LyCORIS")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _recipes() -> list[Recipe]:
    return [*_lora(), *_dylora(), *_loha(), *_lokr(), *_dora(), *_glora(), *_small(), *_oft(), *_boft()]


def _lora() -> list[Recipe]:
    def make(name: str, layer: str, **more: Any) -> Recipe:
        return Recipe(name, LoConModule, "LoCon" if layer.startswith("conv3x3") else "LoRA", layer, **more)

    scalar, rs = {"use_scalar": True}, {"rs_lora": True}
    return [
        make("lora", "linear", halves=True),
        make("lora-alpha-is-rank", "linear", alpha=4.0),
        make("lora-alpha-missing", "linear", alpha=None, drop=("alpha",)),
        make("lora-rank1", "linear", rank=1, alpha=0.5),
        make("lora", "linear_square"),
        make("lora", "linear_bias"),
        make("lora", "linear_prime", rank=5),
        make("lora", "conv1x1", halves=True),
        make("lora", "conv3x3", halves=True),
        make("lora", "conv3x3_stride2"),
        make("lora", "conv3x3_9in"),
        make("lora-scalar", "linear", options=scalar),
        make("lora-scalar", "conv3x3", options=scalar),
        make("lora-scalar-raw", "linear", options=scalar, raw=True),
        make("lora-rs", "linear", options=rs, halves=True),
        make("lora-rs-rank6", "linear_square", rank=6, options=rs),
        make("locon-tucker", "conv3x3", options={"use_tucker": True}, halves=True),
        make("locon-tucker", "conv3x3_stride2", options={"use_tucker": True}),
        make("locon-tucker-rs-scalar", "conv3x3", options={"use_tucker": True} | rs | scalar),
    ]


def _dylora() -> list[Recipe]:
    return [
        Recipe("dylora", DyLoraModule, "LoRA", "linear", rank=8, options={"block_size": 4}, halves=True),
        Recipe("dylora", DyLoraModule, "LoCon", "conv3x3", rank=4, options={"block_size": 2}),
    ]


def _loha() -> list[Recipe]:
    def make(name: str, layer: str, **more: Any) -> Recipe:
        return Recipe(name, LohaModule, "LoHa", layer, **more)

    return [
        make("loha", "linear", halves=True),
        make("loha", "linear_square"),
        make("loha", "linear_bias", alpha=6.0),
        make("loha", "linear_prime"),
        make("loha", "conv1x1"),
        make("loha", "conv3x3", halves=True),
        make("loha", "conv3x3_stride2"),
        make("loha-tucker", "conv3x3", options={"use_tucker": True}, halves=True),
        make("loha-tucker", "conv3x3_stride2", options={"use_tucker": True}),
        make("loha-scalar", "linear", options={"use_scalar": True}),
        make("loha-rs", "linear", options={"rs_lora": True}),
    ]


def _lokr() -> list[Recipe]:
    def make(name: str, layer: str, rank: int, *, halves: bool = False, **options: Any) -> Recipe:
        return Recipe(f"lokr-{name}", LokrModule, "LoKr", layer, rank=rank, options=options, halves=halves)

    return [
        make("fullfull", "linear", 8, halves=True),
        make("fullfull", "conv3x3", 4),
        make("fullmatrix", "linear_square", 2, full_matrix=True),
        make("fullmatrix", "conv1x1", 2, full_matrix=True),
        make("fulllow", "linear", 2, halves=True),
        make("fulllow", "linear_prime", 4),
        make("fulllow", "conv3x3", 2, halves=True),
        make("fulllow", "conv3x3_stride2", 1),
        # Only an unbalanced split makes the first factor large enough to be decomposed while the second stays full.
        make("lowfull", "linear", 6, decompose_both=True, unbalanced_factorization=True, factor=2),
        make("lowlow", "linear", 2, decompose_both=True, halves=True),
        make("lowlow", "conv3x3", 1, decompose_both=True),
        make("lowlow", "conv1x1", 1, decompose_both=True),
        make("tucker", "conv3x3", 2, use_tucker=True, halves=True),
        make("tucker", "conv3x3_stride2", 1, use_tucker=True),
        make("tucker-lowlow", "conv3x3", 1, use_tucker=True, decompose_both=True),
        make("unbalanced", "linear", 2, unbalanced_factorization=True, factor=4),
        make("unbalanced", "conv3x3", 1, unbalanced_factorization=True),
        make("factor2", "linear", 2, factor=2),
        make("factor4", "linear_bias", 2, factor=4),
        make("factor8", "linear_square", 1, factor=8),
        make("factor8", "conv1x1", 2, factor=8),
        make("scalar", "linear", 2, use_scalar=True),
        make("scalar-lowlow", "linear", 2, use_scalar=True, decompose_both=True),
        make("rs", "linear", 2, rs_lora=True),
    ]


def _dora() -> list[Recipe]:
    forms: list[tuple[str, type[LycorisBaseModule], str, dict[str, Any]]] = [
        ("dora", LoConModule, "", {}),
        ("doha", LohaModule, "LoHa", {}),
        ("dokr", LokrModule, "LoKr", {"rank": 2}),
    ]
    recipes: list[Recipe] = []
    for name, module, algorithm, more in forms:
        for layer in ("linear", "linear_square", "linear_bias", "conv1x1", "conv3x3"):
            for axis in ("out", "in"):
                options = {"weight_decompose": True, "wd_on_out": axis == "out"}
                recipes.append(
                    Recipe(
                        f"{name}-{axis}",
                        module,
                        algorithm or ("LoCon" if layer == "conv3x3" else "LoRA"),
                        layer,
                        options=options,
                        modifiers=("DoRA",),
                        halves=layer == "linear" or (layer == "conv3x3" and axis == "in"),
                        **more,
                    )
                )
    decomposed = {"weight_decompose": True}
    return [
        *recipes,
        Recipe("dora-out", LoConModule, "LoRA", "conv1x1_square", options=decomposed, modifiers=("DoRA",)),
        Recipe("dora-out", LoConModule, "LoCon", "conv3x3_stride2", options=decomposed, modifiers=("DoRA",)),
        Recipe(
            "dora-tucker",
            LoConModule,
            "LoCon",
            "conv3x3",
            options=decomposed | {"use_tucker": True},
            modifiers=("DoRA",),
        ),
        Recipe("dokr-fullfull", LokrModule, "LoKr", "linear", rank=8, options=decomposed, modifiers=("DoRA",)),
    ]


def _glora() -> list[Recipe]:
    # ``bm``, the planned Tucker core, is never made: the condition for it can not be met.
    return [
        Recipe("glora", GLoRAModule, "GLoRA", "linear", halves=True),
        Recipe("glora", GLoRAModule, "GLoRA", "linear_square"),
        Recipe("glora", GLoRAModule, "GLoRA", "linear_bias", alpha=6.0),
        Recipe("glora", GLoRAModule, "GLoRA", "conv1x1"),
        Recipe("glora", GLoRAModule, "GLoRA", "conv3x3", halves=True),
        Recipe("glora", GLoRAModule, "GLoRA", "conv3x3_stride2"),
        Recipe("glora-scalar", GLoRAModule, "GLoRA", "linear", options={"use_scalar": True}),
    ]


def _small() -> list[Recipe]:
    def make(name: str, module: type[LycorisBaseModule], algorithm: str, layer: str, **more: Any) -> Recipe:
        return Recipe(name, module, algorithm, layer, cast_everything=more.pop("cast", False), **more)

    on_input = {"train_on_input": True}
    return [
        make("ia3-out", IA3Module, "IA3", "linear", halves=True),
        make("ia3-out", IA3Module, "IA3", "linear_bias"),
        make("ia3-out", IA3Module, "IA3", "linear_square"),
        make("ia3-out", IA3Module, "IA3", "conv3x3"),
        make("ia3-in", IA3Module, "IA3", "linear", options=on_input),
        make("ia3-in", IA3Module, "IA3", "linear_square", options=on_input),
        make("ia3-in", IA3Module, "IA3", "conv3x3", options=on_input, halves=True),
        make("ia3-in-cast", IA3Module, "IA3", "linear", options=on_input, halves=True, cast=True),
        make("ia3-out-cast", IA3Module, "IA3", "linear_square", halves=True, cast=True),
        make("full", FullModule, "Full", "linear", halves=True),
        make("full", FullModule, "Full", "linear_bias", halves=True),
        make("full", FullModule, "Full", "conv3x3"),
        make("norm", NormModule, "Norm", "layernorm", halves=True),
        make("norm", NormModule, "Norm", "groupnorm", halves=True),
        make("tlora", TLoraModule, "T-LoRA", "linear"),
        make("tlora", TLoraModule, "T-LoRA", "conv1x1"),
    ]


def _oft() -> list[Recipe]:
    def make(name: str, layer: str, rank: int, *, halves: bool = False, **options: Any) -> Recipe:
        return Recipe(name, DiagOFTModule, "OFT", layer, rank=rank, options=options, halves=halves)

    return [
        make("oft", "linear", 4, halves=True),
        make("oft", "linear_square", 8),
        make("oft", "linear_bias", 7),
        make("oft", "conv1x1", 8),
        make("oft", "conv3x3", 4, halves=True),
        make("oft", "conv3x3_stride2", 4),
        make("oft-constraint", "linear", 4, constraint=0.03125, halves=True),  # 1.5 against a norm of about 4
        make("oft-constraint", "conv3x3", 4, constraint=0.0625),
        make("oft-constraint-idle", "linear", 4, constraint=1.0),
        make("oft-rescale", "linear", 4, rescaled=True, halves=True),
        make("oft-rescale", "conv3x3", 4, rescaled=True),
        make("oft-constraint-rescale", "linear_bias", 7, constraint=0.0625, rescaled=True),
    ]


def _boft() -> list[Recipe]:
    def make(name: str, layer: str, rank: int, *, halves: bool = False, **options: Any) -> Recipe:
        return Recipe(name, ButterflyOFTModule, "BOFT", layer, rank=rank, options=options, halves=halves)

    return [
        make("boft", "linear", 6, halves=True),  # four stages
        make("boft", "linear_square", 4),  # four stages
        make("boft", "linear_bias", 14),  # two stages
        make("boft", "conv1x1", 8),
        make("boft", "conv3x3", 6, halves=True),  # three stages
        make("boft", "conv3x3_stride2", 4),
        make("boft-constraint", "linear", 6, constraint=0.0625),
        make("boft-rescale", "linear", 6, rescaled=True, halves=True),
        make("boft-constraint-rescale", "conv3x3", 6, constraint=0.0625, rescaled=True),
    ]


@torch.no_grad()
def _build(recipe: Recipe, dtype: torch.dtype) -> OracleCase:
    identity = f"lycoris-{recipe.name}-{recipe.layer}-{DTYPE_NAMES[dtype]}"
    numbers = Numbers(identity)
    layer = make_layer(recipe.layer, numbers, dtype)
    weight, bias = parameters_of(layer, dtype)
    # The rotations multiply a float32 identity with the blocks and so can not run in float64.
    precision = torch.float32 if recipe.module in ROTATIONS else torch.float64
    layer.to(precision)

    module = recipe.module(identity, layer, 1.0, lora_dim=recipe.rank, alpha=recipe.alpha, **recipe.options)
    module.to(precision).eval()
    module.apply_to()
    reference_layer = make_layer(recipe.layer, Numbers(identity), dtype).to(precision)
    forward: Callable[[Tensor], Tensor] = layer.forward
    _train(module, numbers, forward, reference_layer)
    for name, parameter in module.named_parameters():
        if name != "scalar" or recipe.raw:
            parameter.copy_(stored(parameter, dtype))

    saved = nn.Module.state_dict(module) if recipe.raw else module.state_dict()
    tensors = {key: stored(value, dtype) for key, value in saved.items() if key not in recipe.drop}
    if recipe.cast_everything:
        tensors = {key: value.to(dtype) for key, value in tensors.items()}

    reference_weight, reference_bias = None, None
    if isinstance(module, DyLoraModule):
        reference_weight, reference_bias = _whole_dylora(module, weight), None if bias is None else bias.double()
    elif not isinstance(module, TLoraModule):
        trained, _ = effective_parameters(forward, reference_layer)
        _load(module, tensors)
        reference_weight, reference_bias = effective_parameters(forward, reference_layer)
        # What was stored is what was trained, but for the rounding of alpha·√r and of scalar · factor.
        error = relative(trained - reference_weight, reference_weight - weight.double())
        assert error < (1e-5 if dtype == F32 else 1e-2), f"{identity}: the saver lost {error:.1e}"

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
        origin="lycoris",
        tolerance=_tolerance(recipe),
    )


def _tolerance(recipe: Recipe) -> float:
    if recipe.module in ROTATIONS:
        return ROTATED
    return NORMED if recipe.modifiers else EXACT


def _train(
    module: LycorisBaseModule, numbers: Numbers, forward: Callable[[Tensor], Tensor], reference_layer: nn.Module
) -> None:
    """What training leaves behind: random numbers in every parameter, and a ΔW of a size that can be measured."""
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        match name:
            case "scalar":
                parameter.fill_(0.75)
            case "dora_scale":
                parameter.mul_(numbers.uniform(*shape, low=0.6, high=1.5))
            case "rescale":
                parameter.copy_(numbers.uniform(*shape, low=0.7, high=1.3))
            case "oft_blocks":
                parameter.copy_(numbers.normal(*shape, std=0.2))
            case "weight" | "bias" if isinstance(module, FullModule):  # holds the layer's own values from here on
                parameter.add_(numbers.normal(*shape, std=0.1))
            case _:
                parameter.copy_(numbers.normal(*shape, std=0.4))
    knobs = KNOBS.get(type(module))
    if knobs is None:
        return
    decomposed, module.wd = getattr(module, "wd", False), False
    original = reference_layer.weight.double()
    changed, _ = effective_parameters(forward, reference_layer)
    for name, parameter in module.named_parameters():
        if name in knobs:
            parameter.mul_(CHANGE / relative(changed - original, original))
    module.wd = decomposed


def _load(module: LycorisBaseModule, tensors: dict[str, Tensor]) -> None:
    """Put the numbers of the file back into the module that wrote them."""
    if isinstance(module, FullModule):
        # What training keeps is weight and bias themselves; the file has what was added to them.
        module.weight.copy_(module.org_weight + tensors["diff"])
        if module.bias is not None:
            module.bias.copy_(module.org_bias[0] + tensors["diff_b"])
        return
    places = dict(module.named_parameters()) | dict(module.named_buffers())
    if "scalar" in places and "scalar" not in tensors:
        places["scalar"].fill_(1)  # the saver has multiplied it into a factor
    for key, value in tensors.items():
        places[key].copy_(value)


def _whole_dylora(module: DyLoraModule, weight: Tensor) -> Tensor:
    """W' with every block in use and alpha over the full rank.

    At its last block LyCORIS divides alpha by the number of blocks instead, that is, it trains ``block_size`` times as
    strong as any loader applies the file, its own included.
    """
    delta, _ = module.get_diff_weight(rank=module.lora_dim - module.block_size)
    return weight.double() + delta.view(weight.shape) / module.block_size
