"""The networks of a prompt, found, opened and joined with a checkpoint's layers: what there is to bake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lycopatch.cli.file_model import is_float
from lycopatch.engine.adapter import Adapter
from lycopatch.engine.errors import MalformedLayer
from lycopatch.engine.planning import LayerId, PatchPlan, Wanted, plan
from lycopatch.engine.reading import TensorFile
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.request import AdapterRequest, ParsedPrompt
from lycopatch.engine.resolving import OpenNetworks, explain
from lycopatch.engine.targets import TargetIndex


@dataclass
class Bake:
    """What to write, and what became of each tag."""

    plan: PatchPlan
    tags: list[TagReport]

    def failures(self, prompt: ParsedPrompt) -> list[str]:
        """The sentences of tags that do nothing at all: not understood, not found, or made for another model."""
        understood = {request.tag for request in prompt.requests}
        lost = [issue.message for issue in prompt.issues if issue.tag is not None and issue.tag not in understood]
        for tag in self.tags:
            if tag.layers_applied == 0:
                lost.append(tag.issues[0].message if tag.issues else f'Nothing of "{tag.name}" fits the checkpoint.')
        return lost


def plan_bake(
    networks: OpenNetworks,
    resolved: Sequence[Wanted | TagReport],
    index: TargetIndex,
    checkpoint: TensorFile,
    broken: dict[LayerId, str],
) -> Bake:
    """Plan until every layer in the plan can be written. ``broken`` collects the layers that can not, with reasons."""
    read: set[LayerId] = set()
    wanted = [one for one in resolved if isinstance(one, Wanted)]
    while True:
        planned, reports = plan(wanted, index, broken)
        found = _impossible(planned, checkpoint) or _damaged(planned, networks, read)
        if not found:
            break
        broken.update(found)
    for report, one in zip(reports, wanted, strict=True):
        explain(report, one.adapter, index)
        _mention_embeddings(report, one.adapter)
    made = iter(reports)
    return Bake(planned, [next(made) if isinstance(one, Wanted) else one for one in resolved])


def _impossible(planned: PatchPlan, checkpoint: TensorFile) -> Mapping[LayerId, str]:
    """The layers that would change something the checkpoint does not have, or that is no matrix of numbers."""
    found: dict[LayerId, str] = {}
    for patch in planned.patches.values():
        spec = checkpoint.specs.get(patch.tensor)
        reason = None
        if spec is None:
            reason = "the checkpoint's layer has no bias, and no program would read one from the file"
        elif not is_float(spec.dtype):
            reason = f"the checkpoint's weight is stored as {spec.dtype}, whole numbers that nothing can be added to"
        if reason is not None:
            found.update((contribution.layer_id, reason) for contribution in patch.contributions)
    return found


def _damaged(planned: PatchPlan, networks: OpenNetworks, read: set[LayerId]) -> Mapping[LayerId, str]:
    """The layers whose numbers can not be used: known before gigabytes are written, at the price of reading twice."""
    found: dict[LayerId, str] = {}
    for patch in planned.patches.values():
        for contribution in patch.contributions:
            if contribution.layer_id in read:
                continue
            read.add(contribution.layer_id)
            try:
                networks.load(contribution, torch.device("cpu"), torch.float32)
            except MalformedLayer as error:
                found[contribution.layer_id] = error.reason
    return found


def _mention_embeddings(report: TagReport, adapter: Adapter) -> None:
    """A live model can take a bundled embedding, a checkpoint file can not."""
    if adapter.embeddings:
        names = ", ".join(f'"{embedding.name}"' for embedding in adapter.embeddings[:5])
        message = f'"{report.name}" also holds embeddings ({names}), which a checkpoint has no place for.'
        report.issues.append(Issue("embedding", message, report.tag, report.path))


def applied(resolved: Sequence[Wanted | TagReport], tags: Sequence[TagReport]) -> Iterator[tuple[AdapterRequest, str]]:
    """The requests that changed something, with their files."""
    for one, tag in zip(resolved, tags, strict=True):
        if isinstance(one, Wanted) and tag.layers_applied:
            yield one.request, str(one.adapter.path)
