"""As in the WebUI's root: the launcher's functions once more."""

from __future__ import annotations

from modules.launch_utils import git_tag, is_installed, run_pip  # noqa: F401
