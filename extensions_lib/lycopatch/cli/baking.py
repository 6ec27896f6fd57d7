"""``bake``: a checkpoint with networks merged in, streamed from file to file."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lycopatch import __version__
from lycopatch.cli.bake_plan import Bake, applied, plan_bake
from lycopatch.cli.file_model import FileModel, baked_specs, to_dtype
from lycopatch.cli.parser import OK, PARTLY, TROUBLE
from lycopatch.cli.safetensors_writer import in_file_order, write_safetensors
from lycopatch.cli.terminal import Refused, paint, progress, safe, say, say_json, trouble
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.originals import Originals
from lycopatch.engine.planning import LayerId, Wanted
from lycopatch.engine.reading import TensorFile, file_hashes, open_tensor_file
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.request import AdapterRequest, ParsedPrompt, parse_prompt
from lycopatch.engine.resolving import AdapterCache, OpenNetworks
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.types import TensorSpec
from lycopatch.engine.wording import size_text
from lycopatch.engine.writing import TensorWriter

METADATA_KEY = "lycopatch.bake"
_STALE = frozenset({"modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"})
"""Hashes of the checkpoint's numbers, which are others now."""

_SUFFIXES = (".safetensors", ".sft")
_SCALED = (".scale_weight", ".weight_scale", ".scale_input", "scaled_fp8")
_QUANTISED = (".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


@dataclass
class Result:
    """What a bake did."""

    checkpoint: str
    out: str
    dtype: str
    written: bool = False
    size: int = 0
    tensors: int = 0
    changed: int = 0
    seconds: float = 0.0
    tags: list[TagReport] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)

    @property
    def all_issues(self) -> list[Issue]:
        return [*self.issues, *(issue for tag in self.tags for issue in tag.issues)]


def run(arguments: Namespace) -> int:
    """Bake; 0 when all of every network is in the new file, 3 when it was written without some of it, else 1."""
    started = time.perf_counter()
    prompt = parse_prompt(arguments.prompt)
    if not prompt.requests and not prompt.issues:
        raise Refused('The prompt names no network; write --prompt "<lora:name:0.8>".')
    _require_folders(arguments.networks)
    result = Result(str(arguments.checkpoint), str(arguments.out), arguments.dtype, issues=list(prompt.issues))
    with ExitStack() as files:
        checkpoint = files.enter_context(open_tensor_file(arguments.checkpoint, allow_pickle=arguments.allow_pickle))
        _require_plain_numbers(checkpoint)
        index = TargetIndex.of({name: spec.shape for name, spec in checkpoint.specs.items()})
        catalog = Catalog(arguments.networks, allow_pickle=arguments.allow_pickle)
        networks = files.enter_context(OpenNetworks(catalog, AdapterCache(), allow_pickle=arguments.allow_pickle))
        resolved = [networks.resolve(request) for request in prompt.requests]
        _require_free(arguments.out, [checkpoint, *networks.files], force=arguments.force)
        _bake(checkpoint, networks, resolved, index, prompt, arguments, result)
    result.seconds = time.perf_counter() - started
    say_json(_as_json(result)) if arguments.json else _show(result)
    if not result.written:
        return TROUBLE
    return PARTLY if result.all_issues else OK


def _bake(
    checkpoint: TensorFile,
    networks: OpenNetworks,
    resolved: Sequence[Wanted | TagReport],
    index: TargetIndex,
    prompt: ParsedPrompt,
    arguments: Namespace,
    result: Result,
) -> None:
    """Plan and write, again from the start when a layer proves unusable only while it is written."""
    broken: dict[LayerId, str] = {}
    specs = baked_specs(checkpoint.specs, arguments.dtype)
    while True:
        bake = plan_bake(networks, resolved, index, checkpoint, broken)
        result.tags = bake.tags
        lost = bake.failures(prompt)
        for sentence in lost:
            trouble(sentence)
        if lost and not arguments.allow_missing:
            trouble("Nothing was written; --allow-missing bakes the others.")
            return
        if not bake.plan.patches:
            trouble("Nothing was written: no network would change anything.")
            return
        stream = _Stream(checkpoint, networks, bake, specs)
        metadata = _metadata(checkpoint, applied(resolved, bake.tags), arguments.prompt, arguments.dtype)
        try:
            result.size = write_safetensors(arguments.out, specs, metadata, stream.tensors())
        except _Unusable as unusable:
            broken.update(unusable.layers)
            continue
        result.written, result.tensors, result.changed = True, len(specs), len(bake.plan)
        result.issues.extend(stream.overflow_issues())
        return


class _Unusable(Exception):
    """Layers whose numbers can not be used, noticed while the file is written."""

    def __init__(self, layers: Mapping[LayerId, str]) -> None:
        self.layers = layers
        super().__init__(f"{len(layers)} layers")


@dataclass
class _Stream:
    """The tensors of the result, one after the other."""

    checkpoint: TensorFile
    networks: OpenNetworks
    bake: Bake
    specs: Mapping[str, TensorSpec]
    overflown: list[str] = field(default_factory=list)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        model = FileModel(self.checkpoint, self.specs)
        # An Originals that holds nothing: what the model gives is pristine, because it comes from the file.
        writer = TensorWriter(model, Originals(), self.networks.load)
        total = sum(spec.nbytes for spec in self.specs.values())
        done = 0
        with torch.no_grad(), progress("bake") as told:
            for name in in_file_order(self.specs):
                tensor = self._tensor(name, model, writer)
                yield name, tensor
                done += self.specs[name].nbytes
                told(done, total)
        for file in (self.checkpoint, *self.networks.files):
            file.check_unchanged()

    def _tensor(self, name: str, model: FileModel, writer: TensorWriter) -> Tensor:
        live = model.hold(name)
        patch = self.bake.plan.patches.get(name)
        changes = patch is not None or self.specs[name] != self.checkpoint.specs[name]
        was_finite = not changes or _finite(live)
        if patch is not None:
            try:
                parts, broken = writer.parts(patch)
                if broken:
                    raise _Unusable(broken)
                writer.write(name, parts)
            except (RuntimeError, ValueError, IndexError) as error:
                layers = ", ".join(sorted({each.layer.name for each in patch.contributions}))
                reason = str(error).partition("\n")[0]
                raise Refused(f'The tensors of layer "{layers}" do not go together ({reason}).') from error
        result = to_dtype(live, self.specs[name].dtype)
        if changes and was_finite and not _finite(result):
            self.overflown.append(name)
        return result

    def overflow_issues(self) -> Iterator[Issue]:
        """The tensors in which a number became too large for the format."""
        if self.overflown:
            count, example = len(self.overflown), self.overflown[0]
            dtype = self.specs[example].dtype
            what = f"{count} tensors" if count > 1 else "1 tensor"
            message = (
                f"{what} of the result hold numbers too large for {dtype}, for example {example}; try --dtype bf16."
            )
            yield Issue("overflow", message)


def _finite(tensor: Tensor) -> bool:
    wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _metadata(
    checkpoint: TensorFile, networks: Iterable[tuple[AdapterRequest, str]], prompt: str, dtype: str
) -> dict[str, str]:
    """The checkpoint's own metadata and, under one key, what was baked in. No folders: they are private."""
    kept = {key: value for key, value in checkpoint.metadata.items() if key not in _STALE}
    entry: dict[str, Any] = {
        "version": __version__,
        "prompt": prompt,
        "dtype": dtype,
        "networks": [
            {"tag": request.tag, "file": Path(path).name, "autov3": file_hashes(path).autov3}
            for request, path in networks
        ],
    }
    if METADATA_KEY in kept:
        entry["before"] = kept[METADATA_KEY]
    return {**kept, METADATA_KEY: json.dumps(entry)}


def _require_folders(folders: list[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise Refused(f"{folder} is no folder; --networks wants the folders in which networks lie.")


def _require_free(out: Path, sources: list[TensorFile], *, force: bool) -> None:
    """Refuse an output that can not be, or that would replace something of value."""
    if out.suffix.lower() not in _SUFFIXES:
        raise Refused(f"{out} must end in .safetensors, for that is what is written.")
    if not out.parent.is_dir():
        raise Refused(f"The folder {out.parent} does not exist.")
    if out.is_dir():
        raise Refused(f"{out} is a folder.")
    if not os.path.lexists(out):
        return
    if any(out.exists() and os.path.samefile(out, source.path) for source in sources):
        raise Refused(f"{out} is one of the files that are read; write to another one.")
    if not force:
        raise Refused(f"{out} exists; --force replaces it.")


def _require_plain_numbers(checkpoint: TensorFile) -> None:
    """Refuse checkpoints whose weights are codes: adding to a code is not adding to the weight."""
    for name in checkpoint.specs:
        if name.endswith(_SCALED + _QUANTISED):
            raise Refused(
                f'"{checkpoint.path.name}" is quantised ("{name}"), and nothing can be added to such weights. '
                "Bake into the unquantised checkpoint and quantise the result."
            )


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "checkpoint": result.checkpoint,
        "out": result.out,
        "dtype": result.dtype,
        "written": result.written,
        "size": result.size,
        "tensors": result.tensors,
        "changed": result.changed,
        "seconds": round(result.seconds, 3),
        "tags": [_tag_as_json(tag) for tag in result.tags],
        "issues": [_issue_as_json(issue) for issue in result.issues],
    }


def _tag_as_json(tag: TagReport) -> dict[str, Any]:
    return {
        "tag": tag.tag,
        "name": tag.name,
        "path": tag.path,
        "family": tag.family,
        "te": tag.te_multiplier,
        "unet": tag.unet_multiplier,
        "layers_applied": tag.layers_applied,
        "layers_total": tag.layers_total,
        "keys": {outcome: len(keys) for outcome, keys in tag.keys.items()},
        "unmatched": tag.keys["unmatched"],
        "unknown": tag.keys["unknown"],
        "skipped": tag.keys["skipped"],
        "issues": [_issue_as_json(issue) for issue in tag.issues],
    }


def _issue_as_json(issue: Issue) -> dict[str, Any]:
    return {"kind": issue.kind, "message": issue.message, "layer": issue.layer}


def _show(result: Result) -> None:
    for tag in result.tags:
        count = f"{tag.layers_applied} of {tag.layers_total} layers"
        say(f"{paint(safe(tag.tag, 200), 'bold')}  {count if not tag.issues else paint(count, 'yellow')}")
        for issue in tag.issues:
            say(f"    {safe(issue.message)}")
    for issue in result.issues:
        say(safe(issue.message))
    if result.written:
        changed = f"{result.changed} of {result.tensors} tensors changed"
        say(f"{safe(result.out)}: {changed}, {size_text(result.size)}, {result.seconds:.1f} s")
