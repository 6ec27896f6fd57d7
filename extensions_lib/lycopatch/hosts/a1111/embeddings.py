"""Textual inversions that travel inside a network's file, known to the WebUI while the network is active.

The WebUI keeps its own in a database by name and by the token ids of the name. It empties that when it loads a model or
when somebody refreshes its page of embeddings; so ours are registered anew at each activation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lycopatch.engine.report import LoadedEmbedding
from lycopatch.engine.wording import shown
from lycopatch.hosts.a1111 import host_api

_MOST_VECTORS = 75
"""The places of one chunk of a prompt. The WebUI can not split an embedding between two of them, and fails."""

_LONGEST_NAME = 200
_UNSAFE = frozenset("<>&\"'`\\")
"""The WebUI's page of embeddings prints names as they are, in some releases."""


class BundledEmbeddings:
    """The bundled textual inversions in the WebUI's database. Not thread-safe; belongs to the active networks."""

    def __init__(self) -> None:
        self._added: list[Any] = []
        self._state: frozenset[tuple[str, bytes]] = frozenset()

    @property
    def state(self) -> Hashable:
        """What is registered: equal as long as the same names stand for the same vectors."""
        return self._state

    def register(self, embeddings: Sequence[LoadedEmbedding]) -> list[tuple[LoadedEmbedding, str]]:
        """Make exactly these known for the current model; returns those left out, each with the reason (a clause).

        An embedding of the user's own is never replaced.
        """
        self.remove()
        model = host_api.current_model()
        if model is None or not embeddings:
            return []
        tables = host_api.token_tables(model)
        refused: list[tuple[LoadedEmbedding, str]] = []
        added: set[tuple[str, bytes]] = set()
        # a network may be in a prompt twice
        for embedding in {(each.path, each.name): each for each in embeddings}.values():
            try:
                _check_name(embedding.name, model)
                vectors = _vectors(embedding.tensors, tables)
            except _Refused as refusal:
                refused.append((embedding, str(refusal)))
                continue
            entry = _entry(embedding, vectors)
            self._added.append(entry)
            host_api.embedding_database().register_embedding(entry, model)
            added.add((embedding.name, _digest(vectors)))
        self._state = frozenset(added)
        return refused

    def remove(self) -> None:
        """Take ours out of the database. Found by what they are and not by name, which may be the user's by now."""
        if not self._added:
            return
        database, ours = host_api.embedding_database(), {id(entry) for entry in self._added}
        for name, entry in list(database.word_embeddings.items()):
            if id(entry) in ours:
                del database.word_embeddings[name]
        for first, entries in list(database.ids_lookup.items()):
            kept = [known for known in entries if id(known[1]) not in ours]
            if not kept:
                del database.ids_lookup[first]
            elif len(kept) < len(entries):
                database.ids_lookup[first] = kept
        self._added, self._state = [], frozenset()


class _Refused(Exception):
    """Why an embedding is left out: a clause."""


def _check_name(name: str, model: Any) -> None:
    """Raise _Refused when a prompt can not name an embedding so, or names another one so."""
    if len(name) > _LONGEST_NAME or not name.isprintable() or _UNSAFE & set(name):
        raise _Refused("its name is none that a prompt could use")
    ids = host_api.tokens_of(model, name)
    if not ids:
        raise _Refused("its name is no text")
    database = host_api.embedding_database()
    # "Ink" and "ink" are the same to a text encoder
    same = [other.name for known, other in database.ids_lookup.get(ids[0], ()) if list(known) == ids]
    if same or name in database.word_embeddings:
        raise _Refused(f"there is already an embedding named {shown(same[0] if same else name)}")


def _vectors(parts: Mapping[str, Tensor], tables: Sequence[tuple[str | None, int]]) -> dict[str, Tensor]:
    """The parts that the model's tables take, ``[vectors, width]`` each. Raises _Refused when they do not fit."""
    tensors = {part: tensor.reshape(1, -1) if tensor.dim() < 2 else tensor for part, tensor in parts.items()}
    if len(tables) == 1 and len(tensors) == 1:
        return {part: _checked(tensor, tables[0][1]) for part, tensor in tensors.items()}
    if not tables or (len(tables) > 1 and any(wanted is None for wanted, _ in tables)):
        raise _Refused("this WebUI knows no embeddings for models like the one that is loaded")
    # The refiner has one of SDXL's two text encoders, and takes its part of an embedding for both.
    if any(wanted not in tensors for wanted, _ in tables) or (len(tables) == 1 and tables[0][0] != "clip_g"):
        listed = ", ".join(map(shown, parts))
        raise _Refused(f"it was made for another base model, as its parts {listed} are not those of the loaded one")
    fitting = {wanted: _checked(tensors[wanted], width) for wanted, width in tables if wanted is not None}
    if len({len(tensor) for tensor in fitting.values()}) > 1:
        raise _Refused("its parts have different numbers of vectors")
    return fitting


def _checked(tensor: Tensor, width: int) -> Tensor:
    if tensor.dim() != 2 or tensor.shape[1] != width:
        raise _Refused(f"its vectors are {tensor.shape[-1]} wide, the loaded model's {width}: another base model")
    if not 1 <= len(tensor) <= _MOST_VECTORS:
        raise _Refused(f"it has {len(tensor)} vectors, and a prompt takes 1 to {_MOST_VECTORS}")
    vectors = tensor.detach().to(dtype=torch.float32)
    if not bool(torch.isfinite(vectors).all()):
        raise _Refused("it holds numbers that are not finite")
    return vectors


def _entry(embedding: LoadedEmbedding, vectors: Mapping[str, Tensor]) -> Any:
    """What the database keeps: one tensor, or one for each text encoder."""
    placed = {part: tensor.to(host_api.compute_device()) for part, tensor in vectors.items()}
    some = next(iter(placed.values()))
    by_part = len(placed) > 1 or len(embedding.tensors) > 1
    entry = host_api.new_embedding(placed if by_part else some, embedding.name)
    entry.vectors = len(some)
    entry.shape = sum(tensor.shape[1] for tensor in placed.values())
    entry.filename = embedding.path  # the WebUI's page of embeddings fails where there is none
    if host_api.option("lora_bundled_ti_to_infotext", False):
        entry.shorthash = "".join(char for char in Path(embedding.path).stem if char not in ":,")
    return entry


def _digest(vectors: Mapping[str, Tensor]) -> bytes:
    return hashlib.sha256(b"".join(_bytes(vectors))).digest()


def _bytes(vectors: Mapping[str, Tensor]) -> Iterator[bytes]:
    for part, tensor in sorted(vectors.items()):
        yield f"{part} {tuple(tensor.shape)} ".encode()
        yield tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
