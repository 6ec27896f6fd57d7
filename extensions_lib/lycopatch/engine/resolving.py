"""Steps 2 to 5 for a whole prompt: requests → open, parsed files; and what people are told about each of them."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lycopatch.engine.adapter import Adapter, LoadedLayer, parse_adapter
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError, AdapterNotFound, UnreadableAdapter
from lycopatch.engine.planning import Contribution, Wanted
from lycopatch.engine.reading import TensorFile, open_tensor_file
from lycopatch.engine.recognise import TITLES, recognise
from lycopatch.engine.report import Issue, LoadedEmbedding, TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.wording import shown

KEYS_REMEMBERED = 200_000
"""How many keys of parsed headers are kept, the least recently used files leaving first (some 100 MB)."""


@dataclass(slots=True)
class AdapterCache:
    """Parsed files by path and fingerprint; bounded by the number of keys in them."""

    limit: int = KEYS_REMEMBERED
    _parsed: OrderedDict[Path, Adapter] = field(default_factory=OrderedDict[Path, Adapter])

    def get(self, file: TensorFile) -> Adapter:
        """The adapter of an open file, parsed when it is new or was written again."""
        known = self._parsed.get(file.path)
        if known is None or known.fingerprint != file.fingerprint:
            known = self._parsed[file.path] = parse_adapter(file)
        self._parsed.move_to_end(file.path)
        while len(self._parsed) > 1 and sum(entry.total_keys for entry in self._parsed.values()) > self.limit:
            self._parsed.popitem(last=False)
        return known


class OpenNetworks:
    """The files of one prompt, open for as long as the ``with`` block lasts."""

    def __init__(self, catalog: Catalog, cache: AdapterCache, *, allow_pickle: bool = False) -> None:
        self._catalog = catalog
        self._cache = cache
        self._allow_pickle = allow_pickle
        self._files: dict[Path, TensorFile] = {}
        self._embeddings: dict[Path, tuple[LoadedEmbedding, ...]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> OpenNetworks:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __contains__(self, path: Path) -> bool:
        return path in self._files

    @property
    def files(self) -> tuple[TensorFile, ...]:
        """What is open."""
        return tuple(self._files.values())

    def resolve(self, request: AdapterRequest) -> Wanted | TagReport:
        """The parsed file of a request, or the report of why there is none."""
        path: Path | None = None
        try:
            path = self._catalog.find(request.name).path
            if path not in self._files:
                file = open_tensor_file(path, allow_pickle=self._allow_pickle)
                self._files[path] = self._stack.enter_context(file)
            file = self._files[path]
            adapter = self._cache.get(file)
            if adapter.not_a_network is not None:
                raise UnreadableAdapter(path, f"it is {adapter.not_a_network}.")
            if path not in self._embeddings:
                self._embeddings[path] = tuple(
                    LoadedEmbedding(each.name, str(path), {part: file.read(key) for part, key in each.keys.items()})
                    for each in adapter.embeddings
                )
            return Wanted(request, adapter)
        except AdapterError as error:
            return failed_tag(request, path, error)

    def load(
        self, contribution: Contribution, device: torch.device, dtype: torch.dtype, *, known_finite: bool = False
    ) -> LoadedLayer:
        """Read the tensors of a layer of one of the files (``writing.Loader``)."""
        file = self._files[Path(contribution.layer_id[0])]
        return contribution.layer.load(file, device, dtype, known_finite=known_finite)

    def embeddings(self, adapter: Adapter) -> tuple[LoadedEmbedding, ...]:
        """The textual inversions that travel inside a resolved file."""
        return self._embeddings[adapter.path]


def failed_tag(request: AdapterRequest, path: Path | None, error: AdapterError) -> TagReport:
    """The report of a tag that brought no network."""
    report = TagReport(
        request.tag,
        request.name,
        str(path) if path else None,
        te_multiplier=request.te_multiplier,
        unet_multiplier=request.unet_multiplier,
        failed=True,
    )
    kind = "not found" if isinstance(error, AdapterNotFound) else "unreadable"
    report.issues.append(Issue(kind, str(error), request.tag, report.path))
    return report


def explain(tag: TagReport, adapter: Adapter, index: TargetIndex) -> None:
    """Name the family of a planned network, and put the sentence that explains most in front of its issues."""
    ours = index.model.family
    if not adapter.layers:
        if adapter.embeddings:
            return  # nothing but textual inversions, which the host registers
        message = f"{shown(tag.name)} holds no layer that could be applied."
        tag.issues.insert(0, Issue("empty", message, tag.tag, tag.path))
    elif tag.layers_applied * 2 > tag.layers_total:
        tag.family = ours  # it fits the model: no need to compare it with all others
    else:
        verdict = recognise(adapter)
        tag.family = verdict.family
        if tag.layers_applied * 10 < tag.layers_total and verdict.family and not verdict.allows(ours):
            title = TITLES.get(ours, "another one")
            message = f"{shown(tag.name)} was made for {verdict.title}, the loaded model is {title}."
            tag.issues.insert(0, Issue("other base model", message, tag.tag, tag.path))
