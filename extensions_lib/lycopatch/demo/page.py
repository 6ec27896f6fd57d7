"""The demo's page in gradio 6: make pictures, look at networks, compare them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from lycopatch.demo.judging import Judge
from lycopatch.demo.library import Library
from lycopatch.demo.page_compare import compare_tab
from lycopatch.demo.page_generate import PROMPTS, QUIET, generate_tab
from lycopatch.demo.serving import serve
from lycopatch.demo.txt2img import TextToImage
from lycopatch.ui.markup import text
from lycopatch.ui.pages import Pages
from lycopatch.ui.tab import build_tab

EXAMPLES = (
    "a red circle on blue",
    "a big yellow star on black",
    "a small white heart on purple",
    "a pink moon at the top on black",
)
"""Prompts that the embedded model was trained to understand."""


def show(studio: TextToImage, judge: Judge | None, port: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl+C. ``judge``: for the embedded model, which is the only one it knows."""
    with TemporaryDirectory(prefix="lycopatch-") as folder, Library(studio, Path(folder)) as library:
        try:
            serve(build_page(studio, library, judge), port, library.add_routes)
        finally:
            studio.stop()


def build_page(studio: TextToImage, library: Library, judge: Judge | None = None) -> gr.Blocks:
    """The page: the tabs Generate, Compare and LycoPatch, the last as the WebUI shows it.

    ``library``: of the networks of ``studio.loader``. ``judge``: for the embedded model.
    """
    examples = EXAMPLES if judge else ("a cat",)
    pages = Pages(library.networks, lambda: studio.last, lambda: False, lambda: None)
    extension = build_tab(pages, library.mount.html("tab", PROMPTS))  # here: inside a page it would render itself
    with gr.Blocks(analytics_enabled=False, title="LycoPatch demo", fill_width=True) as page:
        gr.HTML(f"<h1>LycoPatch demo</h1><p>Model: {text(studio.model)}</p>", elem_id="demo_title")
        with gr.Tabs(elem_id="demo_tabs"):
            with gr.Tab("Generate", elem_id="demo_generate"):
                generate_tab(studio, library.mount.html("page", PROMPTS), examples)
            with gr.Tab("Compare", elem_id="demo_compare"):
                compare_tab(studio, library.networks, judge, library.folder, examples)
            with gr.Tab("LycoPatch", elem_id="demo_lycopatch") as shown:
                extension.render()
        _adapt(extension, pages, shown)
    return page


def _adapt(extension: gr.Blocks, pages: Pages, shown: gr.Tab) -> None:
    """Make the extension's tab look in gradio 6 as in the WebUI, and report the last picture each time it is shown."""
    parts: dict[str | None, Any] = {block.elem_id: block for block in extension.blocks.values()}
    for block in parts.values():
        if isinstance(block, gr.HTML):
            block.apply_default_css = False
    for tab in (shown, parts["lycopatch_last_picture"]):
        tab.select(pages.report, [], [parts["lycopatch_report"]], **QUIET)
