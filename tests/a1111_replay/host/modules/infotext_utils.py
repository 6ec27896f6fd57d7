"""Since 1.8; importing it makes the old name an alias."""

from __future__ import annotations

import sys

from modules._infotext_parsing import parse_generation_parameters, quote, unquote  # noqa: F401

sys.modules["modules.generation_parameters_copypaste"] = sys.modules[__name__]
