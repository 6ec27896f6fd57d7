"""Counting which networks were used, for the library's order by use. Never in the way of a picture."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from lycopatch.engine.report import Report
from lycopatch.hosts.a1111.library import Library

logger = logging.getLogger(__name__)

_MARK = "lycopatch_counted"


class Usage:
    """Counts each network once per picture (a batch is one), however often its networks are activated on the way."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def count(self, p: Any, report: Report) -> None:
        """The networks of ``report`` were activated for the picture that ``p`` makes now."""
        picture = getattr(p, "iteration", 0)
        paths = [Path(tag.path) for tag in report.tags if tag.path and tag.layers_applied]
        if not paths or getattr(p, _MARK, None) == picture:
            return
        setattr(p, _MARK, picture)
        # Another program may be writing the file for seconds.
        threading.Thread(target=self._write, args=(paths, time.time()), name="LycoPatch usage", daemon=True).start()

    def _write(self, paths: list[Path], when: float) -> None:
        try:
            self._library.count_use(paths, when)
        except (sqlite3.Error, OSError) as error:
            logger.warning("The use of %d networks could not be counted: %s", len(paths), error)
