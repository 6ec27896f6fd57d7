"""Which base model a network was made for: from names and shapes, with the metadata as a second witness.

Each family's reference model is asked how many of the file's layers it has, by name and by size. Families that come
later are known by their names only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from lycopatch.engine.adapter import Adapter, AdapterLayer
from lycopatch.engine.families import FAMILIES
from lycopatch.engine.families.binding import references
from lycopatch.engine.families.identity import VARIANTS
from lycopatch.engine.families.layers import BoundLayer
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.types import Component

TITLES: Mapping[str, str] = {family.name: family.title for family in FAMILIES}

_SUBSETS = {"ssd1b": "sdxl"}
"""A family whose layers are all layers of another: what fits both is the larger one's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The family of a network, how sure that is (0 … 1), every family it fits as well, and why, in sentences."""

    family: str | None
    title: str
    confidence: float
    candidates: tuple[str, ...]
    evidence: tuple[str, ...]
    components: Mapping[Component, int]

    def allows(self, model_family: str) -> bool:
        """True when nothing speaks against using the network on a model of this family."""
        return model_family not in TITLES or self.family is None or model_family in self.candidates


@cache
def reference_indexes() -> Mapping[str, TargetIndex]:
    """The index of each family's reference model (half a second the first time)."""
    return {name: TargetIndex.of_model(model) for name, model in references().items()}


def recognise(adapter: Adapter) -> Verdict:
    """Judge a parsed file. Never raises; an empty file has no family and confidence 0."""
    if not adapter.layers:
        return Verdict(None, "nothing", 0.0, (), ("the file holds no layer of a network",), {})
    bound = {name: _bound(adapter.layers, index) for name, index in reference_indexes().items()}
    best = max(len(layers) for layers in bound.values())
    if best * 2 < len(adapter.layers) and (later := _later_family(adapter)):
        return later
    if best == 0:
        evidence = ("no layer fits any known base model by name and size",)
        return Verdict(None, "an unknown base model", 0.0, (), evidence, {})
    fitting = [name for name, layers in bound.items() if len(layers) == best]
    return _judge(adapter, fitting, bound)


def _bound(layers: Sequence[AdapterLayer], index: TargetIndex) -> list[tuple[AdapterLayer, BoundLayer]]:
    found: list[tuple[AdapterLayer, BoundLayer]] = []
    for layer in layers:
        for target in index.find(layer.name):
            if _fits(layer, target):
                found.append((layer, target))
                break
    return found


def _fits(layer: AdapterLayer, target: BoundLayer) -> bool:
    """True also for the first convolution of a variant, which reads more channels than the reference model's."""
    rows, *kernel = target.shape[:1] + target.shape[2:]
    variants = [(rows, channels, *kernel) for channels in VARIANTS] if target.is_first_convolution else []
    return any(layer.mismatch(shape) is None for shape in (target.shape, *variants))


def _judge(adapter: Adapter, fitting: list[str], bound: Mapping[str, list[tuple[AdapterLayer, BoundLayer]]]) -> Verdict:
    named = family_in_metadata(adapter.metadata)
    rivals = [name for name in fitting if _SUBSETS.get(name) not in fitting]
    chosen = named if named in fitting else rivals[0]
    layers = bound[chosen]
    share = len(layers) / len(adapter.layers)
    evidence = [*_widths(layers, chosen), f"{len(layers)} of {len(adapter.layers)} layers fit {TITLES[chosen]}"]
    if named in fitting:
        confidence = 0.99 * share
        evidence.append(f"the metadata say {TITLES[named]}")
    else:
        confidence = 0.95 * share / len(rivals)
        if named is not None:
            confidence *= 0.8
            evidence.append(f"the metadata say {TITLES.get(named, named)}, the shapes do not")
    title = TITLES[chosen]
    if len(rivals) > 1 and named not in fitting:
        title = " or ".join(TITLES[name] for name in rivals)
        evidence.append(f"these layers are the same in {' and '.join(TITLES[name] for name in rivals)}")
    components: Counter[Component] = Counter(target.component for _, target in layers)
    return Verdict(chosen, title, round(confidence, 3), tuple(fitting), tuple(evidence), dict(components))


def _widths(layers: Sequence[tuple[AdapterLayer, BoundLayer]], family: str) -> list[str]:
    """The widths that tell families apart, where the file's own shapes show them."""
    shown: dict[str, None] = {}
    for layer, target in layers:
        known = any(each.cols is not None or each.inputs is not None for each in layer.footprints)
        path = target.paths[0][1]
        if known and path.endswith(("attn2.to_k", "attn2.to_v")):
            shown[f"cross-attention width {target.shape[1]}: {TITLES[family]}"] = None
        elif target.component != "unet" and ".self_attn." in path and len(target.shape) == 2:
            which = {"te1": "text-encoder", "te2": "second text-encoder", "te3": "third text-encoder"}
            shown[f"{which[target.component]} width {target.shape[0]}: {TITLES[family]}"] = None
    return list(shown)


def family_in_metadata(metadata: Mapping[str, str]) -> str | None:
    """The family that a trainer wrote down, in the order in which its words can be trusted."""
    version = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    rules: tuple[tuple[bool, str], ...] = (
        (version.startswith("sdxl"), "sdxl"),
        (version.startswith("sd_v1"), "sd1"),
        (version.startswith("sd_v2"), "sd2"),
        (version.startswith("sd3"), "sd3"),
        (architecture.startswith("stable-diffusion-xl-v1-refiner"), "sdxl_refiner"),
        (architecture.startswith("stable-diffusion-xl"), "sdxl"),
        (architecture.startswith("stable-diffusion-v1"), "sd1"),
        (architecture.startswith("stable-diffusion-v2"), "sd2"),
        (architecture.startswith("stable-diffusion-3"), "sd3"),
        (metadata.get("ss_v2") == "True", "sd2"),
    )
    return next((family for says, family in rules if says), None)


_PREFIXES = (
    "lora_unet__",
    "lora_unet_",
    "lora_transformer_",
    "lora_transformer.",
    "lycoris_",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
)

_LATER: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("chroma", "Chroma", ("distilled_guidance_layer",), ("",)),
    ("flux", "Flux", ("double_blocks", "single_blocks", "single_transformer_blocks"), ("",)),
    ("krea2", "Krea 2", ("txtfusion", "blocks"), ("txtfusion", "attn_gate", "attn_wq", "attn_wk", "attn_wv")),
    ("qwen_image", "Qwen-Image", ("transformer_blocks",), ("img_mlp", "img_mod", "txt_mlp", "txt_mod", "attn_")),
    ("anima", "Anima", ("llm_adapter", "blocks"), ("llm_adapter", "_proj", "adaln_modulation")),
    ("wan", "Wan", ("blocks",), ("self_attn_", "cross_attn_", "ffn_")),
    ("lumina", "Lumina 2 or Z-Image", ("noise_refiner", "context_refiner"), ("",)),
    ("hunyuan_video", "HunyuanVideo", ("double_stream", "token_refiner"), ("",)),
    ("stable_cascade", "Stable Cascade", ("down_blocks", "up_blocks"), ("channelwise",)),
)
"""Families that come later: name, title, how a path begins (prefix off, dots as underscores), and what it contains."""


def _later_family(adapter: Adapter) -> Verdict | None:
    """The verdict for a file of a base model that can only be named; None when no layer has such a name."""
    text = ("lora_te", "text_encoder")
    paths = [_bare_path(layer.name) for layer in adapter.layers if not layer.name.startswith(text)]
    for family, title, heads, words in _LATER:
        hits = sum(path.startswith(heads) and any(word in path for word in words) for path in paths)
        if hits and hits * 4 >= len(paths):
            confidence = round(0.95 * hits / len(paths), 3)
            evidence = (f"{hits} of {len(paths)} layers have names of {title}", f"{title} can not be patched yet")
            return Verdict(family, title, confidence, (family,), evidence, {})
    return None


def _bare_path(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".", "_")
