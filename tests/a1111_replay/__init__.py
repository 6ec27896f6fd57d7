"""A replay of AUTOMATIC1111's WebUI for tests: what it does to an extension, in order, release by release."""

from __future__ import annotations

from a1111_replay.structures import shapes_of, write_checkpoint, write_lora, write_vae
from a1111_replay.webui import GenerationFailed, WebUI

__all__ = ["GenerationFailed", "WebUI", "shapes_of", "write_checkpoint", "write_lora", "write_vae"]
