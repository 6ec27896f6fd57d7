"""``Lora hashes``: which files a picture was made with, in its parameters and back from them.

The field is written as WebUI 1.10 writes it, in every release: ``inkwash: 0123456789ab, paper: …``, the names as they
stand in the tags, 12 digits of the SHA-256 that trainers write into their files. Sites read it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_index import hash_digits
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.report import Report
from lycopatch.engine.request import TAG_KINDS
from lycopatch.engine.wording import shown
from lycopatch.hosts.a1111 import host_api
from lycopatch.ui.spelling import spelling_of

if TYPE_CHECKING:
    from lycopatch.hosts.a1111.library import Library
    from lycopatch.hosts.a1111.settings import Settings

logger = logging.getLogger(__name__)

FIELD = "Lora hashes"
_PROMPTS = ("Prompt", "Hires prompt")
_DIGITS = 12
_TAG = re.compile(rf"<({'|'.join(TAG_KINDS)}):([^:>]+)(?=[:>])")
_SEPARATORS = str.maketrans("", "", ":,")
"""What the field's own punctuation is, and so is left out of names."""


class LoraHashes:
    """Writes the field, and puts local names into pasted prompts."""

    def __init__(self, library: Library, settings: Settings) -> None:
        self._library = library
        self._settings = settings

    def write(self, p: Any, report: Report) -> None:
        """Name in the parameters of ``p`` what its tags really used; a hires pass adds to what the first pass used.

        A file that was never hashed is read once, unless the WebUI runs with ``--no-hashing``.
        """
        if not self._settings.add_hashes:
            return
        known: dict[str, str] = {}
        if getattr(p, "is_hr_pass", False):
            known.update(getattr(p, "lora_hashes", {}))
        known.update(self._used(report))
        p.lora_hashes = known
        if known:
            p.extra_generation_params[FIELD] = ", ".join(f"{name}: {digits}" for name, digits in known.items())
        else:
            p.extra_generation_params.pop(FIELD, None)

    def pasted(self, infotext: str, params: dict[str, Any]) -> None:
        """Put the local names of the networks into the prompts of pasted parameters.

        A tag that already means the right file is left alone, and so is one whose file is not here.
        """
        hashes = dict(_fields(params.get(FIELD)))
        if not hashes:
            return

        def rename(tag: re.Match[str]) -> str:
            kind, name = tag[1], tag[2]
            digits = hashes.get(_plain(name))
            local = digits and self._local_name(name, digits)
            return f"<{kind}:{local}" if local else tag[0]

        for prompt in _PROMPTS:
            text = params.get(prompt)
            if isinstance(text, str):
                params[prompt] = _TAG.sub(rename, text)

    def _used(self, report: Report) -> Iterator[tuple[str, str]]:
        catalog = self._library.catalog
        hashes = _Hashes(catalog)
        for tag in report.tags:
            if tag.failed or not (tag.layers_applied or tag.keys["embedding"]):
                continue
            try:
                digits = hashes.of(catalog.find(tag.name), compute=True)
            except (AdapterError, OSError) as error:
                logger.warning("The picture's parameters do not name %s: %s", shown(tag.name), error)
                continue
            if digits and _plain(tag.name):
                yield _plain(tag.name), digits[:_DIGITS]

    def _local_name(self, name: str, digits: str) -> str | None:
        """What this WebUI calls the network with this hash; None when it is not here."""
        catalog = self._library.catalog
        hashes = _Hashes(catalog)
        try:
            if hashes.of(catalog.find(name)).startswith(digits):
                return name
        except AdapterError:
            pass  # by the name alone it is not found here, or not clearly
        file = catalog.find_hash(digits)
        if file is None:
            others = (each for each in catalog.files if not each.stated_hashes)
            file = next((each for each in others if hashes.of(each).startswith(digits)), None)
        return spelling_of(file, catalog, prefer_alias=self._settings.prefer_alias) if file else None


class _Hashes:
    """The hashes that infotexts use."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def of(self, file: AdapterFile, *, compute: bool = False) -> str:
        """What the file says about itself, else what the WebUI knows or computes, else ""."""
        stated = hash_digits(file.metadata.get("sshs_model_hash", ""))
        if stated:
            return stated
        look_up = host_api.compute_hash if compute else host_api.known_hash
        # the built-in's title, unless several files would share it
        is_alone = self._catalog.shortest_name(file) == file.stem
        title = f"lora/{file.stem}" if is_alone else f"lycopatch/{file.path}"
        return look_up(file.path, title, safetensors=file.path.suffix.lower() == ".safetensors") or ""


def _fields(value: object) -> Iterator[tuple[str, str]]:
    """Name → digits of a field's value, which anybody may have written."""
    for part in value.split(",") if isinstance(value, str) else ():
        name, _, digits = part.rpartition(":")
        found = hash_digits(digits)
        if found:
            yield _plain(name), found


def _plain(name: str) -> str:
    """A name as the field has it."""
    return name.translate(_SEPARATORS).strip()
