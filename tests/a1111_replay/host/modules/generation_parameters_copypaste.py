"""Until 1.7 the name of ``modules.infotext_utils``; afterwards an alias that exists once the new name was imported."""

from __future__ import annotations

from modules._infotext_parsing import parse_generation_parameters, quote, unquote  # noqa: F401
