"""Since 1.6 the command line is parsed here."""

from __future__ import annotations

from modules import _command_line

cmd_opts = _command_line.parse()
