"""The built-in Lora extension while we are here: silent, complete, and as it was when we go.

The built-in patches layers in their ``forward``: a layer with a ``network_layer_name`` that does not hold the wanted
networks is restored from the built-in's own copy and patched again. A copy that it takes of a layer that holds our
networks would bring them back later, on top of another checkpoint. So we take the names away, and give them back when
we go; a layer without a name is left alone, and not copied (WebUI 1.5 copies every layer otherwise, used or not).
What other extensions read there (``networks.available_networks``) is not touched.

a1111-sd-webui-lycoris is a copy of the built-in under another name, with the same attributes, and is treated alike.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import torch
from torch import nn

from lycopatch.engine.report import Issue
from lycopatch.hosts.a1111 import host_api

logger = logging.getLogger(__name__)

HANDLER_MODULES = ("extra_networks_lora", "extra_networks_lyco")
"""Where the classes are defined that handle tags by means of the built-in."""

PAGE_CLASSES = ("ExtraNetworksPageLora", "ExtraNetworksPageLyCORIS")

_NAME = "network_layer_name"
_STATE = ("network_current_names", "network_weights_backup", "network_bias_backup")
"""What the built-in notes at a layer: which networks it holds, and what it held before."""


class BuiltinLora:
    """The built-in Lora extension, if it is there; everything here does nothing if not. Never imports it."""

    def __init__(self) -> None:
        self._warned = False

    def silence(self, model: nn.Module) -> None:
        """Take the built-in's networks out of a model and keep it from putting any in."""
        if not any(_loaders()) or not _is_watched(model):
            return
        failed = _clean(model)
        for module in model.modules():
            vars(module).pop(_NAME, None)
        if failed:
            logger.warning(
                "The built-in Lora extension left its networks in %d layers, which could not be restored (%s). "
                "Load the checkpoint again to be rid of them.",
                len(failed),
                failed[0],
            )

    def watch(self) -> list[Issue]:
        """Take out what somebody made the built-in load, and say so once. Cheap when there is nothing."""
        loaded = [loader for loader in _loaders() if loader.loaded_networks]
        for loader in loaded:
            _unload(loader)
        for model in host_api.loaded_models():
            self.silence(model)
        if not loaded or self._warned:
            return []
        self._warned = True
        message = (
            "Another extension loaded networks through the built-in Lora extension. They were taken out: LycoPatch "
            "handles networks, and two loaders would spoil each other's weights. Use tags in the prompt, or turn off "
            '"Handle <lora:…> and <lyco:…> tags" in the settings of LycoPatch.'
        )
        return [Issue("built-in", message)]

    def take_over(self) -> None:
        """Silence it in every model. What it had loaded is no cause for a warning."""
        for loader in _loaders():
            if loader.loaded_networks:
                _unload(loader)
        for model in host_api.loaded_models():
            self.silence(model)

    def hand_back(self) -> None:
        """Let it work again. Our networks are out of the models already."""
        if not any(_loaders()):
            return
        for model in host_api.loaded_models():
            for module in model.modules():
                _forget(module)
            for name, module in (getattr(model, "network_layer_mapping", None) or {}).items():
                setattr(module, _NAME, name)

    def remove_pages(self) -> None:
        """Take its page of cards off the list of pages that the WebUI is about to build."""
        pages = host_api.pages().extra_pages
        pages[:] = [page for page in pages if not _is_page(page)]

    def has_page(self) -> bool:
        """Whether its page of cards is on the list."""
        return any(map(_is_page, host_api.pages().extra_pages))


def works_through_builtin(handler: object) -> bool:
    """Whether what handles a tag is the built-in, or an extension that builds on it."""
    return any(cls.__module__ in HANDLER_MODULES for cls in type(handler).__mro__)


def _is_page(page: object) -> bool:
    return type(page).__name__ in PAGE_CLASSES


def _loaders() -> Iterator[Any]:
    """The built-in's module and that of its copy, where they are what we think they are."""
    for name in ("networks", "l_networks"):
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or ""
        right_place = name != "networks" or "extensions-builtin" in PurePath(file).parts
        complete = all(hasattr(module, each) for each in ("load_networks", "network_restore_weights_from_backup"))
        if right_place and complete and isinstance(getattr(module, "loaded_networks", None), list):
            yield module


def _unload(loader: Any) -> None:
    """Empty its list of networks by its own means, which also removes their embeddings; by force if that fails."""
    try:
        loader.load_networks([])
    except Exception:
        host_api.report_bug("LycoPatch could not unload the networks of the built-in Lora extension")
    loader.loaded_networks.clear()


def _is_watched(model: nn.Module) -> bool:
    """Whether the built-in gave the layers of this model names: all of them or none."""
    layers = getattr(model, "network_layer_mapping", None)
    return bool(layers) and hasattr(next(reversed(layers.values())), _NAME)


def _clean(model: nn.Module) -> list[str]:
    """Restore every layer from the built-in's copies and drop these; returns why some could not be restored."""
    restore = next(_loaders()).network_restore_weights_from_backup
    failed: list[str] = []
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, _STATE[0], ()):
                try:
                    restore(module)
                except (RuntimeError, AttributeError) as error:
                    failed.append(f"{getattr(module, _NAME, 'a layer')}: {error}")
            _forget(module)
    return failed


def _forget(module: nn.Module) -> None:
    for name in _STATE:
        vars(module).pop(name, None)
