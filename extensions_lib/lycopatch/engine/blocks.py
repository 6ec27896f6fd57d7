"""The blocks of a model as people call them: IN05, MID, OUT03 in a U-Net, JOINT07 in an MMDiT, TE1.07 in an encoder.

The numbers of a U-Net are those of the original (ldm) names, which trainers' block weights use as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lycopatch.engine.families.layers import BoundLayer
from lycopatch.engine.types import COMPONENTS

_DENOISER = (
    (re.compile(r"input_blocks\.(\d+)\."), "IN{:02}"),
    (re.compile(r"middle_block\."), "MID"),
    (re.compile(r"output_blocks\.(\d+)\."), "OUT{:02}"),
    (re.compile(r"joint_blocks\.(\d+)\."), "JOINT{:02}"),
    (re.compile(r"out\.|final_layer\."), "LAST"),
    # diffusers names alone: models whose blocks are numbered in no known way
    (re.compile(r"down_blocks\.(\d+)\."), "DOWN{}"),
    (re.compile(r"mid_block\."), "MID"),
    (re.compile(r"up_blocks\.(\d+)\."), "UP{}"),
    (re.compile(r"transformer_blocks\.(\d+)\."), "JOINT{:02}"),
    (re.compile(r"conv_norm_out|conv_out|norm_out|proj_out"), "LAST"),
)
_ENCODER = re.compile(r"(?:^|\.)(?:layers|resblocks|block)\.(\d+)\.")
_FIRST_OF_ENCODER = re.compile(r"embed|shared")
_ORDER = ("FIRST", "IN", "DOWN", "MID", "JOINT", "OUT", "UP", "LAST")


def block_of(layer: BoundLayer) -> str:
    """The block a layer belongs to; FIRST and LAST are what comes before and after all numbered blocks."""
    paths = sorted(layer.paths, key=lambda pair: pair[0] != "ldm")
    if layer.component != "unet":
        return f"{layer.component.upper()}.{_place_in_encoder(path for _, path in paths)}"
    for _, path in paths:
        for pattern, title in _DENOISER:
            if found := pattern.match(path):
                return title.format(*map(int, found.groups()))
    return "FIRST"


def _place_in_encoder(paths: Iterable[str]) -> str:
    outer = "LAST"
    for path in paths:
        if found := _ENCODER.search(path):
            return f"{int(found[1]):02}"
        if _FIRST_OF_ENCODER.search(path):
            outer = "FIRST"
    return outer


def block_order(block: str) -> tuple[int, int, int]:
    """For sorting: the order in which data passes the blocks, the denoiser's before the text encoders'."""
    part, _, place = block.rpartition(".")
    component = COMPONENTS.index(part.lower()) if part.lower() in COMPONENTS else 0
    name = place.rstrip("0123456789") or "IN"
    number = place[len(place.rstrip("0123456789")) :]
    return component, _ORDER.index(name) if name in _ORDER else len(_ORDER), int(number or 0)
