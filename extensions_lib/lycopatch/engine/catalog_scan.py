"""What lies in the network folders: names, sizes and times. No file is opened."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lycopatch.engine.reading.pickle_file import PICKLE_SUFFIXES
from lycopatch.engine.report import Issue
from lycopatch.engine.types import Fingerprint

SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})

_LITTER = frozenset(
    [".git", ".cache", ".ipynb_checkpoints", "__pycache__", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"]
)
"""Folders that programs make for themselves. Other hidden folders are scanned: people keep networks there."""

_MISSING = -1
_UNSURE = -2
_SETTLED_NS = 3_000_000_000
"""File systems keep times as coarse as two seconds: a folder changed that shortly ago may change again unnoticed."""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file with the name of a network. ``relative``: below its folder, forward slashes, without extension."""

    path: Path
    label: str
    """What tells its folder from the others: ``Lora``, or ``models/Lora`` where two folders are called so."""
    relative: str
    fingerprint: Fingerprint

    @property
    def stem(self) -> str:
        return self.relative.rpartition("/")[2]

    @property
    def is_pickle(self) -> bool:
        return self.path.suffix.lower() in PICKLE_SUFFIXES


@dataclass(slots=True)
class Listing:
    """What one scan saw. ``pickles`` are the files left out because they are pickles."""

    files: list[SeenFile] = field(default_factory=list[SeenFile])
    pickles: list[SeenFile] = field(default_factory=list[SeenFile])
    problems: list[Issue] = field(default_factory=list[Issue])
    folder_times: dict[str, int] = field(default_factory=dict[str, int])

    def outdated(self) -> bool:
        """Whether a file may have come or gone since. Costs one ``stat`` for each folder, none for files."""
        return any(_folder_time(folder) != seen for folder, seen in self.folder_times.items())


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    label: str
    below: str


def scan_folders(folders: Sequence[Path], *, allow_pickle: bool) -> Listing:
    """List the networks in the folders and below. Never raises: what can not be read becomes a problem.

    Links are followed, but each folder is listed once: loops end, and a folder that is reachable in two ways is
    listed under its real place rather than a link to it. Files are in the order of the folders, then by name.
    """
    listing = Listing()
    visited: set[str] = set()
    roots = [_Folder(str(path), label, "") for path, label in zip(folders, _labels(folders), strict=True)]
    pending, linked = roots[::-1], deque[_Folder]()
    while pending or linked:
        folder = pending.pop() if pending else linked.popleft()
        real = os.path.normcase(os.path.realpath(folder.path))
        if real in visited:
            continue
        visited.add(real)
        pending.extend(reversed(_list_folder(folder, listing, linked, allow_pickle=allow_pickle)))
    order = {root.label: index for index, root in enumerate(roots)}
    listing.files.sort(key=lambda seen: (order[seen.label], seen.relative, seen.path.suffix))
    return listing


def _list_folder(folder: _Folder, listing: Listing, linked: deque[_Folder], *, allow_pickle: bool) -> list[_Folder]:
    """Add one folder's files to the listing and its linked folders to ``linked``; return its real folders."""
    # The time is taken first: what changes while we look is noticed next time.
    listing.folder_times[folder.path] = _settled(_folder_time(folder.path))
    try:
        with os.scandir(folder.path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        listing.problems.append(_problem("missing_folder", f"The folder {folder.path} does not exist.", folder.path))
        return []
    except OSError as error:
        listing.folder_times[folder.path] = _UNSURE
        message = f"The folder {folder.path} can not be read: {error.strerror or error}."
        listing.problems.append(_problem("unreadable_folder", message, folder.path))
        return []
    folders: list[_Folder] = []
    for entry in entries:
        try:
            if entry.is_dir():
                if entry.name not in _LITTER and not entry.name.startswith(".Trash"):
                    target = linked if entry.is_symlink() else folders
                    target.append(_Folder(entry.path, folder.label, f"{folder.below}{entry.name}/"))
            else:
                _list_file(entry, folder, listing, allow_pickle=allow_pickle)
        except OSError as error:
            message = f"{entry.path} can not be read: {error.strerror or error}."
            listing.problems.append(_problem("unreadable_file", message, entry.path))
    return folders


def _list_file(entry: os.DirEntry[str], folder: _Folder, listing: Listing, *, allow_pickle: bool) -> None:
    """Add a file if its name is that of a network. Raises OSError."""
    stem, extension = os.path.splitext(entry.name)
    if extension.lower() not in SAFETENSORS_SUFFIXES | PICKLE_SUFFIXES:
        return
    if entry.name.startswith("._"):  # where macOS keeps what other file systems have no place for
        return
    status = entry.stat()
    fingerprint = Fingerprint(status.st_size, status.st_mtime_ns)
    seen = SeenFile(Path(entry.path), folder.label, folder.below + stem, fingerprint)
    (listing.pickles if seen.is_pickle and not allow_pickle else listing.files).append(seen)


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all folders apart. The folders differ."""
    depth = 1
    deepest = max((len(folder.parts) for folder in folders), default=1)
    labels = [folder.name for folder in folders]
    while len(set(labels)) < len(labels) and depth < deepest:
        depth += 1
        labels = ["/".join(folder.parts[-depth:]) for folder in folders]
    return labels


def _folder_time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return _MISSING
    except OSError:
        return _UNSURE


def _settled(mtime_ns: int) -> int:
    return mtime_ns if mtime_ns < time.time_ns() - _SETTLED_NS else _UNSURE


def _problem(kind: str, message: str, path: str) -> Issue:
    return Issue(kind, message, file=path)
