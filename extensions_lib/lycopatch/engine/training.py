"""What a file's metadata say about its training, as facts for a person. What can not be understood is left out.

Sources: the metadata that kohya-ss/sd-scripts (``ss_*``), OneTrainer (``ot_*``), ai-toolkit (``software``,
``training_info``), diffusers and peft (``lora_adapter_metadata``), cloneofsimo/lora (``unet:0:rank``) and the model
specification of Stability AI (``modelspec.*``) write.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lycopatch.engine.metadata import (
    LONGEST_KEY,
    as_count,
    as_dict,
    as_list,
    as_moment,
    as_number,
    as_plain,
    as_text,
    cut,
    json_object,
    json_value,
    without_folder,
)

Facts = dict[str, Any]
"""Fact → text, number, list or dict of those; ready for JSON."""

MOST_TAGS = 100
_MOST_ENTRIES = 200

_TEXTS: dict[str, tuple[str, ...]] = {
    "title": ("modelspec.title", "title", "ssmd_display_name"),
    "output_name": ("ss_output_name",),
    "author": ("modelspec.author", "author", "ssmd_author"),
    "description": ("modelspec.description", "description", "ssmd_description"),
    "license": ("modelspec.license", "license"),
    "base_model": ("ss_sd_model_name",),
    "base_model_version": ("ss_base_model_version", "modelspec.architecture"),
    "base_model_hash": ("ss_new_sd_model_hash", "ss_sd_model_hash"),
    "vae": ("ss_vae_name",),
    "prediction_type": ("modelspec.prediction_type",),
    "resolution": ("ss_resolution", "modelspec.resolution"),
    "optimizer": ("ss_optimizer",),
    "scheduler": ("ss_lr_scheduler",),
    "precision": ("ss_mixed_precision",),
    "date": ("modelspec.date",),
    "trigger_phrase": ("modelspec.trigger_phrase", "trigger_phrase", "ssmd_keywords"),
    "usage_hint": ("modelspec.usage_hint",),
    "merged_from": ("modelspec.merged_from",),
    "comment": ("ss_training_comment",),
}

_NUMBERS: dict[str, tuple[str, ...]] = {
    "images": ("ss_num_train_images",),
    "regularization_images": ("ss_num_reg_images",),
    "steps": ("ss_steps",),
    "max_steps": ("ss_max_train_steps",),
    "epoch": ("ss_epoch",),
    "epochs": ("ss_num_epochs",),
    "batch_size": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "learning_rate": ("ss_learning_rate",),
    "unet_learning_rate": ("ss_unet_lr",),
    "text_encoder_learning_rate": ("ss_text_encoder_lr",),
    "warmup_steps": ("ss_lr_warmup_steps",),
    "seed": ("ss_seed",),
    "clip_skip": ("ss_clip_skip",),
    "noise_offset": ("ss_noise_offset",),
    "min_snr_gamma": ("ss_min_snr_gamma",),
}

_ONETRAINER: dict[str, str] = {
    "base_model": "base_model_name",
    "resolution": "resolution",
    "learning_rate": "learning_rate",
    "scheduler": "learning_rate_scheduler",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "precision": "train_dtype",
    "seed": "seed",
}
"""Facts in OneTrainer's whole configuration; the rest of it holds folders of the trainer's own computer."""

_RANK_OF_ONE = re.compile(r"(?:unet|text_encoder):\d+:rank")


def training_facts(metadata: Mapping[str, str]) -> Facts:
    """Return what the metadata say, most wanted first; facts that nobody stated are not there. Never raises."""
    found: Facts = {"tool": _tool(metadata)}
    found |= {fact: _first(metadata, keys, as_text) for fact, keys in _TEXTS.items()}
    found |= {fact: _first(metadata, keys, as_number) for fact, keys in _NUMBERS.items()}
    found["network"] = _network(metadata)
    found["buckets"] = _buckets(metadata)
    found["datasets"] = _datasets(metadata)
    found["started"] = as_moment(metadata.get("ss_training_started_at"))
    found["finished"] = as_moment(metadata.get("ss_training_finished_at"))
    others = _in_other_trainers_words(metadata)
    found |= {fact: value for fact, value in others.items() if found.get(fact) in (None, {})}
    if found["base_model"] is not None:
        found["base_model"] = without_folder(str(found["base_model"]))
    counts = _tag_counts(metadata)
    if counts:
        found["tags"] = [{"tag": cut(tag), "count": count} for tag, count in _most_frequent(counts)]
        found["different_tags"] = len(counts)
    return {fact: value for fact, value in found.items() if value not in (None, "", [], {})}


def _tool(metadata: Mapping[str, str]) -> str | None:
    """The program that trained the network; None when nothing tells."""
    if any(key.startswith("ot_") for key in metadata):
        return " ".join(filter(None, ("OneTrainer", as_text(metadata.get("ot_revision")))))
    software = json_object(metadata.get("software"))
    if name := as_text(software.get("name")):
        return " ".join(filter(None, (name, as_text(software.get("version")))))
    module = metadata.get("ss_network_module", "")
    if module.startswith(("lycoris.", "locon.")):
        return "LyCORIS in kohya's sd-scripts"
    if module or any(key.startswith("ss_sd_scripts_") for key in metadata):
        return "kohya's sd-scripts"
    if "lora_adapter_metadata" in metadata:
        return "diffusers or peft"
    if any(_RANK_OF_ONE.fullmatch(key) for key in metadata):
        return "cloneofsimo/lora"
    return as_text(metadata.get("software")) or as_text(metadata.get("modelspec.implementation"))


def _network(metadata: Mapping[str, str]) -> Facts:
    """Module, rank, alpha and arguments as the trainer was told; layers may differ from them."""
    arguments = json_object(metadata.get("ss_network_args"))
    known: Facts = {
        "module": as_text(metadata.get("ss_network_module")),
        # "Dynamic" where every layer has its own
        "dim": as_plain(metadata.get("ss_network_dim")),
        "alpha": as_plain(metadata.get("ss_network_alpha")),
        "dropout": as_number(metadata.get("ss_network_dropout")),
        "args": {
            cut(key, LONGEST_KEY): as_plain(value)
            for key, value in list(arguments.items())[:_MOST_ENTRIES]
            if as_plain(value) is not None
        },
    }
    return {key: value for key, value in known.items() if value not in (None, {})}


def _in_other_trainers_words(metadata: Mapping[str, str]) -> Facts:
    """The facts that OneTrainer, ai-toolkit, diffusers and peft state in structures of their own."""
    facts: Facts = {}
    config = json_object(metadata.get("ot_config"))
    facts |= {fact: as_plain(config.get(key)) for fact, key in _ONETRAINER.items()}
    facts["optimizer"] = as_text(as_dict(config.get("optimizer")).get("optimizer"))
    facts["network"] = {"dim": as_number(config.get("lora_rank")), "alpha": as_number(config.get("lora_alpha"))}
    info = json_object(metadata.get("training_info"))
    facts["steps"], facts["epoch"] = as_number(info.get("step")), as_number(info.get("epoch"))
    adapter = json_object(metadata.get("lora_adapter_metadata"))
    for key, value in list(adapter.items())[:_MOST_ENTRIES]:
        fact = {"r": "dim", "lora_alpha": "alpha"}.get(key.rpartition(".")[2])
        if fact is not None:
            facts["network"][fact] = as_number(value)
    facts["network"] = {key: value for key, value in facts["network"].items() if value is not None} or None
    return facts


def _buckets(metadata: Mapping[str, str]) -> list[Facts]:
    """Sizes that the pictures were sorted into, the fullest first."""
    sizes: Counter[tuple[int, int]] = Counter()
    infos = [
        json_object(metadata.get("ss_bucket_info")),
        *(as_dict(each.get("bucket_info")) for each in _sets(metadata)),
    ]
    for info in infos:
        for bucket in as_dict(info.get("buckets")).values():
            width, height = (as_count(each) for each in [*as_list(as_dict(bucket).get("resolution")), 0, 0][:2])
            count = as_count(as_dict(bucket).get("count"))
            if width and height and count:
                sizes[width, height] += count
    return [
        {"width": width, "height": height, "images": count}
        for (width, height), count in sizes.most_common(_MOST_ENTRIES)
    ]


def _datasets(metadata: Mapping[str, str]) -> list[Facts]:
    """Picture folders with how often each was shown per epoch."""
    folders: list[Facts] = []

    def add(name: object, description: Mapping[str, Any], *, regularization: bool) -> None:
        images, repeats = as_count(description.get("img_count")), as_count(description.get("num_repeats"))
        repeats = repeats or as_count(description.get("n_repeats"))
        if images and len(folders) < _MOST_ENTRIES:
            folder = without_folder(as_text(name) or "")
            folders.append(
                {"folder": folder, "images": images, "repeats": repeats or 1, "regularization": regularization}
            )

    for key, regularization in (("ss_dataset_dirs", False), ("ss_reg_dataset_dirs", True)):
        for name, description in json_object(metadata.get(key)).items():
            add(name, as_dict(description), regularization=regularization)
    if not folders:
        for each in _sets(metadata):
            for subset in map(as_dict, as_list(each.get("subsets"))):
                add(subset.get("image_dir"), subset, regularization=subset.get("is_reg") is True)
    return folders


def _tag_counts(metadata: Mapping[str, str]) -> Counter[str]:
    """How often each tag stood in the captions, all folders together."""
    counts: Counter[str] = Counter()
    sources = [json_object(metadata.get("ss_tag_frequency"))]
    if not sources[0]:
        sources = [as_dict(each.get("tag_frequency")) for each in _sets(metadata)]
    for source in sources:
        for folder in source.values():
            for tag, count in as_dict(folder).items():
                name = tag.strip()
                if name and as_count(count):
                    counts[name] += as_count(count)
    return counts


def _most_frequent(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_TAGS]


def _sets(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The datasets of newer sd-scripts, each with its own buckets and tags."""
    return [as_dict(each) for each in as_list(json_value(metadata.get("ss_datasets")))[:_MOST_ENTRIES]]


def _first(metadata: Mapping[str, str], keys: tuple[str, ...], read: Any) -> Any:
    values: Iterator[Any] = (read(metadata.get(key)) for key in keys)
    return next((value for value in values if value is not None), None)
