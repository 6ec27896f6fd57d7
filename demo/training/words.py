"""The demo's vocabulary, written in the two files that ``CLIPTokenizer`` reads.

Every word of the captions is one token; anything else a person types falls apart into letters, as in the real one.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from drawings import COLOURS, PLACES, SHAPES, SIZES
from transformers import CLIPTokenizer

LENGTH = 32
"""Tokens in a prompt, its start and end included."""

START, END = "<|startoftext|>", "<|endoftext|>"
STYLES = ("stripes", "striped", "outline", "outlined")
"""Words without a meaning to the base model: it sees them beside plain pictures. Adapters give them one."""

WORDS = (
    *("a", "an", "the", "on", "in", "at", "of", ",", "background", "centre", "picture"),
    *(*COLOURS, *SHAPES, *PLACES, *SIZES, *STYLES),
)


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt, and load them."""
    merges = learn_merges(WORDS)
    letters = list(_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, rules = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), "utf-8")
    rules.write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]), "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH, pad_token=END, local_files_only=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair encoding to its end: the most frequent pair is joined until every word is one piece."""
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in split for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_joined(word, best) for word in split]
    return merges


def _joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _letters() -> tuple[str, ...]:
    """A visible character for each byte, as GPT-2 and CLIP write them: those without one come after 255."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return tuple(chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256))
