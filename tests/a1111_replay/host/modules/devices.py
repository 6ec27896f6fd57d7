"""Devices, number types, and the two ways in which layers compute in another type than they are stored in.

There is no graphics card here: for CUDA's autocast stands the CPU's, in bfloat16, so that what is computed under it is
as visibly rounded as there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from modules import _host

cpu = torch.device("cpu")
device = cpu
dtype = torch.float16 if _host.current.half else torch.float32
dtype_vae = torch.float32
dtype_unet = dtype
dtype_inference = dtype
unet_needs_upcast = False
fp8 = False
force_fp16 = False

PATCHED = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.MultiheadAttention, torch.nn.GroupNorm, torch.nn.LayerNorm)


@contextlib.contextmanager
def manual_cast(target: torch.dtype) -> Iterator[None]:
    """For as long as it lasts, ``forward`` of these classes is replaced; at its end it is what it was at its begin."""
    before = {cls: cls.forward for cls in PATCHED}
    for cls, original in before.items():
        cls.forward = _casting(original, target)
    try:
        yield
    finally:
        for cls, original in before.items():
            cls.forward = original


def _casting(original: Any, target: torch.dtype) -> Any:
    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        stored = next(self.parameters()).dtype
        args = tuple(arg.to(target) if isinstance(arg, torch.Tensor) else arg for arg in args)
        if stored != target:
            self.to(target)
        try:
            return original(self, *args, **kwargs)
        finally:
            if stored != target:
                self.to(stored)

    return forward


def autocast(disable: bool = False) -> Any:
    if disable or (dtype == torch.float32 and not fp8):
        return contextlib.nullcontext()
    if _host.current.manual_cast:
        return manual_cast(torch.float32)
    return torch.autocast("cpu", dtype=torch.bfloat16)


def without_autocast(disable: bool = False) -> Any:
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_cpu_enabled() else contextlib.nullcontext()


def torch_gc() -> None: ...


def cond_cast_unet(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
