"""Since 1.6 the denoiser has a module of its own."""

from __future__ import annotations

from modules._denoiser import CFGDenoiser  # noqa: F401
