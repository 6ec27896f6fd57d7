"""What kind of model the WebUI has loaded, for questions that must not wait for a generation."""

from __future__ import annotations

import logging
import threading
import weakref

from torch import nn

from lycopatch.engine.errors import AdapterError
from lycopatch.engine.families.binding import CUSTOM, bind
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.live_model import WebUIModel
from lycopatch.ui.gallery.cards import Loaded

logger = logging.getLogger(__name__)


class LoadedModel:
    """Looks at each model once: a checkpoint that is loaded into the same model is of the same kind. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._families: weakref.WeakKeyDictionary[nn.Module, str | None] = weakref.WeakKeyDictionary()

    def current(self) -> Loaded | None:
        """The checkpoint's name, and its model's family if that has a name and can be patched.

        None when there is no model, or while one is being put together.
        """
        model = host_api.current_model()
        if model is None:
            return None
        file = host_api.checkpoint_file(model)
        with self._lock:
            if model not in self._families:
                try:
                    self._families[model] = _family(model)
                except RuntimeError as error:  # another thread is adding modules to it
                    logger.debug("The model is not ready: %s", error)
                    return None
            return Loaded(self._families[model], file.stem if file else "")


def _family(model: nn.Module) -> str | None:
    try:
        family = bind(WebUIModel(model, host_api.compute_device).shapes()).family
    except AdapterError as error:
        logger.info("%s", error)
        return None
    return None if family == CUSTOM else family
