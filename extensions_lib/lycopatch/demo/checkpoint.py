"""Real checkpoints for the demo: one file of Stable Diffusion 1 or XL base → a pipeline, without a model hub.

What a file holds is decided by its names and shapes, before any of its numbers is read. ``configs/`` states the
structure of both families the way diffusers wants to be told, so that it has nothing to ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lycopatch.demo.clip_tokenizer import load_tokenizer, tokenizer_folder
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.errors import UnknownModel, UnreadableAdapter
from lycopatch.engine.families import FAMILIES
from lycopatch.engine.families.binding import bind
from lycopatch.engine.reading import TensorFile, open_tensor_file
from lycopatch.engine.wording import shown

CONFIGS = Path(__file__).parent / "configs"
PIPELINES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}

_ONLY = "the demo runs checkpoints of Stable Diffusion 1 and XL"
_VAE, _VAE_TENSORS = "first_stage_model.", 248


@dataclass(frozen=True)
class Kind:
    """What a checkpoint is: its family, and how its sampler differs from the usual one."""

    family: str
    sampler: Mapping[str, Any] = field(default_factory=dict[str, Any])


def load_checkpoint(file: Path, device: str = "cpu", tokenizer: Path | None = None) -> Any:
    """The ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline`` of a .safetensors checkpoint.

    In fp16 on CUDA, in fp32 elsewhere; samples with Euler. ``tokenizer``: see ``tokenizer_folder``. Nothing is asked
    of the network. Raises UnreadableAdapter with what to do about it.
    """
    kind = recognise(file)
    return build_pipeline(file, CONFIGS / kind.family, kind, device, tokenizer)


def recognise(file: Path) -> Kind:
    """Tell from the header what a checkpoint is. Raises UnreadableAdapter for all that the demo can not run."""
    if file.suffix != ".safetensors" and file.is_file():  # diffusers unpickles whatever is named otherwise
        reason = "its name does not end in .safetensors. Other files can contain programs; convert it first."
        raise UnreadableAdapter(file, reason)
    with open_tensor_file(file) as opened:
        return _recognise(opened)


def _recognise(file: TensorFile) -> Kind:
    adapter = parse_adapter(file)
    if adapter.layers and adapter.not_a_network is None:
        raise UnreadableAdapter(file.path, "it is a network, no checkpoint. Put it into the folder of --networks.")
    try:
        bound = bind({name: spec.shape for name, spec in file.specs.items()})
    except UnknownModel as error:
        raise UnreadableAdapter(file.path, f"{error.reason}; {_ONLY}.") from error
    family = next((family for family in FAMILIES if family.name == bound.family), None)
    if family is None or family.name not in PIPELINES:
        what = f"a checkpoint of {family.title}" if family is not None else "no model of a known kind"
        raise UnreadableAdapter(file.path, f"it is {what}; {_ONLY}.")
    if bound.variant is not None:
        raise UnreadableAdapter(file.path, f"it is made for {bound.variant} and needs a picture; the demo has none.")
    if any(name.startswith("edm_") for name in file.specs):
        raise UnreadableAdapter(file.path, f"it expects another noise (EDM) than {family.title}; the demo has none.")
    _check_complete(file, family.title, family.checkpoint())
    return Kind(family.name, _sampler(file))


def _check_complete(file: TensorFile, title: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """diffusers leaves a tensor that it does not find as it was before loading: unset."""
    lacking = [name for name, shape in wanted.items() if name not in file.specs or file.specs[name].shape != shape]
    if lacking:
        count = f"{len(lacking)} of the {len(wanted)} tensors of {title} are missing or of another size"
        reason = (
            f"{count}, for instance {shown(lacking[0])}. Only a whole checkpoint in its original names can be used."
        )
        raise UnreadableAdapter(file.path, reason)
    found = sum(name.startswith(_VAE) for name in file.specs)
    if found < _VAE_TENSORS:
        reason = f"it holds {found} of the {_VAE_TENSORS} tensors of a VAE. Take a checkpoint with its VAE in it."
        raise UnreadableAdapter(file.path, reason)


def _sampler(file: TensorFile) -> dict[str, Any]:
    """What models that predict the velocity say about themselves: tensors without content, or metadata."""
    changes: dict[str, Any] = {}
    if "v_pred" in file.specs or file.metadata.get("modelspec.prediction_type") == "v":
        changes["prediction_type"] = "v_prediction"
    if "ztsnr" in file.specs:
        changes["rescale_betas_zero_snr"] = True
    return changes


def build_pipeline(file: Path, configs: Path, kind: Kind, device: str, tokenizer: Path | None) -> Any:
    """The pipeline of a recognised checkpoint. ``configs``: the folder that states its structure."""
    import diffusers
    import torch
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextConfig

    with tokenizer_folder(file, tokenizer) as folder:
        vocabulary = CLIPTextConfig.from_pretrained(str(configs / "text_encoder"), local_files_only=True).vocab_size
        parts = {"tokenizer": load_tokenizer(folder, vocabulary)}
        if kind.family == "sdxl":
            # the second encoder was trained on prompts that are filled up with this
            parts["tokenizer_2"] = load_tokenizer(folder, vocabulary, pad_token="!")
    scheduler = EulerDiscreteScheduler.from_pretrained(
        str(configs), subfolder="scheduler", local_files_only=True, **kind.sampler
    )
    with _without_warnings():
        pipe = getattr(diffusers, PIPELINES[kind.family]).from_single_file(
            str(file),
            config=str(configs),
            local_files_only=True,
            torch_dtype=torch.float16 if device.startswith("cuda") else torch.float32,
            scheduler=scheduler,
            **parts,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """diffusers warns of what is usual in a checkpoint (a second copy of the weights, nothing to keep in fp32)."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
