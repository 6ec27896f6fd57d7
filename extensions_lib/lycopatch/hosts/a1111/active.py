"""The networks that the user wants now, kept in whichever model the WebUI uses at the moment.

The WebUI swaps models in the middle of a picture (refiner, hires checkpoint) without a word. So the wish is remembered
here, and each model with what is in it; ``follow`` makes the current model what is wished whenever a text encoder or
the U-Net is about to run.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lycopatch.engine.errors import AdapterError
from lycopatch.engine.patching import Progress
from lycopatch.engine.report import Issue, Report
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.session import Session
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.conditioning import ConditioningGuard, Tags
from lycopatch.hosts.a1111.embeddings import BundledEmbeddings
from lycopatch.hosts.a1111.library import Library
from lycopatch.hosts.a1111.live_model import is_gone
from lycopatch.hosts.a1111.patched_model import PatchedModel, Sources
from lycopatch.hosts.a1111.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastActivation:
    """What the last activation did, for people to look at: ``when`` in seconds since 1970, memory in bytes."""

    report: Report
    when: float
    model: str
    bytes_held: int


class ActiveNetworks:
    """Networks in the WebUI's models. Thread-safe; every method may be called at any time, from any thread.

    ``on_trouble``: called with what goes wrong while following a model switch, inside a text encoder's or the U-Net's
    run, where nobody could catch it.
    """

    def __init__(self, library: Library, settings: Settings, on_trouble: Callable[[], object]) -> None:
        self._library = library
        self._settings = settings
        self._on_trouble = on_trouble
        self._lock = threading.RLock()
        self._models: weakref.WeakKeyDictionary[nn.Module, PatchedModel] = weakref.WeakKeyDictionary()
        self._embeddings = BundledEmbeddings()
        self._conditionings = ConditioningGuard()
        self._wanted: Sequence[AdapterRequest] = ()
        self._resting: set[int] | None = None
        self.last: LastActivation | None = None

    def activate(
        self,
        p: Any,
        requests: Sequence[AdapterRequest],
        issues: Sequence[Issue] = (),
        tags: Tags | None = None,
    ) -> Report:
        """Make exactly these networks active for the picture ``p``. ``tags``: as the WebUI has them.

        Trouble is an ``Issue`` in the report, also when the model itself is the trouble.
        """
        with self._lock:
            self._wanted, self._resting = tuple(requests), None
            model = host_api.current_model()
            if model is None:
                return Report(issues=list(issues))  # it is loaded later, and followed
            caches = host_api.conditioning_caches(p)
            self._conditionings.observe(caches, self._text_encoder_state(model))
            try:
                report = self._apply(model, issues, _progress)
            except BaseException:
                self._wanted = ()
                self._embeddings.remove()
                self._patched(model).restore()
                raise
            finally:
                self._conditionings.drop_stale(caches, tags, self._text_encoder_state(model))
            file = host_api.checkpoint_file(model)
            held = sum(patched.bytes_held for patched in self._models.values())
            self.last = LastActivation(report, time.time(), file.stem if file else "", held)
            return report

    def rest(self) -> None:
        """Take all networks out for the next run of each text encoder, without forgetting which are wanted.

        The WebUI asks for this when it encodes an empty prompt with a model that it has just loaded, which may be in
        the middle of a picture.
        """
        with self._lock:
            self._resting = set()
            model = host_api.current_model()
            if model is not None:
                self._put(model, ())

    def follow(self, encoder: int | None = None) -> None:
        """Before the U-Net runs, or text encoder number ``encoder``: the current model shall hold what is wanted.

        Never raises: it runs inside the model.
        """
        try:
            with self._lock:
                if self._resting is not None:
                    if encoder is not None and encoder not in self._resting:
                        self._resting.add(encoder)
                        return
                    self._resting = None
                model = host_api.current_model()
                if model is not None and self._patched(model).requests is not self._wanted:
                    self._follow_to(model)
        except Exception:
            self._on_trouble()

    def session(self) -> Session | None:
        """What answers questions about the current model; None when there is none, or none that can be patched.

        Nothing in the model changes. Waits while networks are being put into it.
        """
        with self._lock:
            model = host_api.current_model()
            try:
                return None if model is None else self._patched(model).session(model, self._sources(model))
            except AdapterError as error:
                logger.info("%s", error)
                return None

    def watch(self, model: nn.Module) -> None:
        """Know a model from the start, so that its text encoders are followed."""
        with self._lock:
            self._patched(model)

    def restore(self) -> None:
        """Give every model its originals back and leave nothing behind. The first failure is raised at the end."""
        failures: list[Exception] = []
        with self._lock:
            model = host_api.current_model()
            caches = host_api.conditioning_caches(None)
            if model is not None:
                self._conditionings.observe(caches, self._text_encoder_state(model))
            self._wanted, self._resting = (), None
            for patched in list(self._models.values()):
                try:
                    patched.close()
                except Exception as error:
                    failures.append(error)
            self._models.clear()
            self._embeddings.remove()
            self._conditionings.drop_stale(caches, None, self._nothing())
        if failures:
            raise failures[0]

    def _follow_to(self, model: nn.Module) -> None:
        try:
            report = self._apply(model, ())
            logger.info("Networks followed a switch of the model. %s", " ".join(report.messages()))
        finally:
            # also when it failed: it would fail at each of the steps that follow
            self._patched(model).requests = self._wanted

    def _apply(self, model: nn.Module, issues: Sequence[Issue], progress: Progress | None = None) -> Report:
        """Put the wanted networks and their embeddings into a model."""
        try:
            report = self._put(model, self._wanted, issues, progress)
        except (AdapterError, _Interrupted) as error:
            # the picture is made without networks
            report = Report(issues=[*issues, Issue("model", str(error))])
            self._patched(model).requests = self._wanted
        for embedding, reason in self._embeddings.register(report.embeddings):
            tag = next(tag for tag in report.tags if tag.path == embedding.path)
            message = f'The embedding "{embedding.name}" inside "{tag.name}" was left out: {reason}.'
            tag.issues.append(Issue("embedding", message, tag.tag, tag.path))
        return report

    def _put(
        self,
        model: nn.Module,
        requests: Sequence[AdapterRequest],
        issues: Sequence[Issue] = (),
        progress: Progress | None = None,
    ) -> Report:
        return self._patched(model).activate(model, self._sources(model), requests, issues, progress)

    def _sources(self, model: nn.Module) -> Sources:
        return Sources(
            self._library.catalog,
            self._settings.allow_pickle,
            self._settings.originals,
            host_api.checkpoint_file(model),
        )

    def _patched(self, model: nn.Module) -> PatchedModel:
        patched = self._models.get(model)
        if patched is None:
            for other in [other for other in self._models if is_gone(other)]:
                self._models.pop(other).close()
            patched = self._models[model] = PatchedModel(model, host_api.compute_device, self.follow)
        return patched

    def _text_encoder_state(self, model: nn.Module) -> Hashable:
        return self._patched(model).text_encoder_state, self._embeddings.state

    def _nothing(self) -> Hashable:
        return frozenset(), BundledEmbeddings().state


class _Interrupted(Exception):
    pass


def _progress(done: int, total: int) -> None:
    """Tell the WebUI's progress bar, and stop where its user wants to."""
    host_api.show_progress(f"Networks: {done} of {total} weights" if done < total else None)
    if host_api.is_interrupted():
        raise _Interrupted("The networks were not applied, because the generation was interrupted meanwhile.")
