"""Wrapping the text encoders for the WebUI's own treatment of prompts, and unwrapping them before a load."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules import _host, _ldm, shared
from modules._sd_model import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder
from modules.textual_inversion import textual_inversion

current_optimizer = object()


class EmbeddingsWithFixes(nn.Module):
    """Looks up tokens, then puts the vectors of textual inversions where a prompt names one."""

    def __init__(self, wrapped: nn.Embedding, embeddings: StableDiffusionModelHijack, key: str = "clip_l") -> None:
        super().__init__()
        self.wrapped = wrapped
        self.embeddings = embeddings
        self.textual_inversion_key = key

    def forward(self, input_ids: Tensor) -> Tensor:
        found = self.wrapped(input_ids)
        fixes = self.embeddings.fixes
        self.embeddings.fixes = None
        for row, places in zip(found, fixes or (), strict=False):
            for offset, embedding in places:
                vec = embedding.vec[self.textual_inversion_key] if isinstance(embedding.vec, dict) else embedding.vec
                count = min(len(vec), len(row) - offset)
                row[offset : offset + count] = vec[:count].to(row.dtype)
        return found


class FrozenCLIPEmbedderWithCustomWords(nn.Module):
    """The wrapper: the encoder itself is ``wrapped``."""

    def __init__(self, wrapped: FrozenCLIPEmbedder, hijack: StableDiffusionModelHijack) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.hijack = hijack

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.wrapped.tokenize(texts)

    def encode_embedding_init_text(self, init_text: str, nvpt: int) -> Tensor:
        return _token_embedding(self.wrapped)[1].wrapped.weight[:nvpt]

    def forward(self, texts: list[str]) -> Tensor:
        rows, fixes = [], []
        for tokens in self.tokenize(texts):
            places = []
            for offset in range(len(tokens)):
                embedding, _ = self.hijack.embedding_db.find_embedding_at_position(tokens, offset)
                if embedding is not None:
                    places.append((offset, embedding))
            rows.append((tokens + [0] * _ldm.PLACES)[: _ldm.PLACES])
            fixes.append(places)
        self.hijack.fixes = fixes
        self._add_hashes({embedding.name: embedding for places in fixes for _, embedding in places})
        return self.wrapped.encode(torch.tensor(rows))

    def _add_hashes(self, used: dict[str, Any]) -> None:
        """ "TI hashes" of what this call used: in 1.5 instead of, later before what is there."""
        found = [f"{name.replace(':', '').replace(',', '')}: {used[name].shorthash}" for name in used]
        found = [pair for pair, name in zip(found, used, strict=True) if used[name].shorthash]
        params = self.hijack.extra_generation_params
        if found and shared.opts.textual_inversion_add_hashes_to_infotext:
            before = [params["TI hashes"]] if "TI hashes" in params and _host.at_least(6) else []
            params["TI hashes"] = ", ".join(found + before)


class FrozenOpenCLIPEmbedderWithCustomWords(FrozenCLIPEmbedderWithCustomWords):
    """The same around open_clip."""


def _token_embedding(embedder: Any) -> tuple[Any, Any]:
    """The module that has the token embedding, and the embedding."""
    owner = embedder.transformer.text_model.embeddings if hasattr(embedder, "transformer") else embedder.model
    return owner, owner.token_embedding


class StableDiffusionModelHijack:
    fixes: Any = None
    clip: Any = None

    def __init__(self) -> None:
        self.comments: list[str] = []
        self.extra_generation_params: dict[str, Any] = {}
        self.embedding_db = textual_inversion.EmbeddingDatabase()
        self.embedding_db.add_embedding_dir(shared.cmd_opts.embeddings_dir)

    def hijack(self, m: Any) -> None:
        conditioner = getattr(m, "conditioner", None)
        if conditioner is not None:
            for n, each in enumerate(conditioner.embedders):
                conditioner.embedders[n] = self._wrap(each, "clip_g" if hasattr(each, "model") else "clip_l")
            m.cond_stage_model = conditioner.embedders[0] if len(conditioner.embedders) == 1 else conditioner
        else:
            m.cond_stage_model = self._wrap(m.cond_stage_model)
        self.clip = m.cond_stage_model
        _host.log("hijack")

    def _wrap(self, embedder: Any, key: str = "clip_l") -> nn.Module:
        owner, embedding = _token_embedding(embedder)
        owner.token_embedding = EmbeddingsWithFixes(embedding, self, key)
        if isinstance(embedder, FrozenOpenCLIPEmbedder):
            return FrozenOpenCLIPEmbedderWithCustomWords(embedder, self)
        return FrozenCLIPEmbedderWithCustomWords(embedder, self)

    def undo_hijack(self, m: Any) -> None:
        conditioner = getattr(m, "conditioner", None)
        if conditioner is not None:
            for n, each in enumerate(conditioner.embedders):
                conditioner.embedders[n] = self._unwrap(each)
            if hasattr(m, "cond_stage_model"):
                del m.cond_stage_model
        else:
            m.cond_stage_model = self._unwrap(m.cond_stage_model)
        self.clip = None

    def _unwrap(self, embedder: Any) -> Any:
        if not isinstance(embedder, FrozenCLIPEmbedderWithCustomWords):
            return embedder
        owner, embedding = _token_embedding(embedder.wrapped)
        owner.token_embedding = embedding.wrapped
        return embedder.wrapped

    def redo_hijack(self, m: Any) -> None:
        self.undo_hijack(m)
        self.hijack(m)

    def clear_comments(self) -> None:
        self.comments = []
        self.extra_generation_params = {}


model_hijack = StableDiffusionModelHijack()
