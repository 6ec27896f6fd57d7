"""``NetworkLoader`` for models in memory: tests, benchmarks, checkpoint files, and anybody's own program."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor, nn

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.dry_run import DryRun
from lycopatch.engine.originals import Checkpoint
from lycopatch.engine.patching import Progress
from lycopatch.engine.ports import LiveModel
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.report import Report
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.session import Session
from lycopatch.hosts.memory.models import DictModel
from lycopatch.hosts.modules import ModuleModel


class NetworkLoader:
    """Networks on a model in memory.

    ``model``: a dict of tensors or a module whose parameters have checkpoint (ldm / sgm) or diffusers names.
    ``folders``: where networks lie. ``checkpoint``: the safetensors file the model was loaded from, if there is one;
    originals then come from it instead of copies in RAM, tensor by tensor, wherever it holds the very same bits.
    Raises UnknownModel when nothing in the model can be patched, UnreadableAdapter for a bad checkpoint file.
    """

    def __init__(
        self,
        model: MutableMapping[str, Tensor] | nn.Module | LiveModel,
        folders: Sequence[Path | str],
        *,
        checkpoint: Path | str | None = None,
        allow_pickle: bool = False,
        workers: int | None = None,
    ) -> None:
        catalog = Catalog([Path(folder) for folder in folders], allow_pickle=allow_pickle)
        with ExitStack() as files:
            source = None
            if checkpoint is not None:
                file = files.enter_context(open_tensor_file(Path(checkpoint)))
                source = Checkpoint({key: (file, key) for key in file.specs})
            self.session = Session(_live(model), catalog, checkpoint=source, allow_pickle=allow_pickle, workers=workers)
            self._files = files.pop_all()

    def activate(self, prompt: str, progress: Progress | None = None) -> Report:
        """Make exactly the networks of a prompt active: ``"<lora:ink:0.8> <lyco:paper:0.5:1>"``."""
        parsed = parse_prompt(prompt)
        return self.session.activate(parsed.requests, parsed.issues, progress)

    def dry_run(self, prompt: str, progress: Progress | None = None) -> DryRun:
        """What ``activate`` would do, how the networks get along, and what it would cost. Changes nothing."""
        parsed = parse_prompt(prompt)
        return self.session.dry_run(parsed.requests, parsed.issues, progress)

    def deactivate(self) -> int:
        """Give every patched tensor its original back, bit for bit; returns how many there were."""
        return self.session.deactivate()

    def forget(self) -> None:
        """After other weights were loaded into the same model: nothing of ours is in it any more, nothing to undo."""
        self.session.forget()

    def close(self) -> None:
        """Deactivate and let go of the checkpoint file."""
        with self._files:
            self.session.close()

    def __enter__(self) -> NetworkLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _live(model: MutableMapping[str, Tensor] | nn.Module | LiveModel) -> LiveModel:
    if isinstance(model, nn.Module):
        return ModuleModel({"": model})
    if isinstance(model, MutableMapping):
        return DictModel(model)
    return model
