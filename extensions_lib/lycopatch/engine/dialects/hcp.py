"""HCP-Diffusion: the dotted diffusers path and ``.___``; ``clip_B.`` and ``clip_bigG.`` for SDXL's encoders.

Source: HCP-Diffusion ``hcpdiff/tools/lora_convert.py``.
"""

from collections.abc import Iterator, Sequence

from lycopatch.engine.dialects.base import Dialect, LayerPaths, dotted

_bare = dotted({"unet": ("", "unet."), "te1": ("", "clip_B.", "TE."), "te2": ("", "clip_bigG.")})


def _spell(layers: Sequence[LayerPaths]) -> Iterator[tuple[str, int]]:
    for name, index in _bare(layers):
        yield f"{name}.___", index


DIALECT = Dialect(name="hcp", title="HCP-Diffusion", owns=lambda name: name.endswith(".___"), spell=_spell)
