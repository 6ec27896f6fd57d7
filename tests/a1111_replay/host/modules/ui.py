"""The whole page, as far as extensions take part in it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modules import script_callbacks, scripts, ui_extra_networks, ui_settings

extra_networks_uis: dict[str, Any] = {}
"""Tab → its pages of cards."""

extension_tabs: list[tuple[Any, str, str]] = []


def create_ui() -> Any:
    settings = ui_settings.UiSettings()
    settings.register_settings()
    for tabname in ("txt2img", "img2img"):
        runner = scripts.scripts_txt2img if tabname == "txt2img" else scripts.scripts_img2img
        runner.initialize_scripts(is_img2img=tabname == "img2img")
        with gr.Blocks(analytics_enabled=False) as interface:
            runner.setup_ui()
            extra_networks_uis[tabname] = ui_extra_networks.create_ui(interface, tabname)
            ui_extra_networks.setup_ui(extra_networks_uis[tabname], gr.Gallery(elem_id=f"{tabname}_gallery"))
    with gr.Blocks(analytics_enabled=False):
        script_callbacks.ui_train_tabs_callback(script_callbacks.UiTrainTabParams([]))
    settings.create_ui()
    extension_tabs[:] = script_callbacks.ui_tabs_callback()
    with gr.Blocks(analytics_enabled=False) as demo:
        for tab, title, elem_id in extension_tabs:
            with gr.TabItem(title, id=elem_id):
                tab.render()
    return demo
