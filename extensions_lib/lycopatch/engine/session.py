"""The two verbs a host calls: ``activate(requests)`` and ``deactivate()``, for one model.

A session is the model's only writer. Called with the same requests again it touches nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lycopatch.engine.adapter import Adapter, LoadedLayer, parse_adapter
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError, AdapterNotFound, UnreadableAdapter
from lycopatch.engine.originals import Checkpoint, Originals
from lycopatch.engine.patching import Patcher, Progress
from lycopatch.engine.planning import Contribution, LayerId, Wanted, plan
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.reading import TensorFile, open_tensor_file
from lycopatch.engine.recognise import TITLES, recognise
from lycopatch.engine.report import Issue, LoadedEmbedding, Report, TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex

KEYS_REMEMBERED = 200_000
"""How many keys of parsed headers a session keeps, the least recently used files leaving first (some 100 MB)."""

LAYERS_REMEMBERED = 100_000
"""Of how many layers a session remembers whether their numbers can be used."""


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


class Session:
    """Networks on one model. Thread-safe: one activation at a time."""

    def __init__(
        self,
        model: LiveModel,
        catalog: Catalog,
        *,
        checkpoint: Checkpoint | None = None,
        allow_pickle: bool = False,
        workers: int | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._catalog = catalog
        self._allow_pickle = allow_pickle
        self._cache = AdapterCache()
        self._broken: dict[LayerId, str] = {}
        self._finite: set[LayerId] = set()
        self.index = TargetIndex.of(model.shapes())
        self._originals = Originals(checkpoint)
        self._patcher = Patcher(model, self._originals, workers)

    @property
    def bytes_held(self) -> int:
        """Memory used for copies of originals."""
        return self._originals.bytes_held

    def activate(
        self, requests: Sequence[AdapterRequest], issues: Sequence[Issue] = (), progress: Progress | None = None
    ) -> Report:
        """Make exactly these networks active.

        Trouble with a name, a file or a layer is an ``Issue`` in the report and affects only itself. Raises only
        CheckpointChanged (nothing was written), or what ``progress`` raises (the model is pristine then).
        """
        started = time.perf_counter()
        with self._lock, ExitStack() as files:
            opened: dict[str, TensorFile] = {}
            resolved = [self._resolve(request, files, opened) for request in requests]
            report = Report(issues=list(issues))
            report.tags = self._apply(resolved, opened, report, progress)
            report.embeddings = [
                embedding
                for one, tag in zip(resolved, report.tags, strict=True)
                if isinstance(one, _Resolved) and not tag.failed
                for embedding in one.embeddings
            ]
            report.seconds = time.perf_counter() - started
            return report

    def deactivate(self) -> int:
        """Give every patched tensor its pristine values back, bit for bit; returns how many there were."""
        with self._lock:
            return self._patcher.restore_all()

    def forget(self) -> None:
        """The host loaded other weights into the same model: nothing of ours is in it any more."""
        with self._lock:
            self._patcher.forget()

    def _resolve(
        self, request: AdapterRequest, files: ExitStack, opened: dict[str, TensorFile]
    ) -> _Resolved | TagReport:
        """The parsed file of a request, or the report of why there is none."""
        path: Path | None = None
        try:
            path = self._catalog.find(request.name).path
            file = opened.get(str(path))
            if file is None:
                file = files.enter_context(open_tensor_file(path, allow_pickle=self._allow_pickle))
                opened[str(path)] = file
            adapter = self._cache.get(file)
            if adapter.not_a_network is not None:
                raise UnreadableAdapter(path, f"it is {adapter.not_a_network}.")
            return _Resolved(Wanted(request, adapter), tuple(_embeddings(adapter, file)))
        except AdapterError as error:
            return _failed(request, path, error)

    def _apply(
        self,
        resolved: Sequence[_Resolved | TagReport],
        opened: Mapping[str, TensorFile],
        report: Report,
        progress: Progress | None,
    ) -> list[TagReport]:
        """Plan and patch until nothing new turns out to be unusable; one tag report for each of ``resolved``."""

        def load(contribution: Contribution, device: torch.device, dtype: torch.dtype) -> LoadedLayer:
            layer_id = contribution.layer_id
            known = layer_id in self._finite
            loaded = contribution.layer.load(opened[layer_id[0]], device, dtype, known_finite=known)
            self._finite.add(layer_id)
            return loaded

        if len(self._finite) + len(self._broken) > LAYERS_REMEMBERED:
            self._finite.clear()
            self._broken.clear()
        unreadable: dict[Path, UnreadableAdapter] = {}
        while True:
            wanted = [
                one.wanted
                for one in resolved
                if isinstance(one, _Resolved) and one.wanted.adapter.path not in unreadable
            ]
            planned, tags = plan(wanted, self.index, self._broken)
            try:
                result = self._patcher.apply(planned, load, progress)
            except UnreadableAdapter as error:
                # A file vanished or was cut while it was read. The model is pristine again: do without that file.
                if error.path in unreadable or str(error.path) not in opened:
                    raise
                unreadable[error.path] = error
                continue
            report.tensors_written += result.written
            report.tensors_restored += result.restored
            report.tensors_active = len(planned)
            if not result.broken:
                break
            # Layers whose numbers can not be used are known only once they are read: plan again without them.
            self._broken.update(result.broken)
        for tag, one in zip(tags, wanted, strict=True):
            self._explain(tag, one.adapter)
        planned_tags = iter(tags)
        return [
            one
            if isinstance(one, TagReport)
            else _failed(one.wanted.request, path, unreadable[path])
            if (path := one.wanted.adapter.path) in unreadable
            else next(planned_tags)
            for one in resolved
        ]

    def _explain(self, tag: TagReport, adapter: Adapter) -> None:
        """Put the sentence that explains most in front: a network made for another base model."""
        ours = self.index.model
        if not adapter.layers:
            message = f'"{tag.name}" holds no layer that could be applied.'
            tag.issues.insert(0, Issue("empty", message, tag.tag, tag.path))
        elif tag.layers_applied * 2 > tag.layers_total:
            tag.family = ours.family
        else:
            verdict = recognise(adapter)
            tag.family = verdict.family
            if tag.layers_applied * 10 < tag.layers_total and verdict.family and not verdict.allows(ours.family):
                title = TITLES.get(ours.family, "another one")
                message = f'"{tag.name}" was made for {verdict.title}, the loaded model is {title}.'
                tag.issues.insert(0, Issue("other base model", message, tag.tag, tag.path))


@dataclass(frozen=True, slots=True)
class _Resolved:
    wanted: Wanted
    embeddings: tuple[LoadedEmbedding, ...]


def _failed(request: AdapterRequest, path: Path | None, error: AdapterError) -> TagReport:
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


def _embeddings(adapter: Adapter, file: TensorFile) -> Iterator[LoadedEmbedding]:
    """The textual inversions that travel inside a file, for the host to register while the network is active."""
    for embedding in adapter.embeddings:
        tensors = {part: file.read(key) for part, key in embedding.keys.items()}
        yield LoadedEmbedding(embedding.name, str(file.path), tensors)
