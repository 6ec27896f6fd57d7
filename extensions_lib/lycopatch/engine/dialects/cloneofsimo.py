"""cloneofsimo's first LoRA tool: ``unet:{i}`` / ``text_encoder:{i}``, counted in the order the model was walked.

Source: cloneofsimo/lora ``lora_diffusion``. What ``i`` means depends on which classes were trained; the number of
pairs in the file tells: with GEGLU a U-Net block has nine layers, without it eight. A layer is named
``unet:{i}@{number of pairs}``. The middle block comes last, and CLIP's projections in the order in which transformers
creates them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lycopatch.engine.dialects.base import Dialect, LayerPaths

_ROOTS = ("unet", "text_encoder")
_ATTN1 = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_ATTN2 = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_WALKS = ((*_ATTN1, "ff.net.0.proj", *_ATTN2), (*_ATTN1, *_ATTN2))
_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")
_STAGES = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}


def positional_names(names: Iterable[str]) -> dict[str, str]:
    """``unet:{i}`` → ``unet:{i}@{pairs}`` for a file's layer names of this dialect."""
    own = {name for name in names if _owns(name) and "@" not in name}
    counts = {root: sum(name.startswith(f"{root}:") for name in own) for root in _ROOTS}
    return {name: f"{name}@{counts[name.partition(':')[0]]}" for name in own}


def _owns(name: str) -> bool:
    root, _, position = name.partition(":")
    return root in _ROOTS and position.partition("@")[0].isdecimal()


def _spell(layers: Sequence[LayerPaths]) -> Iterator[tuple[str, int]]:
    unet: dict[tuple[int, ...], dict[str, int]] = {}
    text: dict[int, dict[str, int]] = {}
    for index, layer in enumerate(layers):
        paths: Mapping[str, str] = dict(layer.paths)
        if layer.component == "unet" and ".transformer_blocks." in paths.get("diffusers", ""):
            position, _, inner = paths["diffusers"].partition(".transformer_blocks.")
            block, _, member = inner.partition(".")
            stage, *numbers = position.split(".")
            if stage in _STAGES:
                place = (_STAGES[stage], *(int(part) for part in numbers if part.isdecimal()), int(block))
                unet.setdefault(place, {})[member] = index
        elif layer.component == "te1" and ".self_attn." in paths.get("hf", ""):
            number, _, member = paths["hf"].partition(".layers.")[2].partition(".self_attn.")
            text.setdefault(int(number), {})[member] = index
    for walk in _WALKS:
        found = [unet[place][member] for place in sorted(unet) for member in walk if member in unet[place]]
        for position, index in enumerate(found):
            yield f"unet:{position}@{len(found)}", index
    found = [text[number][member] for number in sorted(text) for member in _CLIP if member in text[number]]
    # diffusers' SD2 encoder has one layer less than the checkpoint's: the last one is never used
    for total in {len(found), len(found) - len(_CLIP)}:
        for position, index in enumerate(found[: max(total, 0)]):
            yield f"text_encoder:{position}@{total}", index


DIALECT = Dialect(name="cloneofsimo", title="cloneofsimo", owns=_owns, spell=_spell)
