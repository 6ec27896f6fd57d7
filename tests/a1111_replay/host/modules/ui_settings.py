"""The settings page: callbacks add to it, then everything is sorted; what comes later is not seen by it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modules import script_callbacks, shared
from modules.shared import opts


class UiSettings:
    component_dict: dict[str, Any]

    def register_settings(self) -> None:
        script_callbacks.ui_settings_callback()

    def create_ui(self) -> None:
        opts.reorder()
        self.component_dict = shared.settings_components = {}
        with gr.Blocks(analytics_enabled=False):
            for key, info in opts.data_labels.items():
                value = opts.data.get(key, info.default)
                arguments = info.component_args() if callable(info.component_args) else info.component_args
                component = info.component or {bool: gr.Checkbox, int: gr.Number, float: gr.Number}.get(
                    type(info.default), gr.Textbox
                )
                self.component_dict[key] = component(
                    label=info.label, value=value, elem_id=f"setting_{key}", **(arguments or {})
                )
