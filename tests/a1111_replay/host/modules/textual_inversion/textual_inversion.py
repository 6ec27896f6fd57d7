"""The database of textual inversions: words of a prompt that stand for vectors."""

from __future__ import annotations

import os
from typing import Any

import safetensors.torch
import torch

from modules import _host, errors, hashes, shared


class Embedding:
    def __init__(self, vec: Any, name: str, step: int | None = None) -> None:
        self.vec = vec
        self.name = name
        self.step = step
        self.shape: int | None = None
        self.vectors = 0
        self.sd_checkpoint: str | None = None
        self.sd_checkpoint_name: str | None = None
        self.filename: str | None = None
        self.hash: str | None = None
        self.shorthash: str | None = None

    def set_hash(self, v: str) -> None:
        self.hash = v
        self.shorthash = v[:12]


def _from_data(data: dict, name: str, filename: str = "unknown", filepath: str | None = None) -> Embedding:
    """One vector per row; SDXL's files hold one tensor per text encoder."""
    if "clip_g" in data and "clip_l" in data:
        vec: Any = {"clip_g": data["clip_g"], "clip_l": data["clip_l"]}
        shape, vectors = data["clip_g"].shape[-1] + data["clip_l"].shape[-1], data["clip_g"].shape[0]
    else:
        tensors = data.get("string_to_param", data)
        vec = next(iter(tensors.values()))
        vec = vec.unsqueeze(0) if vec.dim() == 1 else vec
        shape, vectors = vec.shape[-1], vec.shape[0]
    embedding = Embedding(vec, name)
    embedding.shape, embedding.vectors = shape, vectors
    if filepath is not None:
        embedding.filename = filepath
        embedding.set_hash(hashes.sha256(filepath, "textual_inversion/" + name) or "")
    return embedding


if _host.at_least(7):
    create_embedding_from_data = _from_data


class EmbeddingDatabase:
    def __init__(self) -> None:
        self.ids_lookup: dict[int, list[tuple[list[int], Embedding]]] = {}
        self.word_embeddings: dict[str, Embedding] = {}
        self.skipped_embeddings: dict[str, Embedding] = {}
        self.expected_shape = -1
        self.embedding_dirs: dict[str, float | None] = {}

    def add_embedding_dir(self, path: str) -> None:
        self.embedding_dirs[path] = None

    def register_embedding(self, embedding: Embedding, model: Any) -> Any:
        return self.register_embedding_by_name(embedding, model, embedding.name)

    def register_embedding_by_name(self, embedding: Embedding | None, model: Any, name: str) -> Any:
        """With None in place of an embedding the name is forgotten."""
        ids = model.cond_stage_model.tokenize([name])[0]
        rest = [entry for entry in self.ids_lookup.get(ids[0], []) if entry[1].name != name]
        if embedding is not None:
            rest.append((ids, embedding))
            self.word_embeddings[name] = embedding
        else:
            self.word_embeddings.pop(name, None)
        self.ids_lookup[ids[0]] = sorted(rest, key=lambda entry: len(entry[0]), reverse=True)
        if not rest:
            del self.ids_lookup[ids[0]]
        return embedding

    def get_expected_shape(self) -> int:
        return shared.sd_model.cond_stage_model.encode_embedding_init_text(",", 1).shape[1]

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        """Read the folders anew when one of them changed: everything that was registered by others is forgotten."""
        now = {path: os.path.getmtime(path) if os.path.isdir(path) else None for path in self.embedding_dirs}
        if not force_reload and now == self.embedding_dirs:
            return
        self.ids_lookup.clear()
        self.word_embeddings.clear()
        self.skipped_embeddings.clear()
        self.expected_shape = self.get_expected_shape()
        for path in now:
            for file in sorted(os.listdir(path)) if os.path.isdir(path) else ():
                self._load(os.path.join(path, file))
        self.embedding_dirs = now

    def _load(self, path: str) -> None:
        name, extension = os.path.splitext(os.path.basename(path))
        try:
            if extension == ".safetensors":
                data = safetensors.torch.load_file(path)
            elif extension in (".pt", ".bin"):
                data = torch.load(path, map_location="cpu", weights_only=True)
            else:
                return
            embedding = _from_data(data, name, os.path.basename(path), path)
        except Exception:
            errors.report(f"Error loading embedding {path}", exc_info=True)
            return
        if self.expected_shape in (-1, embedding.shape):
            self.register_embedding(embedding, shared.sd_model)
        else:
            self.skipped_embeddings[name] = embedding

    def find_embedding_at_position(self, tokens: list[int], offset: int) -> tuple[Embedding | None, int | None]:
        for ids, embedding in self.ids_lookup.get(tokens[offset], ()):
            if tokens[offset : offset + len(ids)] == ids:
                return embedding, len(ids)
        return None, None
