"""Damaged and odd safetensors files, made from whole ones: the same seed and generator give the same files.

``mutations`` knows bytes and, where the seed is a safetensors file, its header: half of what it yields are broken
containers (flipped, cut, spliced, lying about lengths), half are containers that still open, with other names, shapes,
number formats or numbers in them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
ODD_NUMBERS: list[Any] = [
    -1, 0, 1, 2, 7, 8, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**48, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
    10**30, 0.5, 1.0, 1e300, True, False, None, "4", [], {},
]  # fmt: skip
ODD_TEXTS = ["", "F16", "f16", "F17", "F4", "C64", "__metadata__", "a\x00b", "\ud800", "名前", "x" * 300, "../a", "\n"]
SUFFIXES = [
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale", "hada_w1_a", "hada_w2_b", "lokr_w1",
    "lokr_w2", "oft_blocks", "diff", "diff_b", "weight", "w_norm", "a1.weight", "on_input", "scalar", "nonsense",
]  # fmt: skip

Document = dict[str, Any]


def pack(document: Document, data: bytes) -> bytes:
    """A safetensors file with this header, whatever it says, and this data."""
    return frame(json.dumps(document).encode("utf-8", "surrogatepass"), data)


def frame(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def unpack(file: bytes) -> tuple[Document, bytes] | None:
    """(header, data) of a safetensors file, or None for other bytes."""
    length = int.from_bytes(file[:8], "little")
    if length > len(file) - 8:
        return None
    try:
        document = json.loads(file[8 : 8 + length])
    except ValueError:
        return None
    return (document, file[8 + length :]) if isinstance(document, dict) else None


def repack(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    """A valid file from name → (dtype, shape, bytes)."""
    document: Document = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return pack(document, data)


def mutations(seed: bytes, rng: random.Random) -> Iterator[bytes]:
    """Endlessly many variants of the whole file ``seed``, most with one change, some with several."""
    parsed = unpack(seed)
    bytes_only = parsed is None or not _names(parsed[0])
    while True:
        if bytes_only or rng.random() < 0.4:
            yield _change_bytes(seed, rng)
            continue
        copy = unpack(seed)
        assert copy is not None
        made = rng.choice(_HEADER_CHANGES)(copy[0], copy[1], rng)
        yield _change_bytes(made, rng) if rng.random() < 0.1 else made


def _change_bytes(file: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        file = rng.choice(_BYTE_CHANGES)(file, rng)
    return file


# --- without knowing the format -------------------------------------------------------------------


def _flip(file: bytes, rng: random.Random) -> bytes:
    changed = bytearray(file)
    for _ in range(min(len(changed), rng.choice((1, 1, 2, 8)))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_header(file: bytes, rng: random.Random) -> bytes:
    """A printable character somewhere in the header, so that JSON survives more often."""
    end = min(len(file), 8 + int.from_bytes(file[:8], "little"))
    if end <= 8:
        return file
    position = rng.randrange(8, end)
    return file[:position] + rng.choice(b'0123456789-.,:[]{}"\\ eEuUfF_').to_bytes(1, "little") + file[position + 1 :]


def _cut(file: bytes, rng: random.Random) -> bytes:
    return file[: rng.randrange(len(file) + 1)] if rng.random() < 0.5 else file[: -rng.randint(1, 16)]


def _append(file: bytes, rng: random.Random) -> bytes:
    return file + rng.randbytes(rng.choice((1, 7, 8, 64)))


def _splice(file: bytes, rng: random.Random) -> bytes:
    """A piece of the file copied to, or over, another place; or a piece taken out."""
    begin, end = sorted((rng.randrange(len(file) + 1), rng.randrange(len(file) + 1)))
    piece = file[begin : min(end, begin + 200)]
    at = rng.randrange(len(file) + 1)
    kind = rng.randrange(3)
    if kind == 0:
        return file[:at] + piece + file[at:]
    if kind == 1:
        return file[:at] + piece + file[at + len(piece) :]
    return file[:begin] + file[begin + len(piece) :]


def _lie_about_length(file: bytes, rng: random.Random) -> bytes:
    true = int.from_bytes(file[:8], "little")
    lie = rng.choice((0, 1, 2, true - 1, true + 1, true // 2, len(file), len(file) - 8, 99_999_999, 100_000_001,
                      2**31, 2**32 + true, 2**63, 2**63 + true, 2**64 - 1, 2**64 - 8))  # fmt: skip
    return min(max(0, lie), 2**64 - 1).to_bytes(8, "little") + file[8:]


_BYTE_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _flip_header, _flip_header, _flip_header, _cut, _append, _splice, _splice, _lie_about_length,
)  # fmt: skip


# --- knowing the format: the container may stay whole ---------------------------------------------


def _names(document: Document) -> list[str]:
    return [name for name in document if name != "__metadata__"]


def _tensors(document: Document, data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for name in _names(document):
        begin, end = document[name]["data_offsets"]
        found[name] = (document[name]["dtype"], list(document[name]["shape"]), data[begin:end])
    return found


def _odd_dtype(document: Document, data: bytes, rng: random.Random) -> bytes:
    entry = document[rng.choice(_names(document))]
    entry["dtype"] = rng.choice([*DTYPE_BYTES, *DTYPE_BYTES, *ODD_TEXTS, *ODD_NUMBERS])
    return pack(document, data)


def _odd_shape(document: Document, data: bytes, rng: random.Random) -> bytes:
    entry = document[rng.choice(_names(document))]
    shape = entry["shape"]
    kind = rng.randrange(4)
    if kind == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice(ODD_NUMBERS)
    elif kind == 1:
        shape.insert(rng.randrange(len(shape) + 1), rng.choice(ODD_NUMBERS))
    elif kind == 2 and shape:
        del shape[rng.randrange(len(shape))]
    else:
        entry["shape"] = rng.choice([*ODD_NUMBERS, [0, 2**62, 2**62], [1] * 65, [2**32, 2**32], [[4, 8]]])
    return pack(document, data)


def _odd_offsets(document: Document, data: bytes, rng: random.Random) -> bytes:
    entry = document[rng.choice(_names(document))]
    offsets = entry["data_offsets"]
    kind = rng.randrange(5)
    if kind == 0:
        offsets[rng.randrange(2)] = rng.choice([*ODD_NUMBERS, len(data), len(data) + 1])
    elif kind == 1:
        offsets[rng.randrange(2)] += rng.choice((-8, -1, 1, 8))
    elif kind == 2:
        offsets.reverse()
    elif kind == 3:
        entry["data_offsets"] = rng.choice([*ODD_NUMBERS, [*offsets, 0], offsets[:1], [-8, 0]])
    else:
        entry["data_offsets"] = document[rng.choice(_names(document))]["data_offsets"]
    return pack(document, data)


def _odd_entry(document: Document, data: bytes, rng: random.Random) -> bytes:
    name = rng.choice(_names(document))
    kind = rng.randrange(5)
    if kind == 0:
        document[name] = rng.choice(ODD_NUMBERS)
    elif kind == 4:
        del document[name]  # its bytes stay: a hole
    elif kind == 1:
        del document[name][rng.choice(("dtype", "shape", "data_offsets"))]
    elif kind == 2:
        document[name]["extra"] = rng.choice([*ODD_NUMBERS[:-5], *ODD_TEXTS])
    else:
        document[rng.choice(ODD_TEXTS)] = document[name]
    return pack(document, data)


def _odd_metadata(document: Document, data: bytes, rng: random.Random) -> bytes:
    metadata = document.setdefault("__metadata__", {})
    kind = rng.randrange(3)
    if kind == 0:
        metadata[rng.choice(ODD_TEXTS)] = rng.choice(ODD_NUMBERS)
    elif kind == 1:
        metadata[rng.choice(ODD_TEXTS)] = rng.choice(ODD_TEXTS)
    else:
        document["__metadata__"] = rng.choice([*ODD_NUMBERS, "text", ["a"]])
    return pack(document, data)


def _odd_json(document: Document, data: bytes, rng: random.Random) -> bytes:
    """Header texts that are no JSON, almost JSON, or JSON that parsers disagree about."""
    text = json.dumps(document)
    name = json.dumps(rng.choice(_names(document)))
    whole = f"{text[:-1]}, {name}: {json.dumps(document[json.loads(name)])}}}"
    deep = rng.choice((50, 5000))
    odd = rng.choice((
        whole, text + " " * rng.randrange(40), " " + text, text + "\x00", "\ufeff" + text, text + text,
        text[:-1] + ",}", text.replace(": ", ":\t\n"), text.replace("[0,", "[-0,", 1), text.replace("[0,", "[00,", 1),
        text.replace("[0,", "[NaN,", 1), text.replace("[0,", "[0.0,", 1), text.replace("[0,", "[0e0,", 1),
        text.replace('"', "'"), text[:-1] + f', "deep": {"[" * deep}{"]" * deep}}}',
        text.replace('"dtype"', '"\\u0064type"', 1), text.replace('"shape"', '"shape": [], "shape"', 1),
        "[" + text + "]", "{}", "null", "{", "", text[:-1] + ', "\\ud83d": 1}', text[:-1] + f', "n": {"9" * 5000}}}',
    ))  # fmt: skip
    return frame(odd.encode("utf-8"), data)


def _reorder(document: Document, data: bytes, rng: random.Random) -> bytes:
    items = list(document.items())
    rng.shuffle(items)
    return pack(dict(items), data)


def _rename(document: Document, data: bytes, rng: random.Random) -> bytes:
    """Another suffix, another layer, a name with a bite taken out."""
    tensors = _tensors(document, data)
    old = rng.choice(list(tensors))
    kind = rng.randrange(4)
    if kind == 0:
        new = old.split(".", 1)[0] + "." + rng.choice(SUFFIXES)
    elif kind == 1:
        new = rng.choice(list(tensors)).split(".", 1)[0] + "." + old.split(".", 1)[-1]
    elif kind == 2:
        new = rng.choice(ODD_TEXTS[:1] + ODD_TEXTS[7:8] + ODD_TEXTS[9:])
    else:
        at = rng.randrange(len(old) + 1)
        new = old[:at] + old[at + rng.randint(1, 3) :]
    tensors[new] = tensors.pop(old)
    tensors.pop("__metadata__", None)
    return repack(tensors, document.get("__metadata__"))


def _reshape(document: Document, data: bytes, rng: random.Random) -> bytes:
    """The same bytes in another shape or number format: transposed, flattened, split, one axis more."""
    tensors = _tensors(document, data)
    name = rng.choice(list(tensors))
    dtype, shape, content = tensors[name]
    kind = rng.randrange(5)
    if kind == 0:
        shape.reverse()
    elif kind == 1:
        shape = [len(content) // DTYPE_BYTES[dtype]]
    elif kind == 2:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif kind == 3:
        even = [axis for axis, size in enumerate(shape) if size and size % 2 == 0]
        if even:
            axis = rng.choice(even)
            shape[axis : axis + 1] = [2, shape[axis] // 2]
    else:
        dtype = rng.choice([other for other, size in DTYPE_BYTES.items() if size == DTYPE_BYTES[dtype]])
    tensors[name] = (dtype, shape, content)
    return repack(tensors, document.get("__metadata__"))


def _resize(document: Document, data: bytes, rng: random.Random) -> bytes:
    """One axis longer, shorter or empty, with as many bytes as that needs."""
    tensors = _tensors(document, data)
    name = rng.choice(list(tensors))
    dtype, shape, content = tensors[name]
    if shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 5, 8, 64))
    elements = 1
    for size in shape:
        elements *= size
    needed = elements * DTYPE_BYTES[dtype]
    repeated = (content or b"\0") * (needed // max(1, len(content)) + 1)
    tensors[name] = (dtype, shape, repeated[:needed])
    return repack(tensors, document.get("__metadata__"))


def _drop_or_copy(document: Document, data: bytes, rng: random.Random) -> bytes:
    tensors = _tensors(document, data)
    name = rng.choice(list(tensors))
    if rng.random() < 0.5:
        del tensors[name]
    else:
        tensors[name.split(".", 1)[0] + "_copy." + name.split(".", 1)[-1]] = tensors[name]
    return repack(tensors, document.get("__metadata__"))


def _numbers(document: Document, data: bytes, rng: random.Random) -> bytes:
    """Other values of one tensor: all ones (NaN, −1, 255), zeros, noise."""
    tensors = _tensors(document, data)
    name = rng.choice(list(tensors))
    dtype, shape, content = tensors[name]
    size = len(content)
    tensors[name] = (dtype, shape, rng.choice((b"\xff" * size, b"\0" * size, rng.randbytes(size))))
    return repack(tensors, document.get("__metadata__"))


_HEADER_CHANGES: tuple[Callable[[Document, bytes, random.Random], bytes], ...] = (
    _odd_dtype, _odd_shape, _odd_offsets, _odd_offsets, _odd_entry, _odd_metadata, _odd_json, _odd_json,
    _reorder, _rename, _rename, _reshape, _resize, _drop_or_copy, _numbers,
)  # fmt: skip
