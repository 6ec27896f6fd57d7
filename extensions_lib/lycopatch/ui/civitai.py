"""What Civitai says about a network, from the files that download helpers leave beside it. Nothing is downloaded.

Dialects, all of them JSON; ``version`` and ``model`` are the objects of Civitai's public API:

- ``name.civitai.info`` (Civitai Helper): a ``version``, its ``model`` inside.
- ``name.metadata.json`` (ComfyUI Lora Manager): facts of its own, the ``version`` under ``civitai``.
- ``name.api_info.json`` (Civitai Browser+), ``name.json`` (SD.Next): a ``model`` with its ``modelVersions``.
- ``name.cm-info.json`` (Stability Matrix): facts of its own.
- ``name.json`` (Civitai Browser+): numbers of model and version among the user's own words.

Every word in there was written by strangers: texts are plain, short and without markup, links are made here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lycopatch.engine.metadata import as_count, as_dict, as_list, as_text, cut
from lycopatch.ui.sidecar import read_json, sidecar_path, stem_path

MOST_DESCRIPTION = 20_000
MOST_WORDS = 100
_LONGEST_NAME = 300
_LONGEST_WORDS = 1000
_MOST_MARKUP = 1 << 16
_MOST_VERSIONS = 1000

_MARKUP = re.compile(r"<[a-zA-Z/!?]")
_TAG = re.compile(r"<(?:(/?[a-zA-Z][a-zA-Z0-9]{0,15})[^<>]*>|([!?])[^<>]*>)?")
_LINES = frozenset("blockquote br div dd dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre section table tr ul".split())
_SILENT = frozenset({"script", "style", "template", "title"})
_INVISIBLE_BUT_WANTED = "\n\u200d"  # the second joins the parts of an emoji


@dataclass(frozen=True, slots=True)
class CivitaiInfo:
    """What Civitai says. Texts are empty, and numbers 0, where it says nothing; ``source`` is the file's ending."""

    title: str = ""
    creator: str = ""
    version: str = ""
    base_model: str = ""
    trained_words: tuple[str, ...] = ()
    description: str = ""
    nsfw: bool = False
    model_id: int = 0
    version_id: int = 0
    source: str = ""

    @property
    def url(self) -> str | None:
        """The page of the model, or of the version."""
        if self.model_id:
            version = f"?modelVersionId={self.version_id}" if self.version_id else ""
            return f"https://civitai.com/models/{self.model_id}{version}"
        return f"https://civitai.com/model-versions/{self.version_id}" if self.version_id else None


def read_civitai(
    network: Path, sha256: str | None = None, exists: Callable[[str], bool] = os.path.exists
) -> CivitaiInfo | None:
    """What the first understandable file beside a network says, or None. Never raises.

    ``sha256``: that of the network, if known, to find its version among those of a model. ``exists``: whether there is
    a file of this path, for callers that know the whole folder already.
    """
    for ending, understand in _DIALECTS:
        contents, _ = read_json(Path(stem_path(network) + ending), exists)
        info = understand(contents, network.name, sha256) if contents else None
        if info is not None and (info.url or info.title or info.trained_words):
            return CivitaiInfo(**{**asdict(info), "source": ending})
    return None


def plain_text(markup: str) -> str:
    """The words of an HTML text, one paragraph or item per line. A text without markup keeps its own lines."""
    if not _MARKUP.search(markup):
        return _tidy(markup)
    reader = _Words()
    # Python's parser takes minutes for tags that never end: it gets whole ones, without attributes.
    reader.feed(_TAG.sub(_bare, markup[:_MOST_MARKUP]))
    reader.close()
    return _tidy("".join(reader.words))


def _bare(tag: re.Match[str]) -> str:
    if tag[1]:
        return f"<{tag[1]}>"
    return "" if tag[2] else "&lt;"


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag in _LINES:
            self.words.append("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _LINES and tag != "br":
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(re.sub(r"\s+", " ", data))


def _tidy(text: str) -> str:
    """No invisible characters, no blanks at the ends of lines, never two empty lines one after the other."""
    text = text[: 4 * MOST_DESCRIPTION].replace("\r\n", "\n").replace("\t", " ")
    seen = "".join(each for each in text if each.isprintable() or each in _INVISIBLE_BUT_WANTED)
    lines = "\n".join(line.strip() for line in seen.split("\n"))
    return cut(re.sub(r"\n{3,}", "\n\n", lines).strip(), MOST_DESCRIPTION)


def _of_version(version: Mapping[str, Any], model: Mapping[str, Any]) -> CivitaiInfo:
    creator = as_dict(model.get("creator")) or as_dict(version.get("creator"))
    return CivitaiInfo(
        title=_name(model.get("name")),
        creator=_name(creator.get("username")),
        version=_name(version.get("name")),
        base_model=_name(version.get("baseModel")),
        trained_words=_words(version.get("trainedWords")),
        description=_description(model.get("description"), version.get("description")),
        nsfw=_is_nsfw(model.get("nsfw")),
        model_id=as_count(version.get("modelId")) or as_count(model.get("id")),
        version_id=as_count(version.get("id")),
    )


def _civitai_helper(contents: Mapping[str, Any], name: str, sha256: str | None) -> CivitaiInfo:
    return _of_version(contents, as_dict(contents.get("model")))


def _lora_manager(contents: Mapping[str, Any], name: str, sha256: str | None) -> CivitaiInfo | None:
    version = as_dict(contents.get("civitai"))
    if not as_count(version.get("id")):
        return None  # it keeps such a file for every network, also for those that Civitai does not have
    model = as_dict(version.get("model"))
    own = {"name": contents.get("model_name"), "description": contents.get("modelDescription")}
    return _of_version(version, {**own, **{key: value for key, value in model.items() if value}})


def _whole_model(contents: Mapping[str, Any], name: str, sha256: str | None) -> CivitaiInfo | None:
    versions = [as_dict(each) for each in as_list(contents.get("modelVersions"))[:_MOST_VERSIONS]]
    if not versions:
        return None
    own = [each for each in versions if _is_of(each, name, sha256)] or (versions if len(versions) == 1 else [{}])
    return _of_version(own[0], contents)


def _is_of(version: Mapping[str, Any], name: str, sha256: str | None) -> bool:
    """True when the network is a file of this version."""
    for file in map(as_dict, as_list(version.get("files"))):
        stated = as_dict(file.get("hashes")).get("SHA256")
        if sha256 and isinstance(stated, str):
            if stated.casefold() == sha256.casefold():
                return True
        elif file.get("name") == name:
            return True
    return False


def _stability_matrix(contents: Mapping[str, Any], name: str, sha256: str | None) -> CivitaiInfo:
    return CivitaiInfo(
        title=_name(contents.get("ModelName")),
        creator=_name(as_dict(contents.get("Author")).get("Username") or contents.get("Author")),
        version=_name(contents.get("VersionName")),
        base_model=_name(contents.get("BaseModel")),
        trained_words=_words(contents.get("TrainedWords")),
        description=_description(contents.get("ModelDescription"), contents.get("VersionDescription")),
        nsfw=_is_nsfw(contents.get("Nsfw")),
        model_id=as_count(contents.get("ModelId")),
        version_id=as_count(contents.get("VersionId")),
    )


def _among_the_users_words(contents: Mapping[str, Any], name: str, sha256: str | None) -> CivitaiInfo | None:
    if "modelVersions" in contents:
        return _whole_model(contents, name, sha256)
    numbers = as_count(contents.get("modelId")), as_count(contents.get("modelVersionId"))
    if not any(numbers):
        return None
    # activation text and description are the user's by now, and shown as such
    return CivitaiInfo(base_model=_name(contents.get("sd version")), model_id=numbers[0], version_id=numbers[1])


_DIALECTS: tuple[tuple[str, Callable[[Mapping[str, Any], str, str | None], CivitaiInfo | None]], ...] = (
    (".civitai.info", _civitai_helper),
    (".metadata.json", _lora_manager),
    (".api_info.json", _whole_model),
    (".cm-info.json", _stability_matrix),
    (sidecar_path(Path("name")).suffix, _among_the_users_words),
)


def _name(value: object) -> str:
    text = as_text(value) or ""
    return _tidy(text[: 2 * _LONGEST_NAME].replace("\n", " "))[:_LONGEST_NAME]


def _words(value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else as_list(value)
    words = (_tidy(each[:_LONGEST_WORDS].replace("\n", " ")) for each in found[:MOST_WORDS] if isinstance(each, str))
    return tuple(dict.fromkeys(filter(None, words)))


def _description(of_model: object, of_version: object) -> str:
    texts = [plain_text(each) for each in (of_model, of_version) if isinstance(each, str)]
    return cut("\n\n".join(filter(None, texts)), MOST_DESCRIPTION)


def _is_nsfw(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.casefold() not in ("", "none", "false"))
