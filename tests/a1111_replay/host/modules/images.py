"""Saving pictures: nothing is written, but the callbacks see it as they would."""

from __future__ import annotations

import os
from typing import Any

from modules import _host, script_callbacks


def save_image(
    image: Any,
    path: str,
    basename: str,
    seed: Any = None,
    prompt: Any = None,
    extension: str = "png",
    info: Any = None,
    p: Any = None,
    **_: Any,
) -> str:
    params = script_callbacks.ImageSaveParams(
        image, p, os.path.join(path or "", f"{seed}.{extension}"), {"parameters": info}
    )
    script_callbacks.before_image_saved_callback(params)
    script_callbacks.image_saved_callback(params)
    _host.current.saved.append(params)
    return params.filename
