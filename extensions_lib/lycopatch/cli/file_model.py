"""A checkpoint file as the engine's ``LiveModel``: each tensor is read when it is asked for, one is held."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lycopatch.engine.reading import TensorFile
from lycopatch.engine.reading.dtypes import torch_dtype
from lycopatch.engine.types import TensorSpec

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""What ``--dtype`` says → the safetensors name."""

_SCHEDULE = frozenset(
    (
        "betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod sigmas log_sigmas "
        "log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance "
        "posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 lvlb_weights"
    ).split()
)
"""Tables of the noise schedule. Sampling divides by their distance from 1, which fewer digits would make zero."""


def is_float(dtype: str) -> bool:
    return dtype.startswith(("F", "BF"))


def baked_specs(specs: Mapping[str, TensorSpec], dtype: str) -> dict[str, TensorSpec]:
    """The tensors of the result; ``dtype`` is keep, fp32, fp16 or bf16."""
    wanted = DTYPES.get(dtype)
    return {
        name: TensorSpec(wanted, spec.shape) if wanted and _converted(name, spec) else spec
        for name, spec in specs.items()
    }


def _converted(name: str, spec: TensorSpec) -> bool:
    return is_float(spec.dtype) and name.rpartition(".")[2] not in _SCHEDULE


class FileModel:
    """The tensors of ``file`` in the format to compute in: the stored one where it stays, else float32.

    So a baked number is rounded once, when it becomes one of the result's format.
    """

    def __init__(self, file: TensorFile, results: Mapping[str, TensorSpec]) -> None:
        self._file = file
        self._results = results
        self._name: str | None = None
        self._tensor = torch.empty(0)

    def hold(self, name: str) -> Tensor:
        """Read a tensor and keep it as the live one, which may be written to; the one before is let go."""
        self._tensor = torch.empty(0)
        self._tensor = self._read(name)
        self._name = name
        return self._tensor

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: spec.shape for name, spec in self._file.specs.items()}

    def tensor(self, name: str) -> Tensor:
        return self._tensor if name == self._name else self._read(name)

    def unrounded(self, name: str) -> Tensor | None:
        return None

    def compute_device(self, name: str) -> torch.device:
        return torch.device("cpu")

    def add_bias(self, name: str, weight: Tensor) -> bool:
        """Never: no program reads a tensor from a checkpoint that its model does not have."""
        return False

    def remove_bias(self, name: str) -> None:
        raise AssertionError("no bias was ever added")

    def _read(self, name: str) -> Tensor:
        stored, wanted = self._file.specs[name].dtype, self._results[name].dtype
        tensor = self._file.read(name)
        if stored == wanted or stored == "F64":
            return tensor
        return tensor.to(torch.float32)


def to_dtype(tensor: Tensor, dtype: str) -> Tensor:
    """The tensor in a safetensors format."""
    wanted = torch_dtype(dtype)
    assert wanted is not None, dtype
    return tensor.to(wanted)
