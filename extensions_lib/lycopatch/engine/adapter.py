"""Steps 4 and 5: a file's tensors → an ``Adapter``, layer by layer, from the header alone.

Nothing here knows a model. Only one-element tensors (alpha, ``on_input`` …) are read; the others when they are applied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from lycopatch.engine.algorithms import ALGORITHMS
from lycopatch.engine.algorithms.base import Algorithm, Base, Context, Footprint, NoMatch, identify
from lycopatch.engine.algorithms.dora import decompose, kept_axis
from lycopatch.engine.dialects import DIALECTS
from lycopatch.engine.dialects.cloneofsimo import positional_names
from lycopatch.engine.dialects.suffixes import split_key
from lycopatch.engine.errors import MalformedLayer
from lycopatch.engine.linalg import Delta, Dense, Sum, scaled
from lycopatch.engine.peft_config import PeftConfig, find_peft_config
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.types import Fingerprint, TensorSpec
from lycopatch.engine.wording import shown

_SHARED = frozenset({"vera_A", "vera_B"})
_BIASES = ("diff_b", "b_norm", "lora_bias")
_MAGNITUDES = ("dora_scale", "magnitude")
_REAL = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_LARGEST_SCALE = 1e30  # times any sane multiplier it is still a number of fp32
_NUMBERS = frozenset({"alpha", "scale", "scalar", "on_input", "scaled_oft"})  # read while parsing
_WHOLE = _NUMBERS | {"bias_indices", "bias_size"}
_NOT_NETWORKS = {
    "lora_controlnet": "a Control-LoRA, a kind of ControlNet",
    "lllite_": "a ControlNet-LLLite",
    "controlnet_": "a ControlNet",
}


@dataclass(frozen=True, slots=True)
class Leftover:
    """A key that belongs to no usable layer, and why."""

    key: str
    outcome: Literal["unknown", "skipped"]
    kind: str
    reason: str
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class BundledEmbedding:
    """A textual inversion that travels inside the file: part (``clip_l``, ``string_to_param.*`` …) → key."""

    name: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class AdapterLayer:
    """One layer of a file: its algorithm and where its tensors are. Independent of any model."""

    name: str
    dialect: str
    algorithm: type[Algorithm]
    keys: Mapping[str, str]  # canonical suffix → key in the file
    specs: Mapping[str, TensorSpec]  # canonical suffix → dtype and shape
    scalars: Mapping[str, float]  # values of the one-element tensors
    scale: float  # alpha / rank, or what replaces it
    conventions: frozenset[str] = frozenset()
    extra: tuple[str, ...] = ()  # suffixes the algorithm has no use for

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {suffix: spec.shape for suffix, spec in self.specs.items()}

    @property
    def algorithm_name(self) -> str:
        return self.algorithm.name(self.shapes)

    @property
    def rank(self) -> int | None:
        return self.algorithm.rank(self.shapes)

    @property
    def refusal(self) -> str | None:
        return self.algorithm.refusal(self.shapes)

    @cached_property
    def footprints(self) -> tuple[Footprint, ...]:
        return self.algorithm.footprints(self.shapes, self.scalars)

    @property
    def modifiers(self) -> tuple[str, ...]:
        """Names of what goes with the algorithm: DoRA, bias, sparse residual …"""
        named = {
            "DoRA": _MAGNITUDES,
            "bias": _BIASES,
            "residual": ("bias", "bias_indices"),
            "scalar": ("scalar",),
            "scale": ("scale",),
            "rescale": ("rescale",),
            "Tucker": ("lora_mid", "hada_t1", "lokr_t2"),
        }
        return tuple(name for name, suffixes in named.items() if any(suffix in self.specs for suffix in suffixes))

    @property
    def changes_weight(self) -> bool:
        return self.algorithm.TITLE not in ("Full", "Norm") or "diff" in self.specs or "w_norm" in self.specs

    @property
    def needs_base(self) -> bool:
        """True when ΔW depends on the original weight."""
        return self.algorithm.NEEDS_BASE or any(suffix in self.specs for suffix in _MAGNITUDES)

    @property
    def adds_bias(self) -> bool:
        """True when there is a Δb whatever the bias was, so that a layer without one needs one."""
        return any(suffix in self.specs for suffix in _BIASES)

    @property
    def changes_bias(self) -> bool:
        return self.adds_bias or "ia3_l" in self.specs

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why this layer can not act on a weight of ``shape``, or None when it can."""
        reasons = [print_.mismatch(shape) for print_ in self.footprints]
        if any(reason is None for reason in reasons):
            return self._magnitude_mismatch(shape)
        return reasons[0]

    def _magnitude_mismatch(self, shape: tuple[int, ...]) -> str | None:
        for suffix in _MAGNITUDES:
            if suffix in self.specs and kept_axis(self.shapes[suffix], shape, peft=suffix == "magnitude") is None:
                return f"its DoRA magnitude of shape {list(self.shapes[suffix])} belongs to no axis of {list(shape)}"
        return None

    def load(
        self, file: TensorFile, device: torch.device, dtype: torch.dtype, *, known_finite: bool = False
    ) -> LoadedLayer:
        """Read the layer's tensors, converted to ``dtype`` on ``device``.

        Raises MalformedLayer when a number is not finite, which is not looked for in a layer ``known_finite``.
        """
        tensors = {
            suffix: torch.tensor(self.scalars[suffix], device="cpu")
            if suffix in _NUMBERS
            else _read(file, key, device, dtype)
            for suffix, key in self.keys.items()
        }
        if not known_finite:
            for suffix, tensor in tensors.items():
                if suffix not in _NUMBERS and tensor.is_floating_point() and not _all_finite(tensor):
                    raise MalformedLayer(self.name, f"{shown(self.keys[suffix])} holds numbers that are not finite")
        return LoadedLayer(self, tensors)


def _all_finite(tensor: Tensor) -> bool:
    # a sum is one pass over memory; only when it is not finite is it worth looking at each number
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _read(file: TensorFile, key: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = file.read(key)
    return tensor.to(device=device, dtype=dtype) if tensor.is_floating_point() else tensor.to(device=device)


@dataclass(frozen=True, slots=True)
class LoadedLayer:
    """A layer with its tensors in the compute dtype: gives ΔW and Δb at multiplier 1."""

    layer: AdapterLayer
    tensors: Mapping[str, Tensor]

    def _formula(self) -> Algorithm:
        own = {
            suffix: tensor
            for suffix, tensor in self.tensors.items()
            if suffix in self.layer.algorithm.__dataclass_fields__  # type: ignore[attr-defined]
        }
        return self.layer.algorithm(**own)

    def _context(self, dyn_dim: int | None) -> Context:
        scalars = self.layer.scalars
        return Context(scalars.get("alpha"), dyn_dim, self.layer.conventions, scalars)

    def weight_delta(self, base: Base, dyn_dim: int | None = None) -> Delta | None:
        """ΔW ``[out, in·kernel]`` at multiplier 1, or None when the layer leaves the weight alone."""
        try:
            delta = self._formula().delta(base, self._context(dyn_dim))
        except ValueError as error:
            raise MalformedLayer(self.layer.name, str(error)) from error
        factor = self.layer.scale * self.layer.scalars.get("scalar", 1.0)
        if delta is not None and factor != 1.0:
            delta = scaled(delta, factor)
        for residual in self._residuals(base):
            part = Dense(residual, factor)
            delta = part if delta is None else Sum((delta, part))
        if delta is None:
            return None
        for suffix in _MAGNITUDES:
            if suffix in self.tensors:
                magnitude = self.tensors[suffix]
                axis = kept_axis(tuple(magnitude.shape), base.shape, peft=suffix == "magnitude")
                if axis is None:
                    raise MalformedLayer(self.layer.name, "its DoRA magnitude fits no axis of the weight")
                delta = decompose(base, delta, magnitude, axis)
        return delta

    def bias_delta(self, bias: Tensor) -> Tensor | None:
        """Δb ``[out]`` at multiplier 1 for a layer whose original bias is ``bias``, or None when it has none."""
        parts = [
            self.tensors[suffix].reshape(-1) * (self.layer.scale if suffix == "lora_bias" else 1.0)
            for suffix in _BIASES
            if suffix in self.tensors
        ]
        own = self._formula().bias_delta(bias, self._context(None))
        if own is not None:
            parts.append(own)
        for part in parts:
            if part.numel() != bias.numel():
                reason = f"its bias has {part.numel()} numbers, the layer {bias.numel()}"
                raise MalformedLayer(self.layer.name, reason)
        return torch.stack(parts).sum(dim=0) if parts else None

    def _residuals(self, base: Base) -> Iterable[Tensor]:
        """Dense and sparse weight residuals that A1111 and LyCORIS' extraction add to the product."""
        rows, cols = base.shape[0], math.prod(base.shape[1:])
        if "bias" in self.tensors:
            if self.tensors["bias"].numel() != rows * cols:
                raise MalformedLayer(self.layer.name, "its residual (bias) is not of the weight's size")
            yield self.tensors["bias"].reshape(rows, cols)
        if "bias_indices" in self.tensors:
            indices = self.tensors["bias_indices"].to(torch.int64)
            limit = torch.tensor([[rows], [cols]], device=indices.device)
            beyond = bool(((indices < 0) | (indices >= limit)).any())
            if beyond or not torch.equal(self.tensors["bias_size"].flatten().to(torch.int64), limit.flatten()):
                raise MalformedLayer(self.layer.name, "its sparse residual reaches beyond the weight")
            residual = torch.zeros(rows, cols, dtype=base.dtype, device=indices.device)
            residual[indices[0], indices[1]] = self.tensors["bias_values"].to(base.dtype)
            yield residual


@dataclass(frozen=True)
class Adapter:
    """A parsed file: every key is in exactly one layer, embedding or leftover."""

    path: Path
    fingerprint: Fingerprint
    metadata: Mapping[str, str]
    layers: tuple[AdapterLayer, ...]
    embeddings: tuple[BundledEmbedding, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    total_keys: int = 0
    not_a_network: str | None = None  # what the file is instead

    @cached_property
    def algorithms(self) -> Mapping[str, int]:
        return dict(Counter(layer.algorithm_name for layer in self.layers))

    @cached_property
    def dialects(self) -> Mapping[str, int]:
        return dict(Counter(layer.dialect for layer in self.layers))


@dataclass(slots=True)
class _Grouped:
    """Keys sorted into layers, before any of them is understood."""

    layers: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    embeddings: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    shared: dict[str, str] = field(default_factory=dict[str, str])
    leftovers: list[Leftover] = field(default_factory=list[Leftover])


def parse_adapter(file: TensorFile) -> Adapter:
    """Understand a file's keys and shapes. Trouble in one layer becomes a ``Leftover``; never raises for content."""
    grouped = _group(file)
    config = find_peft_config(file.path, file.metadata)
    layers: list[AdapterLayer] = []
    leftovers = grouped.leftovers
    rename = positional_names(grouped.layers)
    for name, keys in grouped.layers.items():
        outcome = _parse_layer(file, rename.get(name, name), keys, grouped.shared, config)
        if isinstance(outcome, AdapterLayer):
            layers.append(outcome)
            leftovers.extend(
                Leftover(keys[suffix], "unknown", "unknown key", f"{outcome.algorithm_name} has no {suffix}", name)
                for suffix in outcome.extra
                if suffix in keys
            )
        else:
            leftovers.extend(replace(outcome, key=key) for key in keys.values())
    users = [layer for layer in layers if layer.keys.keys() & _SHARED]
    if not users:
        leftovers.extend(Leftover(key, "unknown", "unknown key", "no layer uses it") for key in grouped.shared.values())
    return Adapter(
        path=file.path,
        fingerprint=file.fingerprint,
        metadata=MappingProxyType(dict(file.metadata)),
        layers=tuple(layers),
        embeddings=tuple(BundledEmbedding(name, keys) for name, keys in grouped.embeddings.items()),
        leftovers=tuple(leftovers),
        total_keys=len(file.specs),
        not_a_network=_something_else(file, layers),
    )


def _group(file: TensorFile) -> _Grouped:
    grouped = _Grouped()
    for key, spec in file.specs.items():
        parts = split_key(key)
        if key.startswith("bundle_emb."):
            name, _, part = key.removeprefix("bundle_emb.").partition(".")
            grouped.embeddings.setdefault(name, {})[part] = key
        elif file.metadata.get(key) == "<embed>":
            grouped.embeddings.setdefault(key, {})["embed"] = key
        elif ".base_layer." in key or key.startswith("modules_to_save."):
            reason = "it is a copy of the base model's own weight"
            grouped.leftovers.append(Leftover(key, "skipped", "base weight", reason))
        elif 0 in spec.shape:
            grouped.leftovers.append(Leftover(key, "skipped", "empty tensor", "the tensor is empty"))
        elif parts is None:
            reason = "its ending is none that a trainer is known to write"
            grouped.leftovers.append(Leftover(key, "unknown", "unknown key", reason))
        else:
            place = grouped.shared if parts.suffix in _SHARED else grouped.layers.setdefault(parts.layer, {})
            if parts.suffix in place:
                reason = f"{shown(place[parts.suffix])} means the same tensor"
                grouped.leftovers.append(Leftover(key, "skipped", "duplicate", reason, parts.layer))
            else:
                place[parts.suffix] = key
    return grouped


def _parse_layer(
    file: TensorFile, name: str, keys: Mapping[str, str], shared: Mapping[str, str], config: PeftConfig | None
) -> AdapterLayer | Leftover:
    """The layer, or why it is none (a ``Leftover`` whose key the caller fills in)."""
    if "vera_lambda_b" in keys:
        keys = {**keys, **shared}
    specs = {suffix: file.specs[key] for suffix, key in keys.items()}
    found = identify({suffix: spec.shape for suffix, spec in specs.items()}, ALGORITHMS)
    if isinstance(found, NoMatch):
        nearest = f"closest is {found.closest}: {found.why}" if found.closest else found.why
        return Leftover("", "unknown", "unknown algorithm", nearest, name)
    if fault := _fault_of_modifiers(specs):
        return Leftover("", "skipped", "damaged layer", fault, name)
    scalars = {suffix: _number(file.read(keys[suffix])) for suffix, spec in specs.items() if spec.numel == 1}
    layer = AdapterLayer(
        name=name,
        dialect=next((dialect.name for dialect in DIALECTS if dialect.owns(name)), "unknown"),
        algorithm=found.algorithm,
        keys={suffix: key for suffix, key in keys.items() if suffix not in found.extra},
        specs={suffix: spec for suffix, spec in specs.items() if suffix not in found.extra},
        scalars=scalars,
        scale=1.0,
        conventions=_conventions(name, config),
        extra=tuple(sorted(found.extra)),
    )
    scale = _scale(layer, config)
    if not abs(scale * scalars.get("scalar", 1.0)) < _LARGEST_SCALE:  # also when it is not a number
        reason = f"its alpha is {scalars.get('alpha', scalars.get('scale'))}"
        return Leftover("", "skipped", "damaged layer", reason, name)
    return replace(layer, scale=scale)


def _fault_of_modifiers(specs: Mapping[str, TensorSpec]) -> str | None:
    """Why the tensors that go with any algorithm can not be used, or None."""
    for suffix, spec in specs.items():
        if suffix in _NUMBERS and spec.numel != 1:
            return f"its {suffix} is not one number"
        if spec.dtype not in _REAL and suffix not in _WHOLE:
            return f"its {suffix} is stored as {spec.dtype}, not as real numbers"
    sparse = [specs.get(suffix) for suffix in ("bias_indices", "bias_values", "bias_size")]
    if any(sparse):
        shapes = [spec.shape if spec else () for spec in sparse]
        if len(shapes[1]) != 1 or shapes[0] != (2, *shapes[1]) or shapes[2] != (2,):
            return "its sparse residual is not complete"
    if any(suffix in specs and not specs[suffix].shape for suffix in _MAGNITUDES):
        return "its DoRA magnitude is a single number"
    return None


def _number(tensor: Tensor) -> float:
    return float(tensor.reshape(()).to(torch.float64).item())


def _conventions(name: str, config: PeftConfig | None) -> frozenset[str]:
    names = set(config.conventions(name) if config else ())
    if name.startswith("oft_"):
        names.add("kohya_oft")
    if name.startswith("lora_"):
        # of the trainers that write oft_R only OneTrainer uses these prefixes
        names.add("onetrainer")
    return frozenset(names)


def _scale(layer: AdapterLayer, config: PeftConfig | None) -> float:
    """What multiplies the product: the file's ``scale``, else alpha / rank, else peft's configuration, else 1."""
    if "scale" in layer.scalars:
        return layer.scalars["scale"]
    rank = layer.rank
    alpha = layer.scalars.get("alpha")
    if alpha is not None and rank:
        return alpha / rank
    if config is not None and layer.algorithm.TITLE in ("LoRA", "LoRA embedding", "LoHa", "LoKr"):
        # peft scales LoKr also when both factors are full; AdaLoRA's rank is what training left of it
        scale = config.scale(layer.name, rank or 1, ranks_vary="lora_E" in layer.specs)
        return 1.0 if scale is None else scale
    return 1.0


def _something_else(file: TensorFile, layers: list[AdapterLayer]) -> str | None:
    """What a file without layers of a network is, as far as its keys tell."""
    for key in file.specs:
        for mark, what in _NOT_NETWORKS.items():
            if key.startswith(mark):
                return what
    if layers or not file.specs:
        return None
    weights = sum(_is_whole_weight(key) for key in file.specs)
    if weights > len(file.specs) // 2:
        return "a model's whole weights, not a network to add to one"
    if any(key in file.specs for key in ("emb_params", "clip_l", "clip_g", "string_to_param.*")):
        return "a textual-inversion embedding; it belongs into the embeddings folder"
    return None


def _is_whole_weight(key: str) -> bool:
    """True for a module's own ``.weight`` or ``.bias``, false for a network's ``.lora_up.weight``."""
    parts = split_key(key)
    return key.endswith((".weight", ".bias")) and (parts is None or parts.suffix in ("weight", "bias"))
