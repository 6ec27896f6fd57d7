"""The WebUI as this extension sees it: the only file that imports ``modules.*``.

Every difference between the WebUI's releases that can be settled in one place is settled here; the other rooms get
plain values and callables. Nothing here decides anything. Modules that "Reload UI" loads anew (``modules.ui_*``) are
looked up at each call.
"""

# The WebUI is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from modules import call_queue, devices, errors, extra_networks, paths, script_callbacks, sd_models, shared

# --- settings and folders --------------------------------------------------------------------------------------------


def option(key: str, default: Any) -> Any:
    """A setting of the WebUI's, or ``default`` where this release has none of that name."""
    return getattr(shared.opts, key, default)


def command_line(name: str, default: Any = None) -> Any:
    """A command line option, or ``default`` where this release has none of that name."""
    return getattr(shared.cmd_opts, name, default)


def models_folder() -> Path:
    """The WebUI's ``models`` folder."""
    return Path(paths.models_path).absolute()


def data_folder() -> Path:
    """Where the WebUI keeps what belongs to the user (``--data-dir``)."""
    return Path(getattr(paths, "data_path", None) or paths.script_path).absolute()


def cache_folder() -> Path:
    """Where the WebUI keeps what can be computed again (``cache``; ``SD_WEBUI_CACHE_DIR`` from 1.10)."""
    from modules import cache

    chosen = getattr(cache, "cache_dir", None)
    return Path(chosen).absolute() if chosen else data_folder() / "cache"


def add_settings(section: tuple[str, str], settings: Mapping[str, Any]) -> None:
    """Make settings known, with their defaults; safe to call again.

    ``options_templates`` is what counts while the WebUI starts; once its settings page was built, only ``add_option``
    reaches the live settings.
    """
    shared.options_templates.update(shared.options_section(section, dict(settings)))
    for key, info in settings.items():
        if key not in shared.opts.data_labels:
            info.section = section
            shared.opts.add_option(key, info)


def new_setting(default: Any, label: str, component: Any = None, arguments: Any = None, **more: Any) -> Any:
    """An ``OptionInfo``."""
    return shared.OptionInfo(default, label, component, arguments, **more)


def has_setting(key: str) -> bool:
    """Whether anybody made this setting known since the WebUI started."""
    return key in shared.opts.data_labels


def on_setting_changed(key: str, react: Callable[[], object] | None) -> None:
    """Call ``react`` whenever the user saves another value, not now; None: no longer."""
    shared.opts.onchange(key, react, call=False)


# --- callbacks and errors --------------------------------------------------------------------------------------------


def on(event: str, react: Callable[..., object]) -> bool:
    """Register for ``on_<event>``; False where this release has no such event."""
    register = getattr(script_callbacks, f"on_{event}", None)
    if register is None:
        return False
    register(react)
    return True


def off(react: Callable[..., object]) -> None:
    """Take a callback out again, whatever it was registered for."""
    script_callbacks.remove_callbacks_for_function(react)


def run_last_before_ui(react: Callable[..., object]) -> None:
    """Of all that is registered for ``before_ui``, call ``react`` last: the WebUI calls this list in reverse."""
    registered = script_callbacks.callback_map.get("callbacks_before_ui", [])
    own = [entry for entry in registered if entry.callback is react]
    for entry in own:
        registered.remove(entry)
        registered.insert(0, entry)


def report_bug(message: str) -> None:
    """Hand the exception that is being handled to the WebUI's own reporter, with its traceback."""
    errors.report(message, exc_info=True)


def comment(p: Any, text: str) -> None:
    """One line under the picture that ``p`` makes."""
    if hasattr(p, "comment"):
        p.comment(text)
        return
    from modules import sd_hijack

    sd_hijack.model_hijack.comments.append(text)


def show_progress(text: str | None) -> None:
    """A line beside the WebUI's progress bar; None takes it away."""
    shared.state.textinfo = text


def is_interrupted() -> bool:
    """Whether the user stopped the running generation."""
    return bool(shared.state.interrupted)


@contextlib.contextmanager
def queue() -> Iterator[None]:
    """Wait until no generation runs, and keep others from beginning. Never from inside a generation."""
    with call_queue.queue_lock:
        yield


# --- the model -------------------------------------------------------------------------------------------------------


def current_model() -> torch.nn.Module | None:
    """The loaded model, or None. Never loads one, as reading ``shared.sd_model`` would."""
    model = sd_models.model_data.sd_model
    return model if isinstance(model, torch.nn.Module) else None


def loaded_models() -> list[torch.nn.Module]:
    """Every model that the WebUI keeps, the current one among them."""
    kept = [*getattr(sd_models.model_data, "loaded_sd_models", ()), sd_models.model_data.sd_model]
    return list({id(model): model for model in kept if isinstance(model, torch.nn.Module)}.values())


def compute_device() -> torch.device:
    """Where the WebUI computes."""
    return torch.device(devices.device)


def checkpoint_file(model: Any) -> Path | None:
    """The file a model was loaded from."""
    info = getattr(model, "sd_checkpoint_info", None)
    name = getattr(info, "filename", None)
    return Path(name).absolute() if name else None


def unet_replacement() -> str | None:
    """What computes instead of the U-Net (TensorRT and the like), and does not see what is patched into it."""
    from modules import sd_unet

    replacement = getattr(sd_unet, "current_unet", None)
    if replacement is None:
        return None
    label = getattr(getattr(replacement, "option", None), "label", None)
    return str(label or type(replacement).__name__)


def conditioning_caches(p: Any) -> list[list[Any]]:
    """The lists in which the WebUI keeps ``[key, conditioning]`` from one picture to the next, each once."""
    from modules import processing

    owners = [p, processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img]
    names = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")
    found = [getattr(owner, name, None) for owner in owners for name in names]
    return list({id(cache): cache for cache in found if isinstance(cache, list)}.values())


def embedding_database() -> Any:
    """The WebUI's textual inversions (``EmbeddingDatabase``)."""
    from modules import sd_hijack

    return sd_hijack.model_hijack.embedding_db


def new_embedding(vectors: Any, name: str) -> Any:
    """An ``Embedding`` for the database; ``vectors`` as the database's own loader gives them."""
    from modules.textual_inversion import textual_inversion

    return textual_inversion.Embedding(vectors, name)


def tokens_of(model: Any, text: str) -> list[int]:
    """A text as the ids under which the database looks embeddings up."""
    return list(model.cond_stage_model.tokenize([text])[0])


def token_tables(model: Any) -> list[tuple[str | None, int]]:
    """The tables into whose output the WebUI puts embeddings: the part of an embedding it takes, and its width.

    No part is named before 1.6, where each takes the same tensor.
    """
    from modules import sd_hijack

    kinds = (sd_hijack.EmbeddingsWithFixes, getattr(sd_hijack, "TextualInversionEmbeddings", ()))
    found = [module for module in model.cond_stage_model.modules() if isinstance(module, kinds)]
    tables = [module if isinstance(module, torch.nn.Embedding) else module.wrapped for module in found]
    parts = [getattr(module, "textual_inversion_key", None) for module in found]
    return [(part, int(table.weight.shape[-1])) for part, table in zip(parts, tables, strict=True)]


# --- extra networks --------------------------------------------------------------------------------------------------


def network_registry() -> dict[str, Any] | None:
    """Tag kind → object; None where the WebUI does not have tags as we know them (SD.Next)."""
    if not hasattr(extra_networks, "extra_network_aliases"):
        return None
    return extra_networks.extra_network_registry


def is_forge() -> bool:
    """True in Forge and its relatives, whose models are patched in another way."""
    return "modules_forge" in sys.modules or importlib.util.find_spec("modules_forge") is not None


def pages() -> ModuleType:
    """``modules.ui_extra_networks``, as it is now."""
    return importlib.import_module("modules.ui_extra_networks")


def metadata_editor() -> type[Any]:
    """The base class of the editor that opens from a card."""
    return importlib.import_module("modules.ui_extra_networks_user_metadata").UserMetadataEditor


def xyz_plot() -> Any:
    """The loaded script "X/Y/Z plot", which is in no table of modules; None where it is missing."""
    from modules import scripts

    loaded = (entry.module for entry in scripts.scripts_data if Path(entry.path).name == "xyz_grid.py")
    return next((module for module in loaded if hasattr(module, "axis_options")), None)


# --- hashes ----------------------------------------------------------------------------------------------------------


def known_hash(path: Path, title: str, *, safetensors: bool) -> str | None:
    """A SHA-256 that the WebUI computed before and that is still the file's, by the title it is kept under."""
    from modules import hashes

    return hashes.sha256_from_cache(str(path), title, use_addnet_hash=safetensors)


def compute_hash(path: Path, title: str, *, safetensors: bool) -> str | None:
    """The SHA-256 that infotexts use (of safetensors: without the header); None with ``--no-hashing``."""
    from modules import hashes

    return hashes.sha256(str(path), title, use_addnet_hash=safetensors)
