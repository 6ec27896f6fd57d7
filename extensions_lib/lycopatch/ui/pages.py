"""What the tab shows on each press of a button, as HTML: the tab itself only puts buttons around this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lycopatch.engine.description import ProgressOf, describe, untold
from lycopatch.engine.errors import AdapterError
from lycopatch.ui.file_view import file_html
from lycopatch.ui.markup import notice
from lycopatch.ui.networks import Networks
from lycopatch.ui.report_view import Activation, report_html


@dataclass(frozen=True)
class Pages:
    """The tab's contents. Each answer is escaped HTML; trouble with a name or a file is a sentence in it."""

    networks: Networks
    last_activation: Callable[[], Activation | None]
    allow_pickle: Callable[[], bool]
    standing_aside: Callable[[], str | None]
    """Why the extension does nothing here, as a sentence; None when it works."""

    def shown(self, name: str | None) -> str:
        """What a network is, without reading its numbers."""
        return self._described(name, untold, quick=True)

    def checked(self, name: str | None, progress: ProgressOf) -> str:
        """The same with the health of its numbers and its hashes: reads the whole file."""
        return self._described(name, progress, quick=False)

    def report(self) -> str:
        """What the last activation did."""
        return self.aside() + report_html(self.last_activation())

    def aside(self) -> str:
        """A notice when the extension does nothing here; else nothing."""
        reason = self.standing_aside()
        return notice(reason, "trouble") if reason else ""

    def _described(self, name: str | None, progress: ProgressOf, *, quick: bool) -> str:
        if not name or not name.strip():
            return notice("Write the name of a network.")
        try:
            row = self.networks.find(name)
        except AdapterError as error:
            return notice(str(error), "trouble")
        facts = describe(row.file.path, allow_pickle=self.allow_pickle(), quick=quick, progress=progress)
        return file_html(row, facts)
