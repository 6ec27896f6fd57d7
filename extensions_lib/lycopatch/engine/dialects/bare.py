"""Names without any prefix: the model's own dotted paths.

Written by diffusers' first attention processors and by tools that save ``model.state_dict()`` of one model.
"""

from lycopatch.engine.dialects import cloneofsimo, comfy, diffusers, hcp, kohya, lycoris, onetrainer, peft
from lycopatch.engine.dialects.base import Dialect, dotted

_OTHERS = tuple(
    module.DIALECT for module in (kohya, lycoris, diffusers, peft, comfy, onetrainer, hcp, cloneofsimo)
)


def _owns(name: str) -> bool:
    return "." in name and not any(dialect.owns(name) for dialect in _OTHERS)


DIALECT = Dialect(
    name="bare",
    title="bare paths",
    owns=_owns,
    spell=dotted({"unet": ("",), "te1": ("",), "te2": ("",), "te3": ("",)}),
)
