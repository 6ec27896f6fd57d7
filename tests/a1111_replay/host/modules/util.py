"""Since 1.6 helpers live here; the lister of directories since 1.8."""

from __future__ import annotations

from modules import _host
from modules._util import natural_sort_key, topological_sort, walk_files  # noqa: F401

if _host.at_least(8):
    from modules._util import MassFileLister  # noqa: F401
