"""Where the extension is put together: every room is made here and gets what it needs, and nothing is looked up.

What tags need comes first. Cards, tab, routes and axes are extras: one that fails is reported, and the rest goes on.
Extras are imported when they are made; the package is in ``sys.modules`` by then, so that the path is not needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lycopatch.engine.report import Issue
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.active import ActiveNetworks
from lycopatch.hosts.a1111.builtin import BuiltinLora
from lycopatch.hosts.a1111.infotext import LoraHashes
from lycopatch.hosts.a1111.library import Library
from lycopatch.hosts.a1111.settings import Settings
from lycopatch.hosts.a1111.tag_handler import TagHandler
from lycopatch.hosts.a1111.takeover import Takeover
from lycopatch.hosts.a1111.usage import Usage

if TYPE_CHECKING:
    from lycopatch.hosts.a1111.gallery import Gallery

logger = logging.getLogger(__name__)

TITLE = "LycoPatch"
_CALM_SECONDS = 3.0
"""After the start of the WebUI, which loads a model then."""
_NO_LIBRARY = "The library can not be shown here; the reason is in the WebUI's console. Everything else works."


def register(root: Path) -> Extension:
    """Start the extension that lies in the folder ``root``. When this raises, nothing is left behind in the WebUI."""
    extension = Extension(root)
    extension.start()
    return extension


class Extension:
    """The running extension: its rooms, and what it does at each event of the WebUI's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings()
        self.library = Library(self.settings)
        self.active = ActiveNetworks(self.library, self.settings, _report_model_switch)
        self.hashes = LoraHashes(self.library, self.settings)
        self.handler = TagHandler(self.active, self.settings, self.hashes, Usage(self.library), self.check)
        self.builtin = BuiltinLora()
        self.takeover = Takeover(self.handler, self.builtin, self.active.restore)
        self._useless_here = _why_useless_here()
        self._when_done: list[Callable[[], object]] = []

    @cached_property
    def gallery(self) -> Gallery | None:
        """The library for the pages; None where it can not be, which was reported then."""
        return _attempt("the library", self._new_gallery)

    @property
    def standing_aside(self) -> str | None:
        """Why the tags are not handled by us, although the settings say so; None while all is well."""
        return self._useless_here or self.takeover.standing_aside

    def check(self) -> list[Issue]:
        """Who else handles tags or networks, called before each use of ours."""
        return self.takeover.check()

    def start(self) -> None:
        """Tell the WebUI at which events to call us."""
        events: dict[str, Callable[..., object]] = {"ui_tabs": self.make_tabs, "app_started": self.app_started}
        if self._useless_here:
            logger.warning(self._useless_here)
        else:
            self.settings.register()
            events |= {
                "before_ui": self.before_ui,
                "ui_settings": self.settings.register,
                "model_loaded": self.model_loaded,
                "cfg_denoiser": self.before_step,
                "infotext_pasted": self.hashes.pasted,
            }
        events["script_unloaded"] = self.shutdown
        try:
            for event, react in events.items():
                host_api.on(event, react)
            if "before_ui" in events:
                host_api.run_last_before_ui(events["before_ui"])
        except Exception:
            for react in events.values():
                host_api.off(react)
            raise

    def before_ui(self) -> None:
        """The WebUI is about to build its pages. Skipped by WebUI 1.5 when it has no pages."""
        self._begin()
        if self.settings.enabled:
            _attempt("the cards of networks", self._add_page)
        _attempt("the axes of the X/Y/Z plot", self._add_axes)

    def make_tabs(self) -> list[tuple[Any, str, str]]:
        """Our tab: its blocks, its title and its id."""
        return _attempt("the LycoPatch tab", self._make_tab) or []

    def app_started(self, _demo: object, app: Any) -> None:
        """The server runs and all extensions have started."""
        if not self._useless_here:
            self._begin()
            self.takeover.settle()
        _attempt("the HTTP routes", lambda: self._add_routes(app))
        if self.gallery is not None:
            _attempt("the routes of the library", partial(self.gallery.add_routes, app))
        self.library.reading.start(after=_CALM_SECONDS)

    def model_loaded(self, model: Any) -> None:
        """A model was loaded, or got another VAE. Other threads, too."""
        if self.takeover.claimed and model is not None:
            self.builtin.silence(model)
            self.active.watch(model)

    def before_step(self, _params: object) -> None:
        """The U-Net is about to run: perhaps on another model than before, which nobody told."""
        if self.takeover.claimed:
            self.check()
            self.active.follow()
        else:
            self.takeover.give_back()

    def shutdown(self) -> None:
        """Leave the WebUI as we found it; whatever fails, the rest is done."""
        for undo in [self.takeover.release, *self._when_done, self.library.close]:
            _attempt("the way out", undo)
        self._when_done.clear()
        self.settings.on_change("enabled", None)

    def _begin(self) -> None:
        """Handle the tags if the user wants it. At the earliest event there is, and again when all have started."""
        self.settings.register()
        self.settings.on_change("enabled", self._enabled_changed)
        if self.settings.enabled:
            self._claim()

    def _claim(self) -> None:
        self.takeover.claim()
        for model in host_api.loaded_models():
            self.active.watch(model)

    def _enabled_changed(self) -> None:
        with host_api.queue():
            _attempt("turning it on or off", self._claim if self.settings.enabled else self.takeover.release)

    def _add_page(self) -> None:
        from lycopatch.hosts.a1111.page import new_page

        both = self.settings.keep_builtin_page and self.builtin.has_page()
        title = TITLE if both else "Lora"
        page = new_page(self.library, self.settings, title=title, gallery=self.gallery and self.gallery.on_page)
        if not both:
            self.builtin.remove_pages()
        host_api.pages().register_page(page)

    def _new_gallery(self) -> Gallery:
        from lycopatch.hosts.a1111.gallery import Gallery

        return Gallery(self.library, self.settings, self.active)

    def _add_axes(self) -> None:
        from lycopatch.hosts.a1111.xyz_plot import register_axes

        self._when_done.append(register_axes(self.library, self.settings))

    def _make_tab(self) -> list[tuple[Any, str, str]]:
        from lycopatch.hosts.a1111.tab import tab_maker
        from lycopatch.ui.markup import notice
        from lycopatch.ui.networks import Networks
        from lycopatch.ui.pages import Pages

        pages = Pages(
            Networks(lambda: self.library.catalog),
            lambda: self.active.last,
            lambda: self.settings.allow_pickle,
            lambda: self.standing_aside,
        )
        library = self.gallery.in_tab() if self.gallery else notice(_NO_LIBRARY, "trouble")
        return tab_maker(pages, pages.aside() + library)()

    def _add_routes(self, app: Any) -> None:
        from lycopatch.hosts.a1111.api import Api, add_routes
        from lycopatch.ui.networks import Networks

        api = Api(
            Networks(lambda: self.library.catalog),
            lambda: self.active.last,
            lambda: self.settings.allow_pickle,
            self.library.refresh,
        )
        add_routes(app, api, api_auth=host_api.command_line("api_auth"))


def _attempt(what: str, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, or None after a report: a part that fails takes nothing else down."""
    try:
        return make()
    except Exception:
        host_api.report_bug(f"LycoPatch: {what} failed; everything else goes on")
        return None


def _report_model_switch() -> None:
    host_api.report_bug("LycoPatch could not put the networks into the model that the WebUI switched to")


def _why_useless_here() -> str | None:
    if host_api.is_forge():
        return (
            "This WebUI belongs to the Forge family, which patches models in its own way; LycoPatch leaves "
            "<lora:…> tags to it. The LycoPatch tab works."
        )
    if host_api.network_registry() is None:
        return "This WebUI handles <lora:…> tags in its own way; LycoPatch leaves them to it. The LycoPatch tab works."
    return None
