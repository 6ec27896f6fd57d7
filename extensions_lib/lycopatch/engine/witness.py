"""Notices when somebody else wrote to a tensor that holds networks: a merger, another loader, a reload we did not see.

A few numbers of each patched tensor are remembered as they were left. Comparing those of some tensors costs next to
nothing; only when one of them differs are all compared.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.ports import LiveModel

CORNER = 4
"""How many rows and columns of a tensor are remembered."""

SPOT_CHECK = 16
"""How many tensors are compared first."""


class Witness:
    """What the patched tensors of one model held when they were last written."""

    def __init__(self, model: LiveModel) -> None:
        self._model = model
        self._seen: dict[str, Tensor] = {}

    def note(self, names: Iterable[str]) -> None:
        """Remember exactly these tensors as they are now. What can not be reached is not watched."""
        corners = ((name, self._corner(name)) for name in names)
        self._seen = {name: corner for name, corner in corners if corner is not None}

    def changed(self) -> list[str]:
        """The tensors that hold other numbers than they were left with."""
        spots = list(self._seen)[:: max(1, len(self._seen) // SPOT_CHECK)]
        if not any(map(self._differs, spots)):
            return []
        return [name for name in self._seen if self._differs(name)]

    def _differs(self, name: str) -> bool:
        now = self._corner(name)
        return now is not None and not torch.equal(self._seen[name], now)

    def _corner(self, name: str) -> Tensor | None:
        """Some numbers of a tensor as bits, so that NaN equals itself; None while it is not in memory."""
        try:
            part = self._model.tensor(name)
        except UnknownModel:
            return None
        if part.is_meta:
            return None
        for axis in range(min(part.dim(), 2)):
            part = part.narrow(axis, 0, min(CORNER, part.shape[axis]))
        return part.to(device="cpu", dtype=torch.float32, copy=True).contiguous().view(torch.int32)
