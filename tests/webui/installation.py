"""The WebUI that the person at the keyboard named, and a data folder of our own in front of it.

    WEBUI_DIR           the WebUI's folder; without it, all tests here are skipped
    WEBUI_PYTHON        its Python; else the one in its ``venv``, else ``python3``
    WEBUI_ARGS          more of its command line: ``--use-cpu all --no-half --precision full`` where there is no GPU
    WEBUI_CHECKPOINTS   a folder with two SD1 checkpoints; else its own ``models/Stable-diffusion``

Nothing is written into the WebUI's folder by us: extensions, networks, settings and pictures lie in a folder for
``--data-dir``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "probe"

_SD1_KEYS = (
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
)


class Unusable(Exception):
    """Why there is no WebUI to test in: a sentence."""


@dataclass(frozen=True)
class Installation:
    """A WebUI, two SD1 checkpoints for it, and where it keeps everything else while we test."""

    folder: Path
    python: str
    arguments: tuple[str, ...]
    checkpoints: tuple[Path, Path]
    data: Path

    @property
    def networks(self) -> Path:
        return self.data / "models" / "Lora"

    def prepare(self, *, ours: bool, settings: Mapping[str, object]) -> None:
        """Choose what the next start finds: this extension or not, and its ``config.json``."""
        extensions = self.data / "extensions"
        shutil.rmtree(extensions, ignore_errors=True)  # links: what they lead to stays
        extensions.mkdir(parents=True)
        (extensions / "zz_probe").symlink_to(PROBE, target_is_directory=True)
        if ours:
            _link_ours(extensions / "lycopatch")
        defaults = {
            "sd_model_checkpoint": self.checkpoints[0].name,
            "auto_launch_browser": "Disable",
            "live_previews_enable": False,
            "save_txt": False,
        }
        text = json.dumps({**defaults, **settings}, ensure_ascii=False)
        (self.data / "config.json").write_text(text, encoding="utf-8")

    def command(self, port: int, *more: str) -> list[str]:
        # without preparing the environment: that would download, and install for other extensions
        return [
            self.python, "launch.py", "--skip-prepare-environment", "--no-download-sd-model", "--api",
            "--port", str(port), "--data-dir", str(self.data), "--ckpt-dir", str(self.checkpoints[0].parent),
            "--gradio-allowed-path", str(self.data),  # WebUI 1.5 serves no script of extensions from there otherwise
            *self.arguments, *more,
        ]  # fmt: skip


def find_installation(data: Path) -> Installation:
    """What the environment names. Raises Unusable."""
    named = os.environ.get("WEBUI_DIR")
    if not named:
        raise Unusable("WEBUI_DIR names no WebUI: WEBUI_DIR=/path/to/stable-diffusion-webui make test-webui")
    folder = Path(named).expanduser().absolute()
    if not (folder / "launch.py").is_file():
        raise Unusable(f"WEBUI_DIR is {folder}, and there is no launch.py in it")
    own = folder / "venv" / "bin" / "python"
    python = os.environ.get("WEBUI_PYTHON") or (str(own) if own.exists() else "python3")
    arguments = tuple(shlex.split(os.environ.get("WEBUI_ARGS", "")))
    models = Path(os.environ.get("WEBUI_CHECKPOINTS") or folder / "models" / "Stable-diffusion").expanduser().absolute()
    checkpoints = [path for path in sorted(models.glob("*.safetensors")) if _is_sd1(path)][:2]
    if len(checkpoints) < 2:
        raise Unusable(f"the tests need two SD1 checkpoints (.safetensors), and {models} has {len(checkpoints)}")
    return Installation(folder, python, arguments, (checkpoints[0], checkpoints[1]), data)


def _link_ours(folder: Path) -> None:
    """The working tree as a user has it: what the WebUI looks at, and not the history, environments and tests."""
    folder.mkdir()
    for name in ("extensions_lib", "install.py", "javascript", "localizations", "metadata.ini", "scripts", "style.css"):
        (folder / name).symlink_to(ROOT / name)


def _is_sd1(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return all(key in file.keys() for key in _SD1_KEYS)  # noqa: SIM118 - the file is no dict
    except (OSError, SafetensorError):
        return False
