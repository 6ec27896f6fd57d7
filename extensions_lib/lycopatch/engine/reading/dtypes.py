"""Names of number formats: safetensors spells ``BF16``, torch spells ``torch.bfloat16``."""

from __future__ import annotations

import torch

_TORCH_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
# By name and looked up late: float8 came with torch 2.1, the unsigned integers with torch 2.3.


def torch_dtype(name: str) -> torch.dtype | None:
    """The torch dtype for a safetensors dtype name, or None when the installed torch has none."""
    found = getattr(torch, _TORCH_NAMES[name], None)
    return found if isinstance(found, torch.dtype) else None


def dtype_name(dtype: torch.dtype) -> str | None:
    """The safetensors name of a torch dtype, or None when this engine reads no such tensors (complex, quantised)."""
    wanted = str(dtype).removeprefix("torch.")
    return next((name for name, torch_name in _TORCH_NAMES.items() if torch_name == wanted), None)
