"""The two verbs a host calls: ``activate(requests)`` and ``deactivate()``, for one model.

A session is the model's only writer. Called with the same requests again it touches nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Hashable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from lycopatch.engine.adapter import LoadedLayer
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.dry_run import MEASURING_SECONDS, DryRun, Pace, Rehearsal
from lycopatch.engine.errors import UnknownModel, UnreadableAdapter
from lycopatch.engine.influence import Influence, OriginalWeights, influence_of
from lycopatch.engine.originals import Checkpoint, Originals
from lycopatch.engine.patching import Patcher, Progress
from lycopatch.engine.planning import Contribution, LayerId, Wanted, plan
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.resolving import AdapterCache, OpenNetworks, explain, failed_tag
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.witness import Witness

LAYERS_REMEMBERED = 100_000
"""Of how many layers a session remembers whether their numbers can be used."""


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
        self._norms: dict[str, float] = {}
        self.index = TargetIndex.of(model.shapes())
        self._originals = Originals(checkpoint)
        self._patcher = Patcher(model, self._originals, workers)
        self._witness = Witness(model)
        self._pace = Pace()

    @property
    def bytes_held(self) -> int:
        """Memory used for copies of originals."""
        return self._originals.bytes_held

    def activate(
        self, requests: Sequence[AdapterRequest], issues: Sequence[Issue] = (), progress: Progress | None = None
    ) -> Report:
        """Make exactly these networks active.

        Trouble with a name, a file or a layer is an ``Issue`` in the report and affects only itself. Raises
        CheckpointChanged or UnknownModel when the model itself is the trouble (nothing was written), and what
        ``progress`` raises (the model is pristine then).
        """
        started = time.perf_counter()
        with self._lock, OpenNetworks(self._catalog, self._cache, allow_pickle=self._allow_pickle) as networks:
            resolved = [networks.resolve(request) for request in requests]
            report = Report(issues=[*issues, *self._yield_to_others()])
            try:
                report.tags = self._apply(resolved, networks, report, progress)
            except BaseException:
                self._witness.note(self._patcher.applied)  # nothing, or what there was if nothing was written
                raise
            try:
                self._witness.note(self._patcher.applied)
            except BaseException:
                self._witness.note(())
                self._patcher.restore_all()
                raise
            for one, tag in zip(resolved, report.tags, strict=True):
                if isinstance(one, Wanted) and not tag.failed:
                    report.embeddings.extend(networks.embeddings(one.adapter))
            report.seconds = time.perf_counter() - started
            return report

    def dry_run(
        self,
        requests: Sequence[AdapterRequest],
        issues: Sequence[Issue] = (),
        progress: Progress | None = None,
        catalog: Catalog | None = None,
    ) -> DryRun:
        """What ``activate`` would do, how the networks get along, and what it would cost. Changes nothing.

        ``progress`` is told while networks are compared; what it raises ends that. ``catalog``: where to look for the
        networks instead. An activation does not wait for the comparison.
        """
        rehearsal = Rehearsal(self.index, self._patcher, self._pace, self._lock)
        with OpenNetworks(catalog or self._catalog, self._cache, allow_pickle=self._allow_pickle) as networks:
            found = rehearsal.run(networks, requests, self._broken, progress, MEASURING_SECONDS)
        found.issues.extend(issues)
        return found

    def deactivate(self) -> int:
        """Give every patched tensor its pristine values back, bit for bit; returns how many there were."""
        with self._lock:
            self._yield_to_others()
            self._witness.note(())
            return self._patcher.restore_all()

    def forget(self) -> None:
        """The host loaded other weights into the same model: nothing of ours is in it any more."""
        with self._lock:
            self._witness.note(())
            self._weights_are_others()
            self._patcher.forget()

    def close(self) -> int:
        """Deactivate, for good: what still measures a network on these weights ends."""
        with self._lock:
            self._weights_are_others()
            return self.deactivate()

    def influence(self, path: Path, progress: Progress | None = None) -> Influence:
        """Where the network of a file acts, measured on the original weights, whatever is active now.

        Takes seconds; activations go on meanwhile. What ``progress`` raises ends it. Raises UnreadableAdapter, and
        UnknownModel or CheckpointChanged when the model can not be read, or gets other weights meanwhile.
        """
        with open_tensor_file(path, allow_pickle=self._allow_pickle) as file:
            with self._lock:
                adapter = self._cache.get(file)
                weights = OriginalWeights(
                    self._patcher.model, self._originals, partial(self._reading, self._norms), self._norms
                )
            return influence_of(adapter, file, self.index, weights, progress)

    def match(self, path: Path) -> TagReport:
        """What an activation would say of a file, from its header alone. Raises UnreadableAdapter."""
        with self._lock, open_tensor_file(path, allow_pickle=self._allow_pickle) as file:
            adapter = self._cache.get(file)
            request = AdapterRequest(path.stem, 1.0, 1.0, None, f"<lora:{path.stem}:1>")
            _, (tag,) = plan([Wanted(request, adapter)], self.index, self._broken)
            explain(tag, adapter, self.index)
            return tag

    @contextmanager
    def _reading(self, norms: object) -> Generator[None]:
        """While it lasts, nobody writes the model. Raises UnknownModel when it has other weights than at the start."""
        with self._lock:
            if norms is not self._norms:
                raise UnknownModel("its weights were replaced while a network was measured; ask again")
            with self._originals.steady():
                yield

    def _weights_are_others(self) -> None:
        self._norms = {}

    def text_encoder_state(self) -> Hashable:
        """What networks do to the text encoders now: equal for equal numbers, whatever the prompt said."""
        with self._lock:
            return self._patcher.text_encoder_patches()

    def _yield_to_others(self) -> list[Issue]:
        """Tensors that somebody else wrote are theirs: what they hold now counts as the original."""
        changed = self._witness.changed()
        if not changed:
            return []
        self._patcher.release(changed)
        self._weights_are_others()
        count = "1 weight" if len(changed) == 1 else f"{len(changed)} weights"
        message = (
            f"Something else changed {count} of the model while networks were active, for example {changed[0]}; "
            "what is there now counts as the original. Load the checkpoint again to be rid of it."
        )
        return [Issue("changed by others", message)]

    def _apply(
        self,
        resolved: Sequence[Wanted | TagReport],
        networks: OpenNetworks,
        report: Report,
        progress: Progress | None,
    ) -> list[TagReport]:
        """Plan and patch until nothing new turns out to be unusable; one tag report for each of ``resolved``."""

        def load(contribution: Contribution, device: torch.device, dtype: torch.dtype) -> LoadedLayer:
            known = contribution.layer_id in self._finite
            loaded = networks.load(contribution, device, dtype, known_finite=known)
            self._finite.add(contribution.layer_id)
            return loaded

        if len(self._finite) + len(self._broken) > LAYERS_REMEMBERED:
            self._finite.clear()
            self._broken.clear()
        unreadable: dict[Path, UnreadableAdapter] = {}
        while True:
            wanted = [one for one in resolved if isinstance(one, Wanted) and one.adapter.path not in unreadable]
            planned, tags = plan(wanted, self.index, self._broken)
            started = time.perf_counter()
            try:
                result = self._patcher.apply(planned, load, progress)
            except UnreadableAdapter as error:
                # A file vanished or was cut while it was read. The model is pristine again: do without that file.
                if error.path in unreadable or error.path not in networks:
                    raise
                unreadable[error.path] = error
                continue
            self._pace.learn(result.work, time.perf_counter() - started)
            report.tensors_written += result.written
            report.tensors_restored += result.restored
            report.tensors_active = len(planned)
            if not result.broken:
                break
            # Layers whose numbers can not be used are known only once they are read: plan again without them.
            self._broken.update(result.broken)
        for tag, one in zip(tags, wanted, strict=True):
            explain(tag, one.adapter, self.index)
        return _in_order(resolved, tags, unreadable)


def _in_order(
    resolved: Sequence[Wanted | TagReport], planned: Sequence[TagReport], unreadable: dict[Path, UnreadableAdapter]
) -> list[TagReport]:
    """One report per request, in prompt order: of what was planned, and of what never got so far."""
    remaining = iter(planned)
    tags: list[TagReport] = []
    for one in resolved:
        if isinstance(one, TagReport):
            tags.append(one)
        elif error := unreadable.get(one.adapter.path):
            tags.append(failed_tag(one.request, one.adapter.path, error))
        else:
            tags.append(next(remaining))
    return tags
