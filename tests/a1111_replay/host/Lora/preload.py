"""The arguments that exist even when this extension is disabled."""

from __future__ import annotations

import os

from modules import _host, paths


def preload(parser):
    normal = str
    if _host.at_least(8):
        from modules.paths_internal import normalized_filepath as normal
    parser.add_argument("--lora-dir", type=normal, default=os.path.join(paths.models_path, "Lora"))
    parser.add_argument("--lyco-dir-backcompat", type=normal, default=os.path.join(paths.models_path, "LyCORIS"))
