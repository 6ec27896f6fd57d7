"""Whole networks, damaged in every way, through the whole engine: a report, never an exception; an unharmed model.

Half of the files are damaged as bytes or as containers (``fuzzing.mutations``), half are sound containers whose keys,
shapes, number formats and numbers make no sense together. The seed of the random numbers is fixed: a failing file can
be made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fuzzing import DTYPE_BYTES, mutations, repack, unpack
from lycopatch.engine.dialects.suffixes import SUFFIXES
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.session import Session
from lycopatch.hosts.memory.models import DictModel
from networks import ALGORITHMS, Tensors, network
from random_models import copied, differing, layers_of, sd15

TOKENIZED = tuple(SUFFIXES)
Content = dict[str, tuple[str, list[int], bytes]]


@dataclass(frozen=True)
class OneFile:
    """A catalog of one file, whatever is asked for."""

    path: Path

    def find(self, name: str) -> OneFile:
        return self


@pytest.fixture(scope="module")
def pristine() -> dict[str, torch.Tensor]:
    return sd15(shrink=40)


def seeds(pristine: dict[str, torch.Tensor]) -> list[Tensors]:
    """A file of four layers per algorithm, and one file of all algorithms."""
    layers = layers_of(
        pristine,
        only=(
            "conv_in",
            "blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
            "0_attentions_0_proj_in",
            "layers_0_",
        ),
    )
    assert {len(shape) for shape in layers.values()} == {1, 2, 4}
    files = [network(layers, algorithm, seed=number) for number, algorithm in enumerate(ALGORITHMS)]
    mixed: Tensors = {}
    for number, (layer, algorithm) in enumerate(zip(layers_of(pristine).items(), ALGORITHMS, strict=False)):
        if ALGORITHMS[algorithm](layer[1], torch.Generator()):
            mixed |= network(dict([layer]), algorithm, seed=number)
    peft = {
        "base_model.model.vera_A": torch.randn(4, 64),
        "base_model.model.vera_B": torch.randn(64, 4),
    }
    for path in ("to_q", "to_k"):
        layer = f"base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.{path}"
        peft |= {f"{layer}.vera_lambda_b": torch.randn(8), f"{layer}.vera_lambda_d": torch.randn(4)}
        peft |= {f"{layer}.ia3_l": torch.randn(8, 1)} if path == "to_q" else {}
    return [*files, mixed, peft]


@pytest.mark.slow
def test_ten_thousand_damaged_networks_give_reports_and_leave_the_model_as_it_was(
    pristine: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = copied(pristine)
    path = tmp_path / "damaged.safetensors"
    session = Session(DictModel(model), OneFile(path), workers=1)  # type: ignore[arg-type]
    outcomes = {"applied": 0, "refused": 0, "skipped": 0}
    for number, content in enumerate(_damaged(pristine, 10_000)):
        path.write_bytes(content)
        (tag,) = session.activate([AdapterRequest("damaged", 0.8, 0.8, None, "<lora:damaged:0.8>")]).tags
        if tag.layers_total:
            outcomes["applied" if tag.layers_applied else "skipped"] += 1
            _keys_are_conserved(path, tag.keys)
        else:
            assert tag.issues, f"file {number} was left out without a sentence"
            outcomes["refused"] += 1
        session.deactivate()
        assert session.bytes_held == 0, f"file {number} left {session.bytes_held} bytes behind"
        if number % 50 == 0:
            assert not differing(model, pristine), f"one of the files up to {number}"
    assert not differing(model, pristine)
    assert min(outcomes.values()) > 100, outcomes


def _keys_are_conserved(path: Path, keys: dict) -> None:
    with open_tensor_file(path) as file:
        assert sorted(key for names in keys.values() for key in names) == sorted(file.specs)


def _damaged(pristine: dict[str, torch.Tensor], count: int) -> Iterator[bytes]:
    rng = random.Random(20)
    files = [save(file) for file in seeds(pristine)]
    of_bytes = [mutations(file, rng) for file in files]
    contents = [_content(file) for file in files]
    for number in range(count):
        if number % 3 == 0:
            yield next(of_bytes[number // 3 % len(files)])
        else:
            yield _senseless(dict(contents[number % len(files)]), rng)


# --- sound containers that make no sense ----------------------------------------------------------


def _content(file: bytes) -> Content:
    unpacked = unpack(file)
    assert unpacked is not None
    document, data = unpacked
    begins = {key: entry["data_offsets"] for key, entry in document.items() if key != "__metadata__"}
    return {key: (document[key]["dtype"], document[key]["shape"], data[a:b]) for key, (a, b) in begins.items()}


def _senseless(content: Content, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(content, rng)
    return repack(content)


def _pick(content: Content, rng: random.Random) -> str:
    return rng.choice(list(content))


def _layer(key: str) -> str:
    for suffix in sorted(TOKENIZED, key=len, reverse=True):
        if key.endswith("." + suffix):
            return key.removesuffix("." + suffix)
    return key


def _other_suffix(content: Content, rng: random.Random) -> None:
    key = _pick(content, rng)
    value = content.pop(key)
    content[f"{_layer(key)}.{rng.choice(TOKENIZED)}"] = value


def _one_more(content: Content, rng: random.Random) -> None:
    dtype = rng.choice(("F32", "F16", "I64", "BOOL", "F32"))
    shape = rng.choice(([], [1], [4], [8], [2, 5], [8, 8], [4, 8], [8, 4], [8, 4, 1, 1], [1, 8], [8, 1], [2, 2, 2]))
    content[f"{_layer(_pick(content, rng))}.{rng.choice(TOKENIZED)}"] = _random(dtype, shape, rng)


def _swap(content: Content, rng: random.Random) -> None:
    left, right = _pick(content, rng), _pick(content, rng)
    content[left], content[right] = content[right], content[left]


def _other_layer(content: Content, rng: random.Random) -> None:
    key, other = _pick(content, rng), _pick(content, rng)
    suffix = key.removeprefix(_layer(key))
    content[_layer(other) + suffix] = content[key]


def _drop(content: Content, rng: random.Random) -> None:
    if len(content) > 1:
        del content[_pick(content, rng)]


def _other_shape(content: Content, rng: random.Random) -> None:
    key = _pick(content, rng)
    dtype, shape, _ = content[key]
    shape = list(shape)
    change = rng.randrange(6)
    if change == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 8, 16))
    elif change == 1:
        shape.insert(rng.randrange(len(shape) + 1), rng.choice((1, 2)))
    elif change == 2 and shape:
        del shape[rng.randrange(len(shape))]
    elif change == 3:
        shape.reverse()
    elif change == 4:
        shape = []
    else:
        shape = [rng.choice((1, 2, 4, 8)) for _ in range(rng.randrange(6))]
    content[key] = _random(dtype, shape, rng)


def _other_dtype(content: Content, rng: random.Random) -> None:
    key = _pick(content, rng)
    content[key] = _random(rng.choice(list(DTYPE_BYTES)), content[key][1], rng)


def _all_of_another_dtype(content: Content, rng: random.Random) -> None:
    dtype = rng.choice(list(DTYPE_BYTES))
    for key, (_, shape, _) in content.items():
        content[key] = _random(dtype, shape, rng)


def _other_numbers(content: Content, rng: random.Random) -> None:
    key = _pick(content, rng)
    dtype, shape, old = content[key]
    byte = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80"))
    content[key] = dtype, shape, byte * len(old)


def _random(dtype: str, shape: list[int], rng: random.Random) -> tuple[str, list[int], bytes]:
    count = 1
    for size in shape:
        count *= size
    count = min(count, 1 << 16)
    if dtype in ("F32", "F16") and rng.random() < 0.8:
        values = torch.tensor([rng.gauss(0, 1) for _ in range(count)], dtype=_DTYPES[dtype])
        return dtype, shape, save({"x": values})[-count * DTYPE_BYTES[dtype] :] if count else b""
    return dtype, shape, rng.randbytes(count * DTYPE_BYTES[dtype])


_DTYPES = {"F32": torch.float32, "F16": torch.float16}

_CHANGES: tuple[Callable[[Content, random.Random], None], ...] = (
    _other_suffix, _other_suffix, _one_more, _one_more, _one_more, _swap, _other_layer, _drop, _other_shape,
    _other_shape, _other_shape, _other_dtype, _all_of_another_dtype, _other_numbers,
)  # fmt: skip
