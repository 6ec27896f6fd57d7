"""The JSON header of a safetensors file: bytes → names, shapes, places, metadata; every claim of it checked.

Source: the format text of huggingface/safetensors. At least as strict as the reference reader, and on top of that:
no name twice, at most 16 axes, and limits on the number of values, so that a small file can not cost much memory.
As in the reference reader a metadata value that is not a string refuses the file (no writer can have made it, and a
silently changed value would be worse), and unknown fields beside dtype, shape and data_offsets are ignored.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from lycopatch.engine.types import DTYPE_BYTES, TensorSpec
from lycopatch.engine.wording import shown

MAX_HEADER_BYTES = 100_000_000
"""The reference reader's limit; only pictures embedded in the metadata ever come near it."""

_MAX_CONTAINERS = 2**19
_MAX_COMMAS = 2**21
# Counted in the raw text, strings included: cheap, and a real header (3 containers and 8 commas a tensor, a comma a
# training tag) stays far below. Without them 20 MB of "[],[],[]" would become a gigabyte of lists.

_MAX_AXES = 16
_MAX_ELEMENTS = 2**48
_MAX_OFFSET = 2**60
_MAX_DIGITS = 20
_ESCAPED_SURROGATE = re.compile(r"\\u[dD]")


class BadHeader(Exception):
    """The header breaks a rule; the text is the reason as a sentence for the person at the screen."""


@dataclass(frozen=True, slots=True)
class Header:
    """``specs`` in the order of the data; ``begins``: first byte of each tensor, counted from the data section."""

    specs: dict[str, TensorSpec]
    begins: dict[str, int]
    metadata: dict[str, str]
    data_bytes: int


def parse_header(raw: bytes) -> Header:
    """Check and unfold a header without its eight length bytes. Raises BadHeader.

    ``data_bytes`` of the result is what the tensors need together; comparing it with the file is the caller's part.
    """
    document = _parse_json(raw)
    metadata = _metadata(document.pop("__metadata__", {}))
    placed = sorted([_entry(name, entry) for name, entry in document.items()])  # names differ: no two are equal
    specs: dict[str, TensorSpec] = {}
    begins: dict[str, int] = {}
    expected = 0
    for begin, end, name, spec in placed:
        if begin != expected:
            problem = "overlaps the tensor before it" if begin < expected else "leaves a hole in the data before it"
            raise BadHeader(f"the file is damaged: tensor {shown(name)} {problem}.")
        expected = end
        specs[name] = spec
        begins[name] = begin
    return Header(specs, begins, metadata, expected)


def _parse_json(raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise BadHeader("it is not a safetensors file: its header does not start with a brace.")
    if raw.count(b"{") + raw.count(b"[") > _MAX_CONTAINERS or raw.count(b",") > _MAX_COMMAS:
        raise BadHeader("its header lists more values than any network has. The file is damaged or malicious.")
    # A Python function for each number is a third of the time, so only where it is needed: int() forgives "-0", and
    # before 3.10.7 it worked for hours on millions of digits.
    careful = b"-0" in raw or sys.version_info < (3, 10, 7)
    decoder = json.JSONDecoder(
        object_pairs_hook=_object,
        parse_int=_integer if careful else int,
        parse_float=_not_whole,
        parse_constant=_not_whole,
    )
    try:
        text = raw.decode("utf-8")
        document = decoder.decode(text)
        if _ESCAPED_SURROGATE.search(text):
            # Half of a surrogate pair passes the JSON parser, but is no character and can be stored nowhere.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise BadHeader("the file is damaged: its header is not valid UTF-8 text.") from None
    except RecursionError:
        raise BadHeader("the file is damaged or malicious: its header is nested too deeply.") from None
    except MemoryError:
        raise BadHeader("there is not enough memory for its header.") from None
    except json.JSONDecodeError as error:
        raise BadHeader(f"the file is damaged: its header is not valid JSON ({error}).") from None
    except ValueError:
        raise BadHeader("the file is damaged or malicious: its header contains a number of endless length.") from None
    return cast("dict[str, Any]", document)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise BadHeader(f"its header contains {shown(twice)} twice, and which one is meant can not be known.")
    return unique


def _integer(digits: str) -> int:
    if digits == "-0" or len(digits) > _MAX_DIGITS:
        _not_whole(digits)
    return int(digits)


def _not_whole(number: str) -> NoReturn:
    raise BadHeader(f"the file is damaged: its header contains the number {shown(number)}.")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadHeader("the file is damaged: its metadata is not a list of names and texts.")
    for key, content in cast("dict[str, Any]", value).items():
        if not isinstance(content, str):
            raise BadHeader(f"the value of {shown(key)} in its metadata is not a text. Save the file again without it.")
    return cast("dict[str, str]", value)


def _entry(name: str, entry: Any) -> tuple[int, int, str, TensorSpec]:
    """(begin, end, name, spec) of one tensor, after checking that the bytes are as many as dtype and shape say."""
    if type(entry) is not dict:
        raise _malformed(name, "has no dtype, shape and position")
    fields = cast("dict[str, Any]", entry)
    dtype = fields.get("dtype")
    if type(dtype) is not str:
        raise _malformed(name, "has no dtype")
    if dtype not in DTYPE_BYTES:
        raise BadHeader(f"tensor {shown(name)} is stored as {shown(dtype)}, a number format that is not supported.")
    begin, end = _offsets(name, fields.get("data_offsets"))
    shape = _shape(name, fields.get("shape"))
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    if needed != end - begin:
        raise _malformed(name, f"needs {needed} bytes for shape {list(shape)} in {dtype}, but has {end - begin}")
    return begin, end, name, TensorSpec(dtype, shape)


def _shape(name: str, axes: Any) -> tuple[int, ...]:
    if type(axes) is not list:
        raise _malformed(name, "has no shape")
    shape = tuple(cast("list[Any]", axes))
    if len(shape) > _MAX_AXES:
        raise _malformed(name, f"has {len(shape)} axes")
    elements = 1
    for axis in shape:
        # type() and not isinstance: true and false are integers in Python, and no sizes.
        if type(axis) is not int or axis < 0:
            raise _malformed(name, "has a shape that is not made of whole numbers")
        elements *= axis or 1
    if elements > _MAX_ELEMENTS:
        raise _malformed(name, "claims to be larger than any tensor can be")
    return shape


def _offsets(name: str, value: Any) -> tuple[int, int]:
    if type(value) is not list or len(cast("list[Any]", value)) != 2:
        raise _malformed(name, "has no beginning and end")
    begin, end = cast("list[Any]", value)
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= _MAX_OFFSET:
        raise _malformed(name, "has no valid beginning and end")
    return begin, end


def _malformed(name: str, problem: str) -> BadHeader:
    return BadHeader(f"the file is damaged: tensor {shown(name)} {problem}.")
