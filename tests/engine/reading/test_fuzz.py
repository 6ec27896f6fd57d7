"""Thousands of damaged files: each is refused with a sentence, or read exactly as the reference reader reads it."""

from __future__ import annotations

import itertools
import random
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fuzzing import frame, mutations, pack, repack
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file

FILES = 20_000

STRICTER_ON_PURPOSE = (
    "no header follows",  # blanks before the opening brace, which the format does not allow
    "number format that is not supported",  # complex numbers and formats below one byte
    "twice",  # the reference reader keeps the last of two entries of one name
    "claims to be larger",  # axes that fit no memory, next to an axis of 0
    "axes",
    "metadata is not a list",  # "__metadata__": null
    "nested too deeply",
    "contains the number",  # in fields that the reference reader ignores
    "number of endless length",  # the same, thousands of digits
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path_factory.mktemp("fuzz")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def seeds() -> list[bytes]:
    rng = random.Random(1)
    lora = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": ("F16", [4, 8], rng.randbytes(64)),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": ("F16", [6, 4], rng.randbytes(48)),
        "lora_unet_mid_block_attentions_0_proj_in.alpha": ("F16", [], rng.randbytes(2)),
    }
    every = {
        f"layer.{dtype}": (dtype, [2, 3], rng.randbytes(6 * size))
        for size, dtypes in ((8, ("F64", "I64", "U64")), (4, ("F32", "I32", "U32")), (2, ("BF16", "I16", "U16")))
        for dtype in dtypes
    }
    bytewise = {f"a.{dtype}": (dtype, [5], rng.randbytes(5)) for dtype in ("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")}
    empty = {"none": ("F32", [0, 4], b""), "one": ("F32", [1, 1, 1, 1], rng.randbytes(4))}
    return [
        repack(lora, {"ss_network_dim": "4", "ss_tag_frequency": '{"a": {"b": 1}}'}),
        repack({**every, **bytewise}),
        repack(empty, {}),
        pack({}, b""),
    ]


def outcome(path: Path) -> str:
    """Our reason for refusing the file, or "" when it was read; fails when the reference reader sees other numbers."""
    try:
        with open_tensor_file(path) as file:
            ours = {key: file.read(key) for key in file.specs}
            metadata = dict(file.metadata)
    except UnreadableAdapter as error:
        return error.reason
    with safe_open(path, framework="pt") as reference:
        assert set(reference.keys()) == set(ours)
        assert (reference.metadata() or {}) == metadata
        for key, tensor in ours.items():
            expected = reference.get_tensor(key)
            assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
            stored = expected.reshape(-1).view(torch.uint8)
            if tensor.dtype == torch.bool:
                stored = stored.ne(0).view(torch.uint8)  # a bool that is neither 0 nor 1 is mended while reading
            assert torch.equal(tensor.reshape(-1).view(torch.uint8), stored), key
    return ""


def reference_accepts(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as reference:
            for key in reference.keys():  # noqa: SIM118 (not a dict)
                reference.get_tensor(key)
    except Exception:  # it answers odd shapes with errors of several kinds
        return False
    return True


@pytest.mark.slow
def test_thousands_of_mutated_files_are_refused_or_read_as_the_reference_reads_them(workplace: Path) -> None:
    path = workplace / "mutated.safetensors"
    counts: Counter[str] = Counter()
    needlessly_refused: Counter[str] = Counter()
    files = seeds()
    for number, seed in enumerate(files):
        rng = random.Random(number)
        for content in itertools.islice(mutations(seed, rng), FILES // len(files)):
            path.write_bytes(content)
            reason = outcome(path)
            counts["refused" if reason else "read"] += 1
            if reason and reference_accepts(path) and not any(known in reason for known in STRICTER_ON_PURPOSE):
                needlessly_refused[reason] += 1
    assert counts.total() >= FILES >= 10_000
    # an eighth: an old torch lacks number formats and refuses more
    assert min(counts["read"], counts["refused"]) > FILES // 8, "the mutator no longer makes both kinds"
    assert not needlessly_refused


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BOOL", "U8", "C64"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 32), min_size=2, max_size=2) | json_values,
    }
)
documents = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), entries | json_values, max_size=3)


@settings(max_examples=200)
@given(document=documents, data=st.binary(max_size=32))
def test_any_json_object_as_a_header_is_refused_or_read_as_the_reference_reads_it(
    workplace: Path, document: dict[str, object], data: bytes
) -> None:
    path = workplace / "document.safetensors"
    path.write_bytes(pack(document, data))
    outcome(path)


@settings(max_examples=300)
@given(content=st.binary(max_size=64) | st.binary(max_size=64).map(lambda header: frame(header, b"")))
def test_any_bytes_are_refused_or_read_as_the_reference_reads_them(workplace: Path, content: bytes) -> None:
    path = workplace / "bytes.safetensors"
    path.write_bytes(content)
    outcome(path)


def length_bombs() -> Iterator[bytes]:
    """Small files that claim to be large."""
    for length in (2**24, 99_999_999, 2**32, 2**62, 2**64 - 1):
        yield length.to_bytes(8, "little") + b'{"a":'
    for size in (2**31, 2**40, 2**62, 10**18):
        yield pack({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, b"\0" * 16)
        yield pack({"a": {"dtype": "F64", "shape": [0, size, size], "data_offsets": [0, 0]}}, b"")
    yield pack({"a": {"dtype": "U8", "shape": [2**16] * 64, "data_offsets": [0, 0]}}, b"")


def test_small_files_that_claim_to_be_large_cost_no_memory(workplace: Path) -> None:
    path = workplace / "bomb.safetensors"
    for content in length_bombs():
        path.write_bytes(content)
        tracemalloc.start()
        try:
            assert outcome(path) != "", content[:80]
            assert tracemalloc.get_traced_memory()[1] < 2**20, content[:80]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"ab",', b'{"":0},', b"[" * 50 + b"]" * 50 + b","])
def test_a_header_of_millions_of_values_is_refused_before_they_are_made(workplace: Path, piece: bytes) -> None:
    path = workplace / "values.safetensors"
    size = 12_000_000
    path.write_bytes(frame(b'{"a":[' + piece * (size // len(piece)) + b"0]}", b""))
    tracemalloc.start()
    try:
        assert "more values than any network has" in outcome(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * size
    finally:
        tracemalloc.stop()
