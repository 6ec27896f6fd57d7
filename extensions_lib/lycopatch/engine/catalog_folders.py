"""The folders of one catalog, scanned side by side, so that a slow one keeps nobody from the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lycopatch.engine.catalog_scan import Folder, ListedFolder, Listing, differ, join, roots, scan_folder
from lycopatch.engine.report import Issue

PATIENCE = 3.0
"""Seconds after which the others are used without a folder that has not answered."""


class _Root:
    """One of the folders: what was found in it, and whether somebody is looking."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.listed: dict[str, ListedFolder] | None = None
        self.scanning: threading.Event | None = None


class Folders:
    """Scans folders. ``arrived`` is called, in another thread, when a slow folder has answered after all."""

    def __init__(self, paths: Sequence[Path], *, allow_pickle: bool, arrived: Callable[[], None]) -> None:
        self._roots = [_Root(folder) for folder in roots(paths)]
        self._allow_pickle = allow_pickle
        self._arrived = arrived
        self._lock = threading.Lock()
        self._differs = True
        self.paths = tuple(str(path) for path in paths)

    def scan(self, *, everything: bool) -> bool:
        """Look at the folders again; without ``everything`` only at those whose time has changed.

        True when another ``listing`` is there since the last call. Never raises.
        """
        if len(self._roots) == 1:
            self._scan(self._roots[0], everything=everything)
        else:
            deadline = time.monotonic() + PATIENCE
            for ended in [self._begin(root, deadline, everything=everything) for root in self._roots]:
                ended.wait(max(0.0, deadline - time.monotonic()))
        with self._lock:
            differs, self._differs = self._differs, False
        return differs

    def times(self) -> dict[str, int]:
        """When each folder was changed last, as ``Listing.folder_times``."""
        with self._lock:
            return {path: each.time for root in self._roots for path, each in (root.listed or {}).items()}

    def listing(self) -> Listing:
        """What is known now. A folder that has never answered is a problem."""
        with self._lock:
            known = [root.listed.values() if root.listed is not None else () for root in self._roots]
            silent = [root.folder.path for root in self._roots if root.listed is None]
        listing = join(known, allow_pickle=self._allow_pickle)
        for path in silent:
            message = f"The folder {path} has not answered yet; its networks are listed when it has."
            listing.problems.append(Issue("slow_folder", message, file=path))
            listing.silent.append(path)
        return listing

    def wait(self, seconds: float) -> bool:
        """Wait for folders that are still being scanned; whether there were any."""
        with self._lock:
            pending = [root.scanning for root in self._roots if root.scanning is not None]
        deadline = time.monotonic() + seconds
        for ended in pending:
            ended.wait(max(0.0, deadline - time.monotonic()))
        return bool(pending)

    def _begin(self, root: _Root, deadline: float, *, everything: bool) -> threading.Event:
        """Scan in a thread of its own, unless one is at it already."""
        with self._lock:
            if root.scanning is not None:
                return root.scanning
            ended = root.scanning = threading.Event()

        def work() -> None:
            self._scan(root, everything=everything)
            with self._lock:
                root.scanning = None
            late = time.monotonic() > deadline
            if late:
                self._arrived()
            ended.set()

        threading.Thread(target=work, name="lycopatch-scan", daemon=True).start()
        return ended

    def _scan(self, root: _Root, *, everything: bool) -> None:
        listed = scan_folder(root.folder, None if everything else root.listed)
        with self._lock:
            self._differs |= root.listed is None or differ(root.listed, listed)
            root.listed = listed
