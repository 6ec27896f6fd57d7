"""What peft and diffusers keep beside the tensors: the scale, and which of two formulas was trained.

Sources: peft ``config.py`` (``adapter_config.json`` next to ``adapter_model.safetensors``), diffusers
``loaders/lora_base.py`` (``lora_adapter_metadata`` in the file, keys prefixed with the pipeline's component).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_LIMIT = 1 << 20  # bytes: an honest configuration has a few thousand
_REPETITIONS = 2  # ``.*`` and the like in one key of a pattern
_PREFIXES = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """One adapter configuration, by pipeline component (``""`` = the file has a single one)."""

    parts: Mapping[str, Mapping[str, Any]]

    def scale(self, layer: str, rank: int, *, ranks_vary: bool = False) -> float | None:
        """``alpha / r`` or ``alpha / √r`` of a layer; None when the configuration does not say.

        ``rank`` is that of the tensors; it counts where the configuration has none, or ``ranks_vary`` by training.
        """
        part = self._part(layer)
        alpha, r = part.get("lora_alpha", part.get("alpha")), part.get("r")
        path = _inner_path(layer)
        alpha = _matching(part.get("alpha_pattern"), path, alpha)
        r = _matching(part.get("rank_pattern"), path, r)
        if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            return None
        divisor = r if isinstance(r, int) and r > 0 and not ranks_vary else rank
        return float(alpha) / (math.sqrt(divisor) if part.get("use_rslora") else divisor)

    def conventions(self, layer: str) -> frozenset[str]:
        """The names of the trainer's choices that the tensors do not show."""
        part = self._part(layer)
        names = {"peft_config"}
        if part.get("peft_type") == "OFT" and part.get("use_cayley_neumann") is False:
            names.add("exact_cayley")
        if part.get("apply_GS"):
            names.add("hra_orthogonal")
        return frozenset(names)

    def _part(self, layer: str) -> Mapping[str, Any]:
        return self.parts.get(layer.partition(".")[0], self.parts.get("", {}))


def _inner_path(layer: str) -> str:
    """The layer's path in the model that was trained, as peft's patterns mean it."""
    head, _, tail = layer.partition(".")
    return (tail if head in _PREFIXES else layer).removeprefix("base_model.model.")


def _matching(pattern: object, path: str, default: object) -> object:
    """The entry of a peft pattern dict whose key ends the layer's path, as peft itself matches it."""
    if isinstance(pattern, dict):
        for key, value in cast("dict[str, object]", pattern).items():
            if _ends_path(key, path):
                return value
    return default


def _ends_path(key: str, path: str) -> bool:
    """True when ``key``, a path or a simple regular expression, is the end of a layer's path.

    An expression that could be made to search for ever (groups, many repetitions) is taken as a path: the file is a
    stranger's.
    """
    try:
        if not re.search(r"[(){}]", key) and len(re.findall(r"[*+?]", key)) <= _REPETITIONS:
            return re.match(rf"(.*\.)?(?:{key})$", path) is not None
    except re.error:
        pass
    return path == key or path.endswith(f".{key}")


def find_peft_config(path: Path, metadata: Mapping[str, str]) -> PeftConfig | None:
    """The configuration in a file's metadata or in ``adapter_config.json`` beside ``adapter_model.*``, if any."""
    text = metadata.get("lora_adapter_metadata")
    if text is None and path.stem == "adapter_model":
        side = path.with_name("adapter_config.json")
        try:
            with side.open("rb") as stream:
                text = stream.read(_LIMIT + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    if text is None or len(text) > _LIMIT:
        return None
    try:
        loaded: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    return PeftConfig(_by_component(cast("dict[str, Any]", loaded)))


def _by_component(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for key, value in config.items():
        head, dot, tail = key.partition(".")
        if dot and head in _PREFIXES:
            parts.setdefault(head, {})[tail] = value
        else:
            parts.setdefault("", {})[key] = value
    return parts
