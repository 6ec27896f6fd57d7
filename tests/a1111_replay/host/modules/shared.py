"""What everybody shares: settings, command line, state, and the model, which is loaded by being looked at."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from modules import _host, _settings_of_host, _templates
from modules._options import OptionInfo, Options, options_section  # noqa: F401
from modules._util import natural_sort_key, walk_files  # noqa: F401
from modules.paths_internal import data_path, models_path, script_path  # noqa: F401

if _host.at_least(6):
    from modules.shared_cmd_options import cmd_opts
else:
    from modules import _command_line

    cmd_opts = _command_line.parse()


class State:
    """Where the generation is. ``sampling_step`` is set after a step's model calls; during them it lags."""

    def __init__(self) -> None:
        self.skipped = False
        self.interrupted = False
        self.stopping_generation = False
        self.job = ""
        self.job_no = 0
        self.job_count = 0
        self.sampling_step = 0
        self.sampling_steps = 0
        self.textinfo: str | None = None

    def begin(self, job: str = "(unknown)") -> None:
        self.__init__()
        self.job_count = -1
        self.job = job

    def end(self) -> None:
        self.job = ""
        self.job_count = 0

    def interrupt(self) -> None:
        self.interrupted = True

    def skip(self) -> None:
        self.skipped = True

    def nextjob(self) -> None:
        self.job_no += 1
        self.sampling_step = 0


class PromptStyles:
    """No styles are defined: prompts pass as they are."""

    def __init__(self) -> None:
        self.styles: dict[str, Any] = {}

    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        return prompt

    apply_negative_styles_to_prompt = apply_styles_to_prompt


config_filename = cmd_opts.ui_settings_file
options_templates = _settings_of_host.templates()
opts = Options(options_templates)
if os.path.exists(config_filename):
    opts.load(config_filename)
state = State()
prompt_styles = PromptStyles()
demo: Any = None
device: Any = None
weight_load_location: Any = None


def html(filename: str) -> str:
    """A template of the front end; unknown ones are empty."""
    return _templates.TEMPLATES.get(filename, "")


class _Shared(ModuleType):
    @property
    def sd_model(self) -> Any:
        """Loads a model when there was none yet."""
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value: Any) -> None:
        from modules import sd_models

        sd_models.model_data.set_sd_model(value)


sys.modules[__name__].__class__ = _Shared
