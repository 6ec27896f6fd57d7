"""The LycoPatch tab as the WebUI asks for it (``on_ui_tabs``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lycopatch.ui.pages import Pages


def tab_maker(pages: Pages, library: str) -> Callable[[], list[tuple[Any, str, str]]]:
    """Return the callback for ``on_ui_tabs``: the tab's contents, its title and its id. ``library``: as HTML."""

    def make() -> list[tuple[Any, str, str]]:
        from lycopatch.ui.tab import build_tab  # gradio may be missing where there is no page to build

        return [(build_tab(pages, library), "LycoPatch", "lycopatch_tab")]

    return make
