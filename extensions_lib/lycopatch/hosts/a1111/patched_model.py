"""One model of the WebUI with what this extension put into it, and what must happen when the WebUI touches it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError, CheckpointChanged, UnreadableAdapter
from lycopatch.engine.patching import Progress
from lycopatch.engine.report import Issue, Report
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.session import Session
from lycopatch.engine.targets import TargetIndex
from lycopatch.hosts.a1111.live_model import WebUIModel, token_tables
from lycopatch.hosts.checkpoints import CheckpointFiles

logger = logging.getLogger(__name__)

SPARE_MEMORY = 3
"""Originals are copied into memory when it has room for this many times the model."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where networks and originals come from. ``originals`` as in the settings, ``checkpoint`` where it is a file."""

    catalog: Catalog
    allow_pickle: bool
    originals: str
    checkpoint: Path | None


class PatchedModel:
    """The networks in one model object. Holds the model's modules, not the model itself.

    ``encoding``: called before a text encoder runs, with the number of that encoder.
    """

    def __init__(
        self, model: nn.Module, compute_device: Callable[[], torch.device], encoding: Callable[[int], None]
    ) -> None:
        self._compute_device = compute_device
        self._session: Session | None = None
        self._sources: Sources | None = None
        self._files: CheckpointFiles | None = None
        self._watched = False
        self._hooks: list[RemovableHandle] = [
            table.register_forward_pre_hook(partial(_announce, encoding, number))
            for number, table in enumerate(token_tables(model))
        ]
        self.requests: Sequence[AdapterRequest] | None = None
        """What is in the model now; None when that is not known, or nothing was ever put in."""

    @property
    def bytes_held(self) -> int:
        """Memory used for copies of originals."""
        return 0 if self._session is None else self._session.bytes_held

    @property
    def text_encoder_state(self) -> Hashable:
        """What networks do to the text encoders now: equal for equal numbers."""
        return frozenset() if self._session is None else self._session.text_encoder_state()

    def activate(
        self,
        model: nn.Module,
        sources: Sources,
        requests: Sequence[AdapterRequest],
        issues: Sequence[Issue] = (),
        progress: Progress | None = None,
    ) -> Report:
        """Make exactly these networks active. Raises what ``Session.activate`` raises; nothing is active then."""
        self.requests = None
        if not requests and self._session is None:
            report = Report(issues=list(issues))
        else:
            try:
                report = self._session_for(model, sources).activate(requests, issues, progress)
            except CheckpointChanged as error:
                logger.warning("%s Until then, originals are kept in memory.", error)
                self.restore()
                self._session = self._new_session(model, sources, None)
                self._sources = sources
                report = self._session.activate(requests, issues, progress)
        self.requests = requests
        return report

    def session(self, model: nn.Module, sources: Sources) -> Session:
        """The session that holds the networks, or that the first ones will be put in with. Raises UnknownModel."""
        return self._session or self._session_for(model, sources)

    def restore(self) -> None:
        """Give every weight its original back, bit for bit, and start anew with the next activation."""
        self.requests = None
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
        finally:
            if self._files is not None:
                self._files.close()
                self._files = None

    def close(self) -> None:
        """Restore, and leave no hook behind."""
        try:
            self.restore()
        finally:
            while self._hooks:
                self._hooks.pop().remove()

    def _session_for(self, model: nn.Module, sources: Sources) -> Session:
        """The session of the model as it is; a new one when the weights, the folders or the settings are others."""
        if self._session is None or self._sources != sources:
            self.restore()
            from_file = sources.checkpoint is not None and originals_from_file(model, sources.originals)
            self._session = self._new_session(model, sources, sources.checkpoint if from_file else None)
            self._sources = sources
        return self._session

    def _new_session(self, model: nn.Module, sources: Sources, checkpoint: Path | None) -> Session:
        live = WebUIModel(model, self._compute_device)
        shapes = live.shapes()
        index = TargetIndex.of(shapes)
        originals = None
        if checkpoint is not None:
            with suppress(UnreadableAdapter):  # a checkpoint in another format: copies in memory do as well
                self._files = CheckpointFiles(checkpoint, ())
                originals = self._files.checkpoint(index.model, shapes)
        if not self._watched:
            self._watch_loads(model, index.model.prefixes.values())
        return Session(live, sources.catalog, checkpoint=originals, allow_pickle=sources.allow_pickle)

    def _watch_loads(self, model: nn.Module, prefixes: Iterable[str]) -> None:
        """Restore before other weights are loaded into the model, or into one of the parts that hold networks.

        Afterwards it would be too late: what a checkpoint does not hold would keep its networks, and the originals at
        hand would be those of another checkpoint.
        """
        modules = dict(model.named_modules())
        paths = {""}
        for prefix in prefixes:
            levels = prefix.strip(".").split(".")
            paths.update(".".join(levels[:count]) for count in range(1, len(levels) + 1))
        for path in sorted(paths & modules.keys()):
            self._hooks.append(modules[path]._register_load_state_dict_pre_hook(self._before_loading))
        self._watched = True

    def _before_loading(self, *_: object) -> None:
        try:
            self.restore()
        except AdapterError as error:
            # The weights that follow replace these, except what their checkpoint leaves out.
            logger.error("Before loading a checkpoint, the networks could not be taken out: %s", error)


def _announce(encoding: Callable[[int], None], number: int, _table: nn.Module, _inputs: object) -> None:
    encoding(number)


def originals_from_file(model: nn.Module, choice: str) -> bool:
    """Whether originals shall come from the checkpoint file: ``choice`` as in the settings.

    "automatic": copies in memory while there is plenty, as they are faster; else the file.
    """
    if choice != "automatic":
        return choice == "checkpoint file"
    free = _free_memory()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return free is not None and free < SPARE_MEMORY * size


def _free_memory() -> int | None:
    """Bytes of memory to be had; None when nothing tells."""
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)
