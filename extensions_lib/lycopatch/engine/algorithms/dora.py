"""DoRA, the modifier that goes with any algorithm: ``W' = V ⊙ (magnitude / ‖V‖)``, ``V = W + ΔW``.

Sources: Liu et al. 2024 (arXiv:2402.09353); LyCORIS ``modules/locon.py``; peft ``tuners/lora/dora.py``; OneTrainer.
The norm is taken over everything but one axis: the out axis (``[out, 1, …]``: LyCORIS ≥ 3.2, peft, ai-toolkit) or the
in axis (``[1, in, …]``: LyCORIS ≤ 3.1, OneTrainer). It is the norm of V, not of W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lycopatch.engine.algorithms.base import Base
from lycopatch.engine.linalg import Delta, Dense
from lycopatch.engine.linalg import norm as norm_of


def kept_axis(magnitude: Sequence[int], shape: Sequence[int], *, peft: bool) -> int | None:
    """Which axis of a weight ``[out, in, …]`` the magnitude belongs to: 0 or 1; None when it fits neither.

    ``peft`` magnitudes are always the out axis, also as ``[1, out, 1, 1]``. A vector on a square layer is read as the
    in axis, as its writers of old meant it.
    """
    size = math.prod(magnitude)
    if peft:
        return 0 if size == shape[0] else None
    inputs = shape[1] if len(shape) > 1 else 1
    if len(magnitude) < 2:
        return 1 if size == inputs else 0 if size == shape[0] else None
    if magnitude[0] == shape[0] and size == shape[0]:
        return 0
    if magnitude[0] == 1 and magnitude[1] == inputs and size == inputs:
        return 1
    return None


def decompose(base: Base, delta: Delta, magnitude: Tensor, axis: int) -> Dense:
    """``W' − W`` at multiplier 1, multiplied out."""
    weight = base.weight()
    changed = weight.clone()
    delta.add_rows(changed, 0, 1.0)
    magnitude = magnitude.reshape(-1)
    if axis == 0:
        norm = norm_of(changed, (1,), keep=True)
        factor = torch.where(norm > 0, magnitude[:, None] / norm, torch.ones_like(norm))
        return Dense(changed.mul_(factor).sub_(weight))
    kernel = weight.shape[1] // magnitude.shape[0]
    view = changed.view(weight.shape[0], -1, kernel)
    norm = norm_of(view, (0, 2))
    factor = torch.where(norm > 0, magnitude / norm, torch.ones_like(norm))
    view.mul_(factor[None, :, None])
    return Dense(changed.sub_(weight))
