"""``NetworkLoader`` for pipelines of the diffusers package."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from torch import nn

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_facts import ReadWords
from lycopatch.engine.dry_run import DryRun
from lycopatch.engine.patching import Progress
from lycopatch.engine.report import Issue, Report
from lycopatch.engine.request import ParsedPrompt, parse_prompt
from lycopatch.engine.session import Session
from lycopatch.engine.targets import TargetIndex
from lycopatch.hosts.checkpoints import CheckpointFiles, Source
from lycopatch.hosts.diffusers.components import check_untouched, find_components, live_model, quantised
from lycopatch.hosts.diffusers.embeddings import BundledEmbeddings


class NetworkLoader:
    """Networks on a pipeline::

        with NetworkLoader(pipe, folders=["loras"]) as loader:
            print(loader.activate("<lora:ink:0.8>").messages())
            picture = pipe("a cat").images[0]

    ``pipe``: any object with a ``unet`` or ``transformer`` and ``text_encoder``, ``text_encoder_2``, ``text_encoder_3``
    (each may be missing), or a lone U-Net or transformer. Components may be replaced, moved, offloaded or compiled.
    ``folders``: where networks lie. ``checkpoint``: where the pipeline was loaded from, if that is on disk (its folder,
    a single file, or component → file); originals then come from there instead of copies in RAM, tensor by tensor,
    wherever the files hold the very same bits. ``read_words``: what people wrote beside a network, for searches.

    Textual inversions inside a network's file are known to the pipeline while the network is active; load others of
    your own before or after that. Raises UnknownModel when nothing can be patched, or when networks were loaded by
    other means already; UnreadableAdapter for a bad checkpoint file.
    """

    def __init__(
        self,
        pipe: object,
        folders: Sequence[Path | str],
        *,
        checkpoint: Source | None = None,
        allow_pickle: bool = False,
        workers: int | None = None,
        read_words: ReadWords | None = None,
    ) -> None:
        self._pipe = pipe
        self._lock = threading.RLock()
        self._allow_pickle = allow_pickle
        self._workers = workers
        self.catalog = Catalog([Path(folder) for folder in folders], allow_pickle=allow_pickle, read_words=read_words)
        self._components = find_components(pipe)
        check_untouched(self._components)
        self._files = CheckpointFiles(checkpoint, self._components) if checkpoint is not None else None
        self._embeddings = BundledEmbeddings(pipe)
        try:
            self.session = self._new_session()
        except BaseException:
            self._close_files()
            raise

    def activate(self, prompt: str, progress: Progress | None = None) -> Report:
        """Make exactly the networks of a prompt active: ``"<lora:ink:0.8> <lyco:paper:0.5:1>"``.

        Trouble with a name, a file or a layer is an ``Issue`` in the report. Raises UnknownModel when the pipeline can
        not be patched as it is now, CheckpointChanged when a checkpoint file is not what it was.
        """
        parsed = parse_prompt(prompt)
        with self._lock:
            self._follow_the_pipeline()
            if parsed.requests:
                check_untouched(self._components)
            report = self._activate(parsed, progress)
            report.issues.extend(self._quantised_parts(report))
            return report

    def dry_run(self, prompt: str, progress: Progress | None = None) -> DryRun:
        """What ``activate`` would do, how the networks get along, and what it would cost.

        Changes nothing, and an activation does not wait for it. What ``progress`` raises while networks are compared
        ends it. Raises UnknownModel when the pipeline can not be patched as it is now.
        """
        parsed = parse_prompt(prompt)
        return self.current_session().dry_run(parsed.requests, parsed.issues, progress)

    def deactivate(self) -> int:
        """Give every patched tensor its original back, bit for bit; returns how many there were."""
        with self._lock:
            self._embeddings.remove()
            return self.session.deactivate()

    def current_session(self) -> Session:
        """The session of the pipeline as it is now, to ask what networks are to it. Raises as ``activate`` does."""
        with self._lock:
            self._follow_the_pipeline()
            return self.session

    def forget(self) -> None:
        """After other weights were loaded into the same model: nothing of ours is in it any more, nothing to undo."""
        with self._lock:
            self._embeddings.remove()
            self.session.forget()

    def close(self) -> None:
        """Deactivate and let go of the checkpoint files."""
        with self._lock:
            try:
                self._embeddings.remove()
                self.session.close()
            finally:
                self._close_files()

    def __enter__(self) -> NetworkLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_session(self) -> Session:
        live = live_model(self._components)
        source = None
        if self._files is not None:
            shapes = live.shapes()
            source = self._files.checkpoint(TargetIndex.of(shapes).model, shapes)
        return Session(live, self.catalog, checkpoint=source, allow_pickle=self._allow_pickle, workers=self._workers)

    def _activate(self, parsed: ParsedPrompt, progress: Progress | None) -> Report:
        try:
            report = self.session.activate(parsed.requests, parsed.issues, progress)
        except BaseException:
            self._embeddings.remove()  # as the session took its networks out of the model
            raise
        try:
            self._register_embeddings(report)
        except BaseException:
            self.deactivate()
            raise
        return report

    def _follow_the_pipeline(self) -> None:
        """Notice that a component was replaced: what was patched gets its originals back, the new one is looked at."""
        found = find_components(self._pipe)
        if _same_modules(found, self._components):
            return
        self._embeddings.remove()
        self.session.close()
        check_untouched(found)
        self._components = found
        self.session = self._new_session()

    def _register_embeddings(self, report: Report) -> None:
        for embedding, reason in self._embeddings.register(report.embeddings):
            tag = next(each for each in report.tags if each.path == embedding.path)
            message = f'The embedding "{embedding.name}" inside "{tag.name}" was left out: {reason}.'
            tag.issues.append(Issue("embedding", message, tag.tag, tag.path))

    def _quantised_parts(self, report: Report) -> list[Issue]:
        if not any(tag.keys["unmatched"] for tag in report.tags):
            return []
        return [
            Issue("quantised", f"The weights of the {name} are quantised ({dtype}) and can not be patched.")
            for name, dtype in quantised(self._components).items()
        ]

    def _close_files(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None


def _same_modules(some: dict[str, nn.Module], others: dict[str, nn.Module]) -> bool:
    return some.keys() == others.keys() and all(module is others[name] for name, module in some.items())
