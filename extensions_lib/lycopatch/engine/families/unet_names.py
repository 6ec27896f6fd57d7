"""What a U-Net's modules are called in original (ldm) names and in diffusers names, and the way from one to the other.

Source: the module trees of CompVis/Stability ``UNetModel`` and of diffusers ``UNet2DConditionModel``.
"""

from __future__ import annotations

from collections.abc import Iterator

from lycopatch.engine.families.unet_layout import Layout, Unit, units

LDM, DIFFUSERS = "ldm", "diffusers"

RESNET_MEMBERS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""ldm → diffusers, inside a residual block. The members of attention blocks are called the same in both."""

OUTER_MODULES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""ldm → diffusers, outside the blocks."""

CLASS_EMBEDDING = {"class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2"}
"""diffusers → ldm: what class-conditional models (unCLIP) have in place of ``add_embedding``."""


class Translator:
    """Call it with a module path of ``naming``: the other naming's path, or None where there is no rule."""

    def __init__(self, layout: Layout | None, naming: str) -> None:
        from_ldm = naming == LDM
        self._exact = dict(OUTER_MODULES) if from_ldm else {v: k for k, v in OUTER_MODULES.items()} | CLASS_EMBEDDING
        self._members = RESNET_MEMBERS if from_ldm else {v: k for k, v in RESNET_MEMBERS.items()}
        self._units: dict[str, tuple[Unit, str]] = {}
        for unit in units(layout) if layout else ():
            here, there = (unit.ldm, unit.diffusers) if from_ldm else (unit.diffusers, unit.ldm)
            if unit.kind == "conv":
                self._exact[here] = there
            else:
                self._units[here] = (unit, there)

    def __call__(self, module: str) -> str | None:
        exact = self._exact.get(module)
        if exact is not None:
            return exact
        for head, member in _cuts(module):
            found = self._units.get(head)
            if found is not None:
                unit, there = found
                renamed = member if unit.kind == "attention" else self._members.get(member)
                return f"{there}.{renamed}" if renamed else None
        return None


def _cuts(module: str) -> Iterator[tuple[str, str]]:
    """Yield (block, member) for the three places where a block's path may end: after 2, 3 or 4 segments."""
    at = module.find(".")
    for _ in range(3):
        at = module.find(".", at + 1)
        if at < 0:
            return
        yield module[:at], module[at + 1 :]
