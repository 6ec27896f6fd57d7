"""Script files: their order, how they are executed, and the classes found in them."""

from __future__ import annotations

import inspect
import os
import sys
from collections import namedtuple
from typing import Any

from modules import _host, errors, extensions, paths, script_callbacks, script_loading
from modules._script_runner import ScriptRunner

AlwaysVisible = object()

ScriptFile = namedtuple("ScriptFile", ["basedir", "filename", "path"])
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])

scripts_data: list[ScriptClassData] = []
scripts_txt2img: Any = None
scripts_img2img: Any = None
current_basedir = paths.script_path


class PostprocessImageArgs:
    def __init__(self, image: Any) -> None:
        self.image = image


class PostSampleArgs:
    def __init__(self, samples: Any) -> None:
        self.samples = samples


class PostprocessBatchListArgs:
    def __init__(self, images: list) -> None:
        self.images = images


class Script:
    """The base of every script; its hooks do nothing until a script overrides them."""

    name: str | None = None
    section: str | None = None
    filename: str = ""
    args_from: int = 0
    args_to: int = 0
    alwayson = False
    is_txt2img = False
    is_img2img = False
    group: Any = None
    infotext_fields: Any = None
    paste_field_names: Any = None

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> Any: ...

    def show(self, is_img2img: bool) -> Any:
        return True

    def run(self, p: Any, *args: Any) -> Any: ...


def basedir() -> str:
    """The folder of the extension whose script file is being executed; at other times the WebUI's."""
    return current_basedir


def list_scripts(scriptdirname: str, extension: str) -> list[ScriptFile]:
    """The files in the order in which they are executed."""
    folder = os.path.join(paths.script_path, scriptdirname)
    own = [ScriptFile(paths.script_path, name, os.path.join(folder, name)) for name in _files_in(folder, extension)]
    if not extensions.HAS_METADATA:
        found = own + [file for each in extensions.active() for file in each.list_files(scriptdirname, extension)]
        return sorted(found, key=lambda file: [_priority(file.basedir), file])
    return _by_metadata(own, scriptdirname, extension)


def _files_in(folder: str, extension: str) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [name for name in names if os.path.splitext(name)[1].lower() == extension]


def _priority(folder: str) -> int:
    """1.5 and 1.6 mean "WebUI, built-in, user", but a user's extension below the WebUI's root also begins with it."""
    if folder.startswith(os.path.join(paths.script_path, "extensions-builtin")):
        return 1
    return 0 if folder.startswith(paths.script_path) else 9999


def _by_metadata(own: list[ScriptFile], scriptdirname: str, extension: str) -> list[ScriptFile]:
    from modules import _util

    files = {file.filename: file for file in own}
    after: dict[str, list[str]] = {name: [] for name in files}
    of_extension: dict[str, list[str]] = {}
    before: dict[str, list[str]] = {}
    for each in extensions.active():
        of_extension[each.canonical_name] = []
        for file in each.list_files(scriptdirname, extension):
            name = ("builtin/" if each.is_builtin else "") + f"{each.canonical_name}/{file.filename}"
            section = f"{scriptdirname}/{file.filename}"
            files[name] = file
            of_extension[each.canonical_name].append(name)
            before[name] = each.metadata.get_script_requirements("Before", section, scriptdirname)
            after[name] = each.metadata.get_script_requirements("After", section, scriptdirname)
    for name, others in after.items():
        after[name] = [one for other in others for one in ([other] if other in files else of_extension.get(other, []))]
    for name, others in before.items():
        for other in others:
            for one in [other] if other in files else of_extension.get(other, []):
                after[one].append(name)
    return [files[name] for name in _util.topological_sort(after)]


def load_scripts() -> None:
    """Forget all callbacks, then execute every file with its extension's folder in front of ``sys.path``."""
    global current_basedir, scripts_txt2img, scripts_img2img
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    real_path = sys.path
    for file in list_scripts("scripts", ".py"):
        try:
            if file.basedir != paths.script_path:
                sys.path = [file.basedir, *sys.path]
            current_basedir = file.basedir
            module = script_loading.load_module(file.path)
            classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Script)]
            scripts_data.extend(ScriptClassData(each, file.path, file.basedir, module) for each in classes)
        except Exception:
            errors.report(f"Error loading script: {file.filename}", exc_info=True)
        finally:
            sys.path = real_path
            current_basedir = paths.script_path
        _host.log(f"script:{file.filename}")
    scripts_txt2img = ScriptRunner()
    scripts_img2img = ScriptRunner()
