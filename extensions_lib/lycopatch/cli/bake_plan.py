"""The networks of a prompt, found, opened and joined with a checkpoint's layers: what there is to bake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from lycopatch.cli.file_model import is_float
from lycopatch.engine.adapter import Adapter, LoadedLayer, parse_adapter
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError, AdapterNotFound, MalformedLayer, UnreadableAdapter
from lycopatch.engine.planning import Contribution, LayerId, PatchPlan, Wanted, plan
from lycopatch.engine.reading import TensorFile, open_tensor_file
from lycopatch.engine.recognise import TITLES, recognise
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.request import AdapterRequest, ParsedPrompt
from lycopatch.engine.targets import TargetIndex


@dataclass
class Networks:
    """The requests of a prompt: each with its open file, or with the report of why there is none."""

    wanted: list[Wanted] = field(default_factory=list)
    order: list[Wanted | TagReport] = field(default_factory=list)
    files: dict[str, TensorFile] = field(default_factory=dict)

    def load(self, contribution: Contribution, device: torch.device, dtype: torch.dtype) -> LoadedLayer:
        """The engine's Loader."""
        return contribution.layer.load(self.files[contribution.layer_id[0]], device, dtype)


def find_networks(
    requests: Sequence[AdapterRequest], catalog: Catalog, files: ExitStack, *, allow_pickle: bool
) -> Networks:
    """Open the file of each request; they stay open until ``files`` closes them."""
    networks = Networks()
    adapters: dict[str, Adapter] = {}
    for request in requests:
        path = ""
        try:
            path = str(catalog.find(request.name).path)
            if path not in adapters:
                file = files.enter_context(open_tensor_file(path, allow_pickle=allow_pickle))
                networks.files[path] = file
                adapters[path] = parse_adapter(file)
            if adapters[path].not_a_network is not None:
                raise UnreadableAdapter(path, f"it is {adapters[path].not_a_network}.")
            one = Wanted(request, adapters[path])
            networks.wanted.append(one)
            networks.order.append(one)
        except AdapterError as error:
            kind = "not found" if isinstance(error, AdapterNotFound) else "unreadable"
            report = TagReport(
                request.tag,
                request.name,
                path or None,
                te_multiplier=request.te_multiplier,
                unet_multiplier=request.unet_multiplier,
                failed=True,
                issues=[Issue(kind, str(error), request.tag, path or None)],
            )
            networks.order.append(report)
    return networks


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


def plan_bake(networks: Networks, index: TargetIndex, checkpoint: TensorFile, broken: dict[LayerId, str]) -> Bake:
    """Plan until every layer in the plan can be written. ``broken`` collects the layers that can not, with reasons."""
    read: set[LayerId] = set()
    while True:
        planned, reports = plan(networks.wanted, index, broken)
        found = _impossible(planned, checkpoint) or _damaged(planned, networks.load, read)
        if not found:
            break
        broken.update(found)
    for report, one in zip(reports, networks.wanted, strict=True):
        _explain(report, one.adapter, index)
    made = iter(reports)
    return Bake(planned, [next(made) if isinstance(one, Wanted) else one for one in networks.order])


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


def _damaged(
    planned: PatchPlan, load: Callable[[Contribution, torch.device, torch.dtype], LoadedLayer], read: set[LayerId]
) -> Mapping[LayerId, str]:
    """The layers whose numbers can not be used: known before gigabytes are written, at the price of reading twice."""
    found: dict[LayerId, str] = {}
    for patch in planned.patches.values():
        for contribution in patch.contributions:
            if contribution.layer_id in read:
                continue
            read.add(contribution.layer_id)
            try:
                load(contribution, torch.device("cpu"), torch.float32)
            except MalformedLayer as error:
                found[contribution.layer_id] = error.reason
    return found


def _explain(report: TagReport, adapter: Adapter, index: TargetIndex) -> None:
    """Add what the engine's plan does not know: another base model, embeddings that find no place."""
    verdict = recognise(adapter)
    report.family = verdict.family
    if not adapter.layers:
        message = f'"{report.name}" holds no layer that could be applied.'
        report.issues.insert(0, Issue("empty", message, report.tag, report.path))
    elif report.layers_applied * 10 < report.layers_total and not verdict.allows(index.model.family):
        title = TITLES.get(index.model.family, "another one")
        message = f'"{report.name}" was made for {verdict.title}, the checkpoint is {title}.'
        report.issues.insert(0, Issue("other base model", message, report.tag, report.path))
    if adapter.embeddings:
        names = ", ".join(f'"{embedding.name}"' for embedding in adapter.embeddings[:5])
        message = f'"{report.name}" also holds embeddings ({names}), which a checkpoint has no place for.'
        report.issues.append(Issue("embedding", message, report.tag, report.path))


def applied(networks: Networks, tags: Sequence[TagReport]) -> Iterator[tuple[AdapterRequest, str]]:
    """The requests that changed something, with their files."""
    for one, tag in zip(networks.order, tags, strict=True):
        if isinstance(one, Wanted) and tag.layers_applied:
            yield one.request, str(one.adapter.path)
