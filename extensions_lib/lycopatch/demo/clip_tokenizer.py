"""CLIP's tokenizer without a download: from a folder, or from the vocabulary that open_clip_torch carries.

No checkpoint holds the words its text encoders know. The package ships them as a list of merges, from which the
vocabulary follows: 256 characters that stand for bytes, the same at the end of a word, the merges, two marks.
Source: the vocabulary file and tokenizer of OpenAI's CLIP.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.wording import plain

WORDS = 77
"""Tokens in a prompt, the marks for its start and end included."""

PACKAGE, LIST = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49408 - 2 * 256 - 2  # the list goes on with merges that CLIP was trained without


@contextmanager
def tokenizer_folder(checkpoint: Path, named: Path | None) -> Iterator[Path]:
    """The folder to load a checkpoint's tokenizer from, for as long as the ``with`` block lasts.

    ``named``: the user's choice; else a folder "tokenizer" beside the checkpoint; else the installed package.
    Raises UnreadableAdapter when there is none.
    """
    if named is not None:
        if not _is_tokenizer(named):
            raise UnreadableAdapter(
                named, "a tokenizer's folder holds vocab.json and merges.txt, and these are missing."
            )
        yield named
        return
    beside = checkpoint.parent / "tokenizer"
    if _is_tokenizer(beside):
        yield beside
        return
    packed = packaged_list()
    if packed is None:
        reason = (
            "it does not hold the vocabulary of its text encoder. Install that with "
            "`pip install --no-deps open_clip_torch`, or name the folder of a CLIP tokenizer with --tokenizer."
        )
        raise UnreadableAdapter(checkpoint, reason)
    with tempfile.TemporaryDirectory(prefix="lycopatch-") as folder:
        write_tokenizer(Path(folder), read_merges(packed))
        yield Path(folder)


def load_tokenizer(folder: Path, vocabulary: int, **options: Any) -> Any:
    """A ``CLIPTokenizer`` for a text encoder that knows ``vocabulary`` tokens. Raises UnreadableAdapter."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise UnreadableAdapter(folder, f"its tokenizer is damaged ({plain(str(error))}).") from error
    if len(tokenizer) != vocabulary:
        reason = f"its tokenizer knows {len(tokenizer)} tokens, and the text encoder of the checkpoint {vocabulary}."
        raise UnreadableAdapter(folder, reason)
    tokenizer.model_max_length = min(tokenizer.model_max_length, WORDS)
    return tokenizer


def packaged_list() -> Path | None:
    """Where open_clip_torch keeps the merges. It is not imported: what it needs besides may well be missing."""
    found = importlib.util.find_spec(PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    return next((path for place in places or () if (path := Path(place) / LIST).is_file()), None)


def read_merges(packed: Path) -> list[str]:
    """The pairs of the list that CLIP uses, the most frequent first. Raises UnreadableAdapter."""
    try:
        with gzip.open(packed, "rt", encoding="utf-8") as lines:
            merges = [line.rstrip("\n") for _, line in zip(range(MERGES + 1), lines, strict=False)][1:]
    except (OSError, EOFError, ValueError) as error:
        raise UnreadableAdapter(packed, "the file is damaged. Install open_clip_torch again.") from error
    if len(merges) < MERGES or any(len(merge.split()) != 2 for merge in merges):
        raise UnreadableAdapter(packed, "it is not the list that CLIP uses. Install open_clip_torch again.")
    return merges


def write_tokenizer(folder: Path, merges: Sequence[str]) -> None:
    """Write what transformers loads a ``CLIPTokenizer`` from: vocab.json, merges.txt, tokenizer_config.json."""
    bytes_ = _byte_characters()
    tokens = [*bytes_, *(each + "</w>" for each in bytes_), *("".join(merge.split()) for merge in merges), START, END]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": WORDS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _byte_characters() -> list[str]:
    """A printable character for each byte: first those that stand for themselves, then from U+0100 on."""
    themselves = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(themselves)
    return [chr(code) for code in [*themselves, *range(256, 256 + others)]]


def _is_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )
