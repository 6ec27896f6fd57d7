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
_EXPRESSIONS = 16  # keys of a pattern that are expressions; people write a handful, programs write plain paths
_LONGEST_PATH = 200  # of a layer that may have an entry of its own; real ones have some 60 characters
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
        divisor = r if isinstance(r, int) and r > 0 and not ranks_vary else rank
        try:
            if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
                return None
            return float(alpha) / (math.sqrt(divisor) if part.get("use_rslora") else divisor)
        except OverflowError:  # JSON has whole numbers of any length
            return None

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
    """The first entry of a peft pattern whose key ends the layer's path, as peft itself matches it."""
    return pattern.find(path, default) if isinstance(pattern, _Pattern) else default


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A peft pattern dict, sorted by how its keys are compared: (position in the dict, value) of each.

    ``whole``: paths (peft writes ``^path``), ``ends``: ends of paths, ``expressions``: simple regular expressions. One
    that could be made to search for ever (groups, many repetitions) is taken as the end of a path: the file is a
    stranger's.
    """

    whole: Mapping[str, tuple[int, object]]
    ends: Mapping[str, tuple[int, object]]
    expressions: tuple[tuple[re.Pattern[str], tuple[int, object]], ...]

    @classmethod
    def of(cls, keys: Mapping[str, object]) -> _Pattern:
        whole: dict[str, tuple[int, object]] = {}
        ends: dict[str, tuple[int, object]] = {}
        expressions: list[tuple[re.Pattern[str], tuple[int, object]]] = []
        for position, (key, value) in enumerate(keys.items()):
            entry = (position, value)
            if re.fullmatch(r"\^?[\w.-]+", key):
                (whole if key.startswith("^") else ends)[key.removeprefix("^")] = entry
            elif len(expressions) < _EXPRESSIONS and (expression := _expression(key)):
                expressions.append((expression, entry))
            else:
                ends[key] = entry
        return cls(whole, ends, tuple(expressions))

    def find(self, path: str, default: object) -> object:
        if len(path) > _LONGEST_PATH:
            return default
        tails = [path, *(path[dot.end() :] for dot in re.finditer(r"\.", path))]
        found = [self.ends[tail] for tail in tails if tail in self.ends]
        found += [self.whole[path]] if path in self.whole else []
        found += [entry for expression, entry in self.expressions if expression.match(path)]
        return min(found, key=lambda entry: entry[0])[1] if found else default


def _expression(key: str) -> re.Pattern[str] | None:
    """What peft makes of a key, or None when it is no expression or not a simple one."""
    if re.search(r"[(){}]", key) or len(re.findall(r"[*+?]", key)) > _REPETITIONS:
        return None
    try:
        return re.compile(rf"(.*\.)?(?:{key})$")
    except (re.error, OverflowError):
        return None


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
        if key.endswith("_pattern") and isinstance(value, dict):
            value = _Pattern.of(cast("dict[str, object]", value))
        head, dot, tail = key.partition(".")
        if dot and head in _PREFIXES:
            parts.setdefault(head, {})[tail] = value
        else:
            parts.setdefault("", {})[key] = value
    return parts
