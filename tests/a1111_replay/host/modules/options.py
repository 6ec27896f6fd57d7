"""Since 1.6 the settings live here; before, in ``modules.shared``."""

from __future__ import annotations

from modules._options import OptionInfo, Options, options_section  # noqa: F401
