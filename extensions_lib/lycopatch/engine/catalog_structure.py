"""What a file's names and shapes say on a card: algorithm, rank, base model, parts. Judged once for each structure."""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from lycopatch.engine.adapter import Adapter, AdapterLayer, parse_adapter
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.reading.header_only import DECISIVE, HeaderOnly
from lycopatch.engine.recognise import Verdict, family_in_metadata, recognise

T = TypeVar("T")

_TITLES = {"ia3": "(IA)³"}
_TEXT_ENCODERS = ("lora_te", "text_encoder", "te_", "te.")
_LARGEST_FACTOR = 128  # larger ones come of matrices that were split in no such way
_MOST_KEPT = 512


@dataclass(frozen=True, slots=True)
class Structure:
    """``kind``: the algorithm of most layers; ``families``: every base model that it fits; ``parts``: "unet+te" …"""

    kind: str | None
    label: str | None
    rank: int | None
    family: str | None
    family_title: str | None
    confidence: float
    families: tuple[str, ...]
    parts: str
    layers: int
    keys: int
    not_a_network: str | None


class Structures:
    """Files of the same names, shapes and number formats are judged once: most networks come from few trainers."""

    def __init__(self, most_kept: int = _MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._known: OrderedDict[object, Structure] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, file: TensorFile) -> Structure:
        """The structure of an open file. Raises UnreadableAdapter."""
        key = _key(file)
        with self._lock:
            if known := self._known.get(key):
                self._known.move_to_end(key)
                return known
        found = structure_of(parse_adapter(HeaderOnly(file)))
        with self._lock:
            self._known[key] = found
            while len(self._known) > self._most_kept:
                self._known.popitem(last=False)
        return found


def structure_of(adapter: Adapter) -> Structure:
    """Judge a parsed file."""
    verdict = recognise(adapter)
    reason = adapter.not_a_network
    if reason is None and not adapter.layers:
        reason = "no network: it holds no layer that could be applied"
    kind = _kind(adapter)
    rank = _most_common(layer.rank for layer in adapter.layers if layer.rank is not None)
    family = verdict.family if adapter.layers else None
    return Structure(
        kind=kind,
        label=_label(adapter, kind, rank),
        rank=rank,
        family=family,
        family_title=verdict.title if family else None,
        confidence=verdict.confidence,
        families=verdict.candidates,
        parts=_parts(adapter, verdict),
        layers=len(adapter.layers),
        keys=adapter.total_keys,
        not_a_network=reason,
    )


def with_rank(title: str, rank: int | None) -> str:
    """The badge of a network: "LoRA r32"."""
    return title if rank is None else f"{title} r{rank}"


def _key(file: TensorFile) -> object:
    """Equal for files that are judged equally: all that ``parse_adapter`` and ``recognise`` look at."""
    specs = hash(tuple((name, spec.dtype, spec.shape) for name, spec in file.specs.items()))
    numbers = [name for name, spec in file.specs.items() if name.endswith(DECISIVE) and spec.numel == 1]
    decisive = tuple(float(file.read(name)) for name in numbers)
    embeddings = frozenset(name for name, value in file.metadata.items() if value == "<embed>")
    return specs, len(file.specs), decisive, embeddings, family_in_metadata(file.metadata)


def _kind(adapter: Adapter) -> str | None:
    if not adapter.layers:
        return None
    if sum(_has_magnitude(layer) for layer in adapter.layers) * 2 > len(adapter.layers):
        return "dora"
    return _most_common(map(_algorithm, adapter.layers))


def _label(adapter: Adapter, kind: str | None, rank: int | None) -> str | None:
    plain = _most_common(map(_algorithm, adapter.layers))
    if plain is None:
        return None
    if plain == "lora":
        has_kernels = any(layer.algorithm_name == "LoCon" for layer in adapter.layers)
        return with_rank("DoRA" if kind == "dora" else "LoCon" if has_kernels else "LoRA", rank)
    if plain == "lokr":
        factor = _most_common(filter(None, map(_factor, adapter.layers)))
        label = f"LoKr f{factor}" if factor and factor <= _LARGEST_FACTOR else "LoKr"
    else:
        title = next(layer.algorithm_name for layer in adapter.layers if _algorithm(layer) == plain)
        label = with_rank(_TITLES.get(plain, title.partition(" (")[0]), rank)
    return f"{label} DoRA" if kind == "dora" else label


def _algorithm(layer: AdapterLayer) -> str:
    """``lora`` for LoRA and LoCon, ``glora`` for both trainers' GLoRA …"""
    name = re.sub(r"\W", "", layer.algorithm_name.partition(" (")[0]).lower()
    return "lora" if name == "locon" else name


def _has_magnitude(layer: AdapterLayer) -> bool:
    return "DoRA" in layer.modifiers


def _factor(layer: AdapterLayer) -> int | None:
    """The larger side of LoKr's small matrix, which the user chose as the factor."""
    whole, left, right = (layer.shapes.get(f"lokr_w1{part}") for part in ("", "_a", "_b"))
    if whole is not None and len(whole) >= 2:
        return max(whole[:2])
    return max(left[0], right[1]) if left and right and len(right) > 1 else None


def _parts(adapter: Adapter, verdict: Verdict) -> str:
    if verdict.components:
        has_unet, has_text = "unet" in verdict.components, any(part != "unet" for part in verdict.components)
    else:
        text = [layer.name.startswith(_TEXT_ENCODERS) for layer in adapter.layers]
        has_unet, has_text = not all(text), any(text)
    return "+".join(name for name, there in (("unet", has_unet), ("te", has_text)) if there)


def _most_common(values: Iterable[T]) -> T | None:
    return next((value for value, _ in Counter(values).most_common(1)), None)
