"""What people and sites wrote beside a network, as far as searches look at it."""

from __future__ import annotations

from pathlib import Path

from lycopatch.engine.catalog_facts import Words
from lycopatch.ui.civitai import CivitaiInfo, read_civitai
from lycopatch.ui.sidecar import read_sidecar


def read_words(network: Path) -> Words:
    """The user's words first, then Civitai's. Never raises."""
    own, site = read_sidecar(network), read_civitai(network) or CivitaiInfo()
    groups = [text for group in own.groups for text in (group.name, *group.words)]
    found = [own.negative_text, own.notes, own.description, *groups, *site.trained_words, site.version, site.creator]
    return Words(
        title=site.title,
        activation_text=own.activation_text,
        weight=own.preferred_weight,
        base_model=own.sd_version or site.base_model,
        text="\n".join(filter(None, [*found, site.description])),
    )
