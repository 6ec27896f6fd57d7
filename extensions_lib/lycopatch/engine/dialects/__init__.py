"""How each trainer spells a layer: the table of dialects. To add one, write its file and name its DIALECT here."""

from lycopatch.engine.dialects import (
    bare,
    cloneofsimo,
    comfy,
    diffusers,
    hcp,
    kohya,
    lycoris,
    onetrainer,
    peft,
)
from lycopatch.engine.dialects.base import Dialect

DIALECTS: tuple[Dialect, ...] = (
    kohya.DIALECT,
    lycoris.DIALECT,
    diffusers.DIALECT,
    peft.DIALECT,
    comfy.DIALECT,
    onetrainer.DIALECT,
    hcp.DIALECT,
    cloneofsimo.DIALECT,
    bare.DIALECT,
)
