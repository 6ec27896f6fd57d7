"""The replacing of ``forward`` and ``_load_from_state_dict`` for every layer of the process."""

from __future__ import annotations

import torch
from modules import _host

import networks

CLASSES = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.MultiheadAttention)
SINCE_1_6 = (torch.nn.GroupNorm, torch.nn.LayerNorm)


def forward(original):
    def network_forward(self, *args, **kwargs):
        networks.network_apply_weights(self)
        return original()(self, *args, **kwargs)

    return network_forward


def load(original):
    def network_load_state_dict(self, *args, **kwargs):
        networks.network_reset_cached_weight(self)
        return original()(self, *args, **kwargs)

    return network_load_state_dict


FIELDS = (("forward", "forward", forward), ("_load_from_state_dict", "load_state_dict", load))


class LoraPatches:
    """Since 1.6: kept in ``modules.patches``, where the same key can not patch twice."""

    def __init__(self):
        from modules import patches

        for cls in CLASSES + SINCE_1_6:
            for field, word, make in FIELDS:
                name = f"{cls.__name__}_{word}"
                replacement = make(lambda name=name: getattr(self, name))
                setattr(self, name, patches.patch(__name__, cls, field, replacement))

    def undo(self):
        from modules import patches

        for cls in CLASSES + SINCE_1_6:
            for field, word, _ in FIELDS:
                setattr(self, f"{cls.__name__}_{word}", patches.undo(__name__, cls, field))


class PatchesOf15:
    """In 1.5 the originals lie on ``torch.nn`` and stay there."""

    def __init__(self):
        for cls in CLASSES:
            for field, word, make in FIELDS:
                name = f"{cls.__name__}_{word}_before_network"
                if not hasattr(torch.nn, name):
                    setattr(torch.nn, name, getattr(cls, field))
                setattr(cls, field, make(lambda name=name: getattr(torch.nn, name)))

    def undo(self):
        for cls in CLASSES:
            for field, word, _ in FIELDS:
                setattr(cls, field, getattr(torch.nn, f"{cls.__name__}_{word}_before_network"))


def install():
    return LoraPatches() if _host.at_least(6) else PatchesOf15()
