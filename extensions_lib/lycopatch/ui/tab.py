"""The LycoPatch tab in gradio 3.32 to 4.40. It decides nothing: every content comes from ``Pages``.

Only what all these releases share is used: no JavaScript arguments, no timers, no load events. The script of the
extension fills the name box on a click in the table and searches while one types; without it, the buttons do.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] - the host brings it

from lycopatch.ui.markup import notice
from lycopatch.ui.networks import ORDERS
from lycopatch.ui.pages import Pages


def build_tab(pages: Pages) -> gr.Blocks:
    """Return the tab. Nothing is read before the first press of a button."""
    with gr.Blocks(analytics_enabled=False, title="LycoPatch") as blocks, gr.Tabs(elem_id="lycopatch_tabs"):
        with gr.TabItem("Networks", elem_id="lycopatch_networks"):
            _networks(pages)
        with gr.TabItem("Last picture", elem_id="lycopatch_last_picture"):
            _last_picture(pages)
    components: Any = blocks.blocks
    for component in components.values():
        component.do_not_save_to_config = True  # else the WebUI keeps them in ui-config.json, by their labels
    return blocks


def _networks(pages: Pages) -> None:
    with gr.Row(elem_id="lycopatch_search_row"):
        search = gr.Textbox(
            label="Search",
            placeholder="Words of the name, trigger words, base model or algorithm",
            elem_id="lycopatch_search",
        )
        order = gr.Dropdown(choices=list(ORDERS), value="name", label="Sort by", elem_id="lycopatch_order")
        find = gr.Button("Search", elem_id="lycopatch_search_button")
        refresh = gr.Button("Refresh", elem_id="lycopatch_refresh")
    with gr.Row(elem_id="lycopatch_panes"):
        with gr.Column(scale=3, min_width=320, elem_id="lycopatch_list_pane"):
            table = gr.HTML(notice("Press Refresh to list the networks."), elem_id="lycopatch_table")
        with gr.Column(scale=2, min_width=320, elem_id="lycopatch_file_pane"):
            name = gr.Textbox(
                label="Network", placeholder="Name, as in <lora:name:1>, or hash", elem_id="lycopatch_name"
            )
            with gr.Row():
                show = gr.Button("Inspect", variant="primary", elem_id="lycopatch_inspect")
                check = gr.Button("Check file", elem_id="lycopatch_check")
            details = gr.HTML("", elem_id="lycopatch_details")

    def checked(text: str, progress: Any = gr.Progress()) -> str:  # noqa: B008 - how gradio recognises it
        return pages.checked(text, lambda what: nullcontext(lambda done, total: progress((done, total), desc=what)))

    for event in (search.submit, find.click, order.change):
        event(pages.listed, inputs=[search, order], outputs=[table])
    refresh.click(pages.refreshed, inputs=[search, order], outputs=[table])
    for event in (name.submit, show.click):
        event(pages.shown, inputs=[name], outputs=[details])
    check.click(checked, inputs=[name], outputs=[details])


def _last_picture(pages: Pages) -> None:
    refresh = gr.Button("Refresh", elem_id="lycopatch_report_refresh")
    report = gr.HTML(notice("Press Refresh to see what the tags of the last picture did."), elem_id="lycopatch_report")
    refresh.click(pages.report, inputs=[], outputs=[report])
