"""The list of extensions: where, in which order, and what ``metadata.ini`` can say (1.7 and newer)."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from modules import _host, errors, shared
from modules.paths_internal import extensions_builtin_dir, extensions_dir, script_path  # noqa: F401

extensions: list[Extension] = []
extension_paths: dict[str, Extension] = {}
loaded_extensions: dict[str, Extension] = {}

HAS_METADATA = _host.at_least(7)


@dataclass
class CallbackOrderInfo:
    name: str
    before: list[str]
    after: list[str]


class ExtensionMetadata:
    """``metadata.ini``. Its ``Name`` is read and thrown away: the folder's name in lower case is what counts."""

    def __init__(self, path: str, canonical_name: str) -> None:
        self.config = configparser.ConfigParser()
        try:
            self.config.read(os.path.join(path, "metadata.ini"))
        except Exception:
            errors.report(f"Error reading metadata.ini for extension {canonical_name}.", exc_info=True)
        self.canonical_name = canonical_name.lower().strip()
        self.requires: list[str] = []

    def get_script_requirements(self, field: str, section: str, extra_section: str | None = None) -> list[str]:
        text = self.config.get(section, field, fallback="")
        if extra_section:
            text += "," + self.config.get(extra_section, field, fallback="")
        wanted = []
        for requirement in self.parse_list(text.lower()):
            alternatives = requirement.split("|")
            wanted.append(next((name for name in alternatives if name in loaded_extensions), requirement))
        return wanted

    def parse_list(self, text: str) -> list[str]:
        return [word for word in re.split(r"[,\s]+", text.strip()) if word]

    def list_callback_order_instructions(self) -> Iterator[CallbackOrderInfo]:
        for section in self.config.sections():
            kind, _, name = section.partition("/")
            if kind != "callbacks":
                continue
            if not name.startswith(self.canonical_name):
                errors.report(f"Callback order section of {self.canonical_name} names another extension: {section}")
                continue
            before, after = (self.parse_list(self.config.get(section, key, fallback="")) for key in ("Before", "After"))
            yield CallbackOrderInfo(name, before, after)


class Extension:
    def __init__(self, name: str, path: str, enabled: bool = True, is_builtin: bool = False, metadata=None) -> None:
        self.name = name
        self.path = path
        self.enabled = enabled
        self.is_builtin = is_builtin
        if HAS_METADATA:
            self.metadata: ExtensionMetadata = metadata or ExtensionMetadata(path, name)
            self.canonical_name = self.metadata.canonical_name

    def list_files(self, subdir: str, extension: str) -> list:
        from modules import scripts

        folder = os.path.join(self.path, subdir)
        if not os.path.isdir(folder):
            return []
        files = [scripts.ScriptFile(self.path, name, os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
        return [f for f in files if os.path.splitext(f.path)[1].lower() == extension and os.path.isfile(f.path)]


def active() -> list[Extension]:
    """The extensions whose scripts are loaded."""
    off = shared.opts.disable_all_extensions
    if getattr(shared.cmd_opts, "disable_all_extensions", False) or off == "all":
        return []
    if getattr(shared.cmd_opts, "disable_extra_extensions", False) or off == "extra":
        return [extension for extension in extensions if extension.enabled and extension.is_builtin]
    return [extension for extension in extensions if extension.enabled]


def list_extensions() -> None:
    """Look at both folders: the user's first in 1.5 and 1.6, the built-in ones first since 1.7."""
    for known in (extensions, extension_paths, loaded_extensions):
        known.clear()
    folders = [extensions_dir, extensions_builtin_dir]
    for folder in reversed(folders) if HAS_METADATA else folders:
        if not os.path.isdir(folder):
            if HAS_METADATA:
                continue
            break
        for name in sorted(os.listdir(folder)):
            if os.path.isdir(os.path.join(folder, name)):
                _add(name, os.path.join(folder, name), folder == extensions_builtin_dir)
    if HAS_METADATA:
        _check_requirements()


def _add(name: str, path: str, is_builtin: bool) -> None:
    enabled = name not in shared.opts.disabled_extensions
    metadata = ExtensionMetadata(path, name) if HAS_METADATA else None
    if metadata is not None and metadata.canonical_name in loaded_extensions:
        errors.report(f'Duplicate canonical name "{name}"; the second extension is left out.')
        return
    extension = Extension(name, path, enabled, is_builtin, metadata)
    extensions.append(extension)
    extension_paths[path] = extension
    # kept under the folder's own spelling, while requirements are lower-cased: they only meet for lower-case folders
    loaded_extensions[name] = extension


def _check_requirements() -> None:
    for extension in extensions:
        extension.metadata.requires = extension.metadata.get_script_requirements("Requires", "Extension")
    for extension in extensions:
        for wanted in extension.metadata.requires if extension.enabled else ():
            found = loaded_extensions.get(wanted)
            if found is None:
                errors.report(f'Extension "{extension.name}" requires "{wanted}" which is not installed.')
            elif not found.enabled:
                errors.report(f'Extension "{extension.name}" requires "{found.name}" which is disabled.')


def find_extension(filename: str) -> Extension | None:
    """The extension in whose folder a file really lies (1.9 and newer use it to name callbacks)."""
    folder = os.path.dirname(os.path.realpath(filename))
    while folder != filename:
        if folder in extension_paths:
            return extension_paths[folder]
        filename, folder = folder, os.path.dirname(folder)
    return None
