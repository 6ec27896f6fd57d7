"""Names without any prefix: the model's own dotted paths.

Written by diffusers' first attention processors and by tools that save ``model.state_dict()`` of one model.
"""

from lycopatch.engine.dialects import cloneofsimo, comfy, diffusers, hcp, kohya, lycoris, onetrainer, peft
from lycopatch.engine.dialects.base import Dialect, dotted

_OTHERS = tuple(module.DIALECT for module in (kohya, lycoris, diffusers, peft, comfy, onetrainer, hcp, cloneofsimo))
# Layers of a U-Net, an MMDiT or a text encoder that lie at its top: their paths have no dot to be known by.
_TOP = frozenset("conv_in conv_norm_out conv_out context_embedder proj_out text_projection img_in txt_in".split())


def _owns(name: str) -> bool:
    return ("." in name or name in _TOP) and not any(dialect.owns(name) for dialect in _OTHERS)


DIALECT = Dialect(
    name="bare",
    title="bare paths",
    owns=_owns,
    spell=dotted({"unet": ("",), "te1": ("",), "te2": ("",), "te3": ("",)}),
)
