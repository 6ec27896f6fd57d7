"""Step 8: a ``PatchPlan`` into the live tensors: all of it or nothing, undone to the last bit.

The work is spread over own threads, whole tensors each, with torch's inner threads off: torch's parallel regions per
block cost more than they bring, and stall when the machine has other work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from lycopatch.engine.adapter import LoadedLayer
from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.originals import Originals
from lycopatch.engine.planning import Contribution, LayerId, PatchPlan, TensorPatch
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.writing import Loader, TensorWriter

MAX_WORKERS = 4

_Result = TypeVar("_Result")

Progress = Callable[[int, int], None]
"""Told after each tensor: (done, total). May raise to cancel; the model is then pristine again."""


@dataclass(slots=True)
class PatchResult:
    """What an ``apply`` wrote, and the layers that turned out unusable when their numbers were read."""

    written: int = 0
    restored: int = 0
    work: int = 0  # see ``Patcher.work``
    broken: dict[LayerId, str] = field(default_factory=dict[LayerId, str])


@dataclass(slots=True)
class Patcher:
    """Holds one model to one plan at a time."""

    model: LiveModel
    originals: Originals
    workers: int | None = None  # None: as many as torch would use, at most MAX_WORKERS
    _applied: dict[str, TensorPatch] = field(default_factory=dict[str, TensorPatch])
    _made_biases: set[str] = field(default_factory=set[str])

    def apply(self, plan: PatchPlan, load: Loader, progress: Progress | None = None) -> PatchResult:
        """Make the model what ``plan`` says. Tensors whose patch is the same are left alone.

        On any error every tensor is pristine again before the error goes on its way.
        """
        result = PatchResult()
        changed, dropped = self.pending(plan)
        if not changed and not dropped:
            return result
        if any(self.model.tensor(patch.contributions[0].target.weight[0].tensor).is_meta for patch in changed):
            raise UnknownModel("its weights are not in memory at the moment")
        with self.originals.steady():
            try:
                changed = self._make_biases(changed, result)
                self._keep_shared(changed)
                jobs = [*(_Restore(name) for name in dropped), *(_Write(patch) for patch in changed)]
                jobs.sort(key=lambda job: -self._size(job.name))
                self._run(jobs, load, result, progress)
            except BaseException:
                self._restore_everything()
                raise
        return result

    def pending(self, plan: PatchPlan) -> tuple[list[TensorPatch], list[str]]:
        """What ``apply`` would write, and the tensors it would restore."""
        changed = [patch for name, patch in plan.patches.items() if self._applied.get(name) != patch]
        return changed, [name for name in self._applied if name not in plan.patches]

    def work(self, name: str, patch: TensorPatch | None) -> int:
        """How much it is to restore a tensor, or to write it: its numbers once, and once more per contribution."""
        return self._size(name) * (1 + (len(patch.contributions) if patch else 0))

    def restore_all(self) -> int:
        """Give every patched tensor its pristine values back; returns how many there were."""
        if not self._applied and not self._made_biases:
            return 0
        with self.originals.steady(restoring=True):
            return self._restore_everything()

    @property
    def applied(self) -> Collection[str]:
        """The tensors that differ from their originals."""
        return self._applied.keys()

    def text_encoder_patches(self) -> frozenset[TensorPatch]:
        """What is in the text encoders now: equal for equal numbers."""
        return frozenset(patch for patch in self._applied.values() if patch.contributions[0].target.component != "unet")

    def release(self, names: Iterable[str]) -> None:
        """Somebody else wrote these tensors: what they hold now is theirs, and nothing is written back."""
        for name in names:
            self._applied.pop(name, None)
            self.originals.release(name)

    def forget(self) -> None:
        """The host replaced the model's weights: nothing is applied any more and nothing may be written back.

        Biases that were given to layers without one are no weights of the host's, so they are taken away.
        """
        for name in self._made_biases:
            self.model.remove_bias(name)
        self._applied.clear()
        self._made_biases.clear()
        self.originals.forget()

    def _restore_everything(self) -> int:
        """A tensor that can not be restored keeps no other from it; the first such error is raised at the end."""
        names = sorted({*self._applied, *self._made_biases}, key=lambda name: -self._size(name))
        result, failures = PatchResult(), list[Exception]()
        self._run([_Restore(name) for name in names], _no_loader, result, None, failures)
        if failures:
            raise failures[0]
        self.originals.forget()  # tensors that were kept because others need them, and never written
        return result.restored

    def _size(self, name: str) -> int:
        """For the order of the work only, in which what can not be reached comes last."""
        try:
            return self.model.tensor(name).numel()
        except UnknownModel:
            return 0

    def _make_biases(self, patches: Sequence[TensorPatch], result: PatchResult) -> list[TensorPatch]:
        """Give layers a bias that a network wants to change; returns the patches whose tensor exists now."""
        known = self.model.shapes()
        possible: list[TensorPatch] = []
        for patch in patches:
            if patch.is_bias and patch.tensor not in known and patch.tensor not in self._made_biases:
                weight = self.model.tensor(patch.contributions[0].target.weight[0].tensor)
                if not self.model.add_bias(patch.tensor, weight):
                    reason = "this model's layer has no bias and can not be given one"
                    result.broken.update((each.layer_id, reason) for each in patch.contributions)
                    continue
                self._made_biases.add(patch.tensor)
            possible.append(patch)
        return possible

    def _keep_shared(self, patches: Sequence[TensorPatch]) -> None:
        """Keep tensors that other tensors' patches read, before any thread writes one of them."""
        for patch in patches:
            for contribution in patch.contributions:
                ranges = contribution.target.bias if patch.is_bias else contribution.target.weight
                for name in {part.tensor for part in ranges} if len(ranges) > 1 else ():
                    self.originals.keep(name, self.model.tensor(name))

    def _run(
        self,
        jobs: Sequence[_Restore | _Write],
        load: Loader,
        result: PatchResult,
        progress: Progress | None,
        failures: list[Exception] | None = None,
    ) -> None:
        """Do all jobs. ``failures`` takes what goes wrong while restoring; without it the first error ends the work."""
        lock = threading.Lock()
        mine = threading.local()

        def one(job: _Restore | _Write) -> None:
            work = self.work(job.name, None if isinstance(job, _Restore) else job.patch)
            if isinstance(job, _Restore):
                try:
                    self._restore(job.name)
                except Exception as error:
                    if failures is None:
                        raise
                    failures.append(error)
                    return
                with lock:
                    result.restored += 1
                    result.work += work
            else:
                if not hasattr(mine, "writer"):
                    mine.writer = TensorWriter(self.model, self.originals, load)
                broken = self._write(job.patch, mine.writer)
                with lock:
                    result.written += 1
                    result.work += work
                    result.broken.update(broken)

        workers = self._worker_count(jobs)
        if workers > 1:
            _run_in_threads(jobs, one, workers, progress)
            return
        device = self.model.compute_device(jobs[0].name) if jobs else torch.device("cpu")
        with quiet_torch(device):
            for done, job in enumerate(jobs, 1):
                one(job)
                if progress is not None:
                    progress(done, len(jobs))

    def _worker_count(self, jobs: Sequence[_Restore | _Write]) -> int:
        if not jobs or self.model.compute_device(jobs[0].name).type != "cpu":
            return 1
        wanted = self.workers if self.workers is not None else min(torch.get_num_threads(), os.cpu_count() or 1)
        return max(1, min(wanted, MAX_WORKERS, len(jobs)))

    def _write(self, patch: TensorPatch, writer: TensorWriter) -> dict[LayerId, str]:
        parts, broken = writer.parts(patch)
        live = self.model.tensor(patch.tensor)
        with _writable(live):
            self.originals.keep_while_writing(patch.tensor, live)
            # From here on the tensor counts as patched: an error below must restore it.
            self._applied[patch.tensor] = patch
            writer.write(patch.tensor, parts)
        self.originals.forget_pages(patch.tensor)
        return broken

    def _restore(self, name: str) -> None:
        if name in self._made_biases:
            self.model.remove_bias(name)
            self._made_biases.discard(name)
            self.originals.release(name)
        elif self.originals.holds(name):
            live = self.model.tensor(name)
            if live.is_meta:  # the host dropped the weights; there is nothing to write to
                self.originals.release(name)
            else:
                with _writable(live):
                    self.originals.restore(name, live)
        self._applied.pop(name, None)


@dataclass(frozen=True, slots=True)
class _Restore:
    name: str


@dataclass(frozen=True, slots=True)
class _Write:
    patch: TensorPatch

    @property
    def name(self) -> str:
        return self.patch.tensor


def _no_loader(contribution: Contribution, device: torch.device, dtype: torch.dtype) -> LoadedLayer:
    raise AssertionError("restoring reads no network")


def _writable(live: Tensor) -> AbstractContextManager[object]:
    """The mode in which a tensor may be written: one that was made in inference mode only there."""
    return torch.inference_mode() if live.is_inference() else nullcontext()


@contextmanager
def quiet_torch(device: torch.device) -> Generator[None]:
    """No gradients and no autocast: a host's mixed-precision block must not reach the arithmetic."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            with suppress(RuntimeError):  # a kind of device that this torch has no autocast for
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _without_inner_threads() -> None:
    """Let torch compute on this thread alone from now on."""
    torch.get_num_threads()  # a thread takes over the common number when it first asks, which would undo the next line
    torch.set_num_threads(1)


def on_a_quiet_thread(work: Callable[[], _Result]) -> _Result:
    """The result of some work on a thread of its own, with torch's inner threads off: many small products stall."""
    before = torch.get_num_threads()
    ready = threading.Event()

    def start() -> None:
        _without_inner_threads()
        ready.set()

    with ThreadPoolExecutor(1, thread_name_prefix="lycopatch", initializer=start) as pool:
        future = pool.submit(work)
        ready.wait()
        # set_num_threads in a thread also sets what threads that start later begin with: put that back at once
        torch.set_num_threads(before)
        return future.result()


def _run_in_threads(
    jobs: Sequence[_Restore | _Write],
    one: Callable[[_Restore | _Write], None],
    workers: int,
    progress: Progress | None,
) -> None:
    """Run the jobs on own threads, each with one torch thread inside; the first error stops the rest."""
    before = torch.get_num_threads()
    ready = threading.Barrier(workers + 1)

    def start() -> None:
        _without_inner_threads()
        torch.set_grad_enabled(False)  # this thread's alone, like autocast, which a new thread begins without
        ready.wait()

    with ThreadPoolExecutor(workers, thread_name_prefix="lycopatch", initializer=start) as pool:
        try:
            futures: list[Future[None]] = [pool.submit(one, job) for job in jobs]
            ready.wait()
        except BaseException:
            ready.abort()  # no more threads to be had, or interrupted: the others would wait here for ever
            raise
        finally:
            # set_num_threads in a worker also sets what threads that start later begin with: put that back at once
            torch.set_num_threads(before)
        try:
            _await(futures, progress)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _await(futures: Sequence[Future[None]], progress: Progress | None) -> None:
    if progress is None:
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return
    for number, future in enumerate(futures, 1):
        future.result()
        progress(number, len(futures))
