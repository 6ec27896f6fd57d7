"""The LycoPatch tab in gradio 3.32 to 4.40. It decides nothing: every content comes from ``Pages``.

Only what all these releases share is used: no JavaScript arguments, no timers, no load events. The library is our own
script's (see ``mount``); everything else works by the buttons alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] - the host brings it

from lycopatch.ui.markup import notice
from lycopatch.ui.pages import Pages


def build_tab(pages: Pages, library: str) -> gr.Blocks:
    """Return the tab. Nothing is read before the first press of a button. ``library``: HTML of the first page."""
    with gr.Blocks(analytics_enabled=False, title="LycoPatch") as blocks, gr.Tabs(elem_id="lycopatch_tabs"):
        with gr.TabItem("Library", elem_id="lycopatch_library"):
            gr.HTML(library, elem_id="lycopatch_library_html")
        with gr.TabItem("Inspect", elem_id="lycopatch_inspect_tab"):
            _inspect(pages)
        with gr.TabItem("Last picture", elem_id="lycopatch_last_picture"):
            _last_picture(pages)
    components: Any = blocks.blocks
    for component in components.values():
        component.do_not_save_to_config = True  # else the WebUI keeps them in ui-config.json, by their labels
    return blocks


def _inspect(pages: Pages) -> None:
    with gr.Row(elem_id="lycopatch_name_row"):
        name = gr.Textbox(
            label="Network", placeholder="Name, as in <lora:name:1>, or hash", scale=4, elem_id="lycopatch_name"
        )
        show = gr.Button("Inspect", variant="primary", elem_id="lycopatch_inspect")
        check = gr.Button("Check file", elem_id="lycopatch_check")
    details = gr.HTML(notice("Write the name of a network and press Inspect."), elem_id="lycopatch_details")

    def checked(text: str, progress: Any = gr.Progress()) -> str:  # noqa: B008 - how gradio recognises it
        return pages.checked(text, lambda what: nullcontext(lambda done, total: progress((done, total), desc=what)))

    for event in (name.submit, show.click):
        event(pages.shown, inputs=[name], outputs=[details])
    check.click(checked, inputs=[name], outputs=[details])


def _last_picture(pages: Pages) -> None:
    refresh = gr.Button("Refresh", elem_id="lycopatch_report_refresh")
    report = gr.HTML(notice("Press Refresh to see what the tags of the last picture did."), elem_id="lycopatch_report")
    refresh.click(pages.report, inputs=[], outputs=[report])
