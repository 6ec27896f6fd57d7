"""Key lists of published files as files: names, dtypes and shapes are theirs, the numbers are invented.

A keyset is a gzipped table, one line per tensor: key, dtype (``?`` = not known), shape. ``KeysetFile`` looks like an
open network file to the engine, without a disk under it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lycopatch.engine.reading import TensorFile
from lycopatch.engine.types import Fingerprint, TensorSpec

KEYSETS = Path(__file__).parent / "keysets"


@cache
def read_keyset(name: str) -> Mapping[str, TensorSpec]:
    """``name`` below ``keysets/`` without its ending: ``sd1_kohya_lora_r4``, ``models/sd15_checkpoint``."""
    specs: dict[str, TensorSpec] = {}
    with gzip.open(KEYSETS / f"{name}.tsv.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            key, dtype, dims = line.rstrip("\n").split("\t")
            specs[key] = TensorSpec("F32" if dtype == "?" else dtype, tuple(map(int, dims.split(","))) if dims else ())
    return specs


def keyset_names(folder: str = "") -> list[str]:
    """Every keyset directly in ``folder``, sorted."""
    prefix = f"{folder}/" if folder else ""
    return sorted(prefix + path.name.removesuffix(".tsv.gz") for path in (KEYSETS / folder).glob("*.tsv.gz"))


def model_shapes(*names: str) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape of a model: keysets of ``models/``, each below the prefix in front of ``=`` if there is one.

    ``model_shapes("unet.=sd15_diffusers_unet", "text_encoder.=clip_l_transformers_te")``
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in names:
        prefix, _, name = entry.rpartition("=")
        shapes |= {prefix + key: spec.shape for key, spec in read_keyset(f"models/{name}").items()}
    return shapes


class KeysetFile(TensorFile):
    """An open file of the given tensors. ``values`` are those that matter; all others are seeded noise, alpha is 2."""

    def __init__(
        self,
        specs: Mapping[str, TensorSpec | tuple[int, ...]],
        metadata: Mapping[str, str] | None = None,
        values: Mapping[str, float | Tensor] | None = None,
        path: Path = Path("network.safetensors"),
    ) -> None:
        self.path = path
        self.fingerprint = Fingerprint(len(specs), 0)
        self.specs = {
            key: spec if isinstance(spec, TensorSpec) else TensorSpec("F32", spec) for key, spec in specs.items()
        }
        self.metadata = dict(metadata or {})
        self.data_start = 0
        self._values = dict(values or {})

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _fill(self, key: str, start: int, out: Tensor) -> None:
        value = self._values.get(key)
        if value is None and key.endswith(".alpha"):
            value = 2.0
        if value is None and key.endswith((".on_input", "scaled_oft")):
            value = float(key.endswith("scaled_oft"))
        if value is None:
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            value = torch.randn(self.specs[key].numel, generator=generator) * 0.1
        if isinstance(value, Tensor):
            out.copy_(value.reshape(-1)[start : start + out.numel()])
        else:
            out.fill_(value)


def keyset_file(name: str, metadata: Mapping[str, str] | None = None) -> KeysetFile:
    """A keyset as an open file."""
    return KeysetFile(read_keyset(name), metadata, path=Path(f"{name}.safetensors"))
