"""Textual inversions that travel inside a network's file, known to a pipeline while the network is active.

The pipeline gets a copy of its tokenizer that knows the new tokens, and gets its own back afterwards. The table of
token embeddings stays as it is, in place and size: hooks put the vectors where the new tokens stand. So nothing has to
be undone in the weights, networks may patch the table meanwhile, and the text encoder never sees an id above that of
its end-of-text token, the highest one, by which CLIP configurations of old find the place of the pooled output.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lycopatch.engine.report import LoadedEmbedding

logger = logging.getLogger(__name__)

_ByName = Mapping[tuple[str, str], LoadedEmbedding]  # (path, name) → embedding
_Place = tuple[str, str]
"""The names of a text encoder and its tokenizer in a pipeline."""

_ENCODERS: dict[str, _Place] = {
    "clip_l": ("text_encoder", "tokenizer"),
    "clip_g": ("text_encoder_2", "tokenizer_2"),
    "t5": ("text_encoder_3", "tokenizer_3"),
}
_PLAIN = ("string_to_param.*", "emb_params", "embed")
"""Parts that do not say which encoder they are for: for models that have only one."""


class BundledEmbeddings:
    """The bundled textual inversions of one pipeline. Not for use while the pipeline runs."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._registered: list[LoadedEmbedding] = []
        self._refused: list[tuple[LoadedEmbedding, str]] = []
        self._undo: list[Callable[[], None]] = []
        self._extended: dict[str, Any] = {}

    def register(self, embeddings: Sequence[LoadedEmbedding]) -> list[tuple[LoadedEmbedding, str]]:
        """Make exactly these known; returns those that were left out, each with the reason (a clause)."""
        unique = {(each.path, each.name): each for each in embeddings}  # a network may be in a prompt twice
        known = {(each.path, each.name): each for each in (*self._registered, *(one for one, _ in self._refused))}
        in_place = all(getattr(self._pipe, name, None) is tokenizer for name, tokenizer in self._extended.items())
        if in_place and _same(unique, known):
            return self._refused
        self.remove()
        added: dict[_Place, dict[str, Tensor]] = {}
        for embedding in unique.values():
            reason = self._add(embedding, added)
            if reason is None:
                self._registered.append(embedding)
            else:
                self._refused.append((embedding, reason))
        for (encoder, tokenizer), vectors in added.items():
            self._extend(encoder, tokenizer, vectors)
        return self._refused

    def remove(self) -> None:
        """Give the pipeline its own tokenizers back and take the hooks away."""
        while self._undo:
            self._undo.pop()()
        self._registered, self._refused, self._extended = [], [], {}

    def _add(self, embedding: LoadedEmbedding, added: dict[_Place, dict[str, Tensor]]) -> str | None:
        """Sort an embedding's parts to their encoders, all or none of them; returns why it was none."""
        found: list[tuple[_Place, dict[str, Tensor]]] = []
        for part, tensor in embedding.tensors.items():
            place = self._place(part)
            if place is None or not hasattr(self._pipe, place[0]):
                return f'this pipeline has no text encoder for its part "{part}"'
            if getattr(self._pipe, place[0]) is None:
                continue  # left out of this pipeline on purpose, as people do with T5
            vectors = tensor.reshape(1, -1) if tensor.dim() < 2 else tensor
            reason = self._why_not(embedding.name, place, vectors, added.get(place, {}))
            if reason is not None:
                return reason
            found.append((place, dict(zip(_tokens(embedding.name, len(vectors)), vectors, strict=True))))
        if not found:
            return "this pipeline has none of the text encoders it is for"
        for place, tokens in found:
            added.setdefault(place, {}).update(tokens)
        return None

    def _place(self, part: str) -> _Place | None:
        if part not in _PLAIN:
            return _ENCODERS.get(part)
        present = [place for place in _ENCODERS.values() if getattr(self._pipe, place[0], None) is not None]
        return present[0] if len(present) == 1 else None

    def _why_not(self, name: str, place: _Place, vectors: Tensor, added: Mapping[str, Tensor]) -> str | None:
        encoder, tokenizer = getattr(self._pipe, place[0]), getattr(self._pipe, place[1], None)
        if tokenizer is None:
            return f"this pipeline has no {place[1]}"
        if _is_compiled(encoder):
            return f"the {place[0]} is compiled, and a compiled one takes no new tokens"
        width = encoder.get_input_embeddings().weight.shape[-1]
        if vectors.dim() != 2 or vectors.shape[-1] != width:
            return f"its vectors are {vectors.shape[-1]} wide, those of the {place[0]} {width}: another base model"
        if not bool(torch.isfinite(vectors.float()).all()):
            return "it holds numbers that are not finite"
        if len(vectors) > 1 and not hasattr(self._pipe, "maybe_convert_prompt"):
            return f"it has {len(vectors)} vectors, and a {type(self._pipe).__name__} takes one per word"
        known = tokenizer.get_vocab()
        taken = next((token for token in _tokens(name, len(vectors) + 1) if token in known or token in added), None)
        return None if taken is None else f'there is already a token "{taken}"'

    def _extend(self, encoder: str, tokenizer: str, vectors: Mapping[str, Tensor]) -> None:
        module, own = getattr(self._pipe, encoder), getattr(self._pipe, tokenizer)
        extended = copy.deepcopy(own)
        extended.add_tokens(list(vectors))
        size = len(extended)
        ids = {int(extended.convert_tokens_to_ids(token)): vector for token, vector in vectors.items()}
        special = {int(each) for each in own.all_special_ids}
        stand_in = next(each for each in range(len(own)) if each not in special)
        setattr(self._pipe, tokenizer, extended)
        self._extended[tokenizer] = extended

        def give_back() -> None:
            if getattr(self._pipe, tokenizer, None) is not extended:
                return  # somebody set another one meanwhile: theirs
            if len(extended) != size:
                logger.warning("Tokens that were added to %s while a network was active are gone again.", tokenizer)
            setattr(self._pipe, tokenizer, own)

        self._undo.append(give_back)
        # float32 holds every stored number, and a program may have set another default device
        rows = torch.stack([ids[each].float() for each in sorted(ids)])
        hooks = _Hooks(torch.tensor(sorted(ids), device="cpu"), rows, stand_in)
        self._undo.append(hooks.attach(module))


@dataclass(slots=True)
class _Hooks:
    """Replaces new ids on their way into a text encoder, and the looked-up vectors on their way out of its table."""

    ids: Tensor  # sorted, [n], on the CPU like the vectors
    vectors: Tensor  # [n, width]
    stand_in: int
    pending: Tensor | None = None
    handles: list[RemovableHandle] = field(default_factory=list[RemovableHandle])

    def attach(self, encoder: nn.Module) -> Callable[[], None]:
        """Returns what takes the hooks away."""
        self.handles.append(encoder.register_forward_pre_hook(self._enter, with_kwargs=True))
        for table in _tables(encoder):
            # also here, for programs that call a part of the encoder
            self.handles.append(table.register_forward_pre_hook(self._look_up, with_kwargs=True))
            self.handles.append(table.register_forward_hook(self._put))
        return self._detach

    def _detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.pending = None
        return self._look_up(module, args, kwargs)

    def _look_up(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = args[0] if args else kwargs.get("input_ids")
        if not isinstance(ids, Tensor) or ids.is_meta:
            return None
        new = torch.isin(ids, self.ids.to(ids.device))
        if not bool(new.any()):
            return None
        self.pending = ids
        cleaned = ids.masked_fill(new, self.stand_in)
        return ((cleaned, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": cleaned})

    def _put(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        ids, self.pending = self.pending, None
        if ids is None:
            return None
        ids = ids.to("cpu").reshape(output.shape[:-1])
        new = torch.isin(ids, self.ids)
        rows = self.vectors[torch.searchsorted(self.ids, ids[new])]
        output = output.clone()
        output[new.to(output.device)] = rows.to(device=output.device, dtype=output.dtype)
        return output


def _tables(encoder: nn.Module) -> Iterator[nn.Module]:
    """The token table, under every module that uses it (T5 has it twice)."""
    table: Any = encoder.get_input_embeddings()  # type: ignore[operator]
    for module in encoder.modules():
        if module is table or (isinstance(module, nn.Embedding) and module.weight is table.weight):
            yield module


def _tokens(name: str, count: int) -> list[str]:
    """The words of an embedding's vectors, as pipelines expand them: ``name``, ``name_1``, ``name_2`` …"""
    return [name, *(f"{name}_{number}" for number in range(1, count))]


def _is_compiled(module: nn.Module) -> bool:
    return any(
        hasattr(each, "_orig_mod") or each.__dict__.get("_compiled_call_impl") is not None
        for each in (module, *module.modules())
    )


def _same(some: _ByName, others: _ByName) -> bool:
    return some.keys() == others.keys() and all(
        some[key].tensors.keys() == others[key].tensors.keys()
        and all(torch.equal(some[key].tensors[part], others[key].tensors[part]) for part in some[key].tensors)
        for key in some
    )
