"""What lies in the network folders: names, sizes and times. No file is opened."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lycopatch.engine.catalog_beside import NOTHING, Beside, Neighbours
from lycopatch.engine.reading.pickle_file import PICKLE_SUFFIXES
from lycopatch.engine.report import Issue
from lycopatch.engine.types import Fingerprint
from lycopatch.engine.wording import printable

SAFETENSORS_SUFFIXES = frozenset({".safetensors", ".sft"})
_NETWORKS = SAFETENSORS_SUFFIXES | PICKLE_SUFFIXES

_LITTER = frozenset(
    [".git", ".cache", ".ipynb_checkpoints", "__pycache__", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"]
)
"""Folders that programs make for themselves. Other hidden folders are scanned: people keep networks there."""

_MISSING = -1
_UNSURE = -2
_UNREADABLE = -3
_SETTLED_NS = 3_000_000_000
"""File systems keep times as coarse as two seconds: a folder changed that shortly ago may change again unnoticed."""


@dataclass(slots=True, eq=False)
class SeenFile:
    """A file with the name of a network. ``relative``: below its folder, forward slashes, without extension."""

    place: str
    """Its path. Thousands of ``Path`` objects would take longer than the scan itself."""
    label: str
    """What tells its folder from the others: ``Lora``, or ``models/Lora`` where two folders are called so."""
    relative: str
    suffix: str
    is_pickle: bool
    size: int
    mtime_ns: int
    beside: Beside = NOTHING

    @property
    def path(self) -> Path:
        return Path(self.place)

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.size, self.mtime_ns)

    @property
    def stem(self) -> str:
        return self.relative.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The label and the folders below it, fit to be shown."""
        below = self.relative.rpartition("/")[0]
        return printable(f"{self.label}/{below}" if below else self.label)

    @property
    def state(self) -> tuple[int, int, str]:
        """Changes when the file or something beside it does."""
        return self.size, self.mtime_ns, self.beside.state


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder to list. ``below``: the folders above it below the first one, each with a slash behind it."""

    path: str
    label: str
    below: str = ""
    is_link: bool = False
    linked: bool = False
    """Whether it, or a folder above it, is a link."""


@dataclass(slots=True)
class ListedFolder:
    """What is in one folder. ``time``: its time of change just before; ``real``: its path without links."""

    folder: Folder
    real: str
    time: int
    networks: list[SeenFile] = field(default_factory=list[SeenFile])
    folders: list[Folder] = field(default_factory=list[Folder])
    problems: list[Issue] = field(default_factory=list[Issue])

    def content(self) -> object:
        """All that is in it, to compare."""
        return self.real, self.folders, self.problems, [(seen.place, seen.state) for seen in self.networks]


@dataclass(slots=True)
class Listing:
    """What one scan saw. ``pickles`` are the files left out because they are pickles."""

    files: list[SeenFile] = field(default_factory=list[SeenFile])
    pickles: list[SeenFile] = field(default_factory=list[SeenFile])
    problems: list[Issue] = field(default_factory=list[Issue])
    folder_times: dict[str, int] = field(default_factory=dict[str, int])
    silent: list[str] = field(default_factory=list[str])
    """Folders that have not answered yet."""

    def outdated(self) -> bool:
        """Whether a file may have come or gone since. Costs one ``stat`` for each folder, none for files."""
        return any(_folder_time(folder) != seen for folder, seen in self.folder_times.items())

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Folders of which it is not known what is in them."""
        silent = (each for each, seen in self.folder_times.items() if seen in (_MISSING, _UNREADABLE))
        return (*silent, *self.silent)


def scan_folders(folders: Sequence[Path], *, allow_pickle: bool) -> Listing:
    """List the networks in the folders and below. Never raises: what can not be read becomes a problem.

    Links are followed, but each folder is listed once: loops end, and a folder that is reachable in two ways is
    listed under its real place rather than a link to it. Files are in the order of the folders, then by name.
    """
    return join([scan_folder(root).values() for root in roots(folders)], allow_pickle=allow_pickle)


def roots(folders: Sequence[Path]) -> list[Folder]:
    """The folders, which differ, with labels that tell them apart."""
    return [Folder(str(path), label) for path, label in zip(folders, _labels(folders), strict=True)]


def scan_folder(root: Folder, known: Mapping[str, ListedFolder] | None = None) -> dict[str, ListedFolder]:
    """List one folder and all below: path → what is in it.

    ``known``: what was found before; a folder whose time has not changed since is not listed again.
    """
    found: dict[str, ListedFolder] = {}
    visited: set[str] = set()
    pending, linked = [(root, os.path.realpath(root.path))], deque[Folder]()
    while pending or linked:
        if not pending:
            link = linked.popleft()
            pending.append((link, os.path.realpath(link.path)))
        folder, real = pending.pop()
        identity = os.path.normcase(real)
        if identity in visited:
            continue
        visited.add(identity)
        before = known.get(folder.path) if known else None
        if before is None or before.folder != folder or before.time != _folder_time(folder.path):
            before = _list(folder, identity)
        found[folder.path] = before
        own = (below for below in reversed(before.folders) if not below.is_link)
        pending.extend((below, os.path.join(real, os.path.basename(below.path))) for below in own)
        linked.extend(below for below in before.folders if below.is_link)
    return found


def differ(one: Mapping[str, ListedFolder], other: Mapping[str, ListedFolder]) -> bool:
    """Whether two scans of a folder saw different files."""
    return one.keys() != other.keys() or any(
        listed is not other[path] and listed.content() != other[path].content() for path, listed in one.items()
    )


def join(listed: Sequence[Iterable[ListedFolder]], *, allow_pickle: bool) -> Listing:
    """One listing of several scans, in their order; a folder that two of them met belongs to the first."""
    listing = Listing()
    visited: set[str] = set()
    every = [(rank, each) for rank, several in enumerate(listed) for each in several]
    files: list[list[SeenFile]] = [[] for _ in listed]
    for rank, each in sorted(every, key=lambda ranked: ranked[1].folder.linked):  # what no link leads to comes first
        if each.real in visited:
            continue
        visited.add(each.real)
        listing.folder_times[each.folder.path] = each.time
        listing.problems.extend(each.problems)
        for seen in each.networks:
            if allow_pickle or not seen.is_pickle:
                files[rank].append(seen)
            else:
                listing.pickles.append(seen)
    for several in files:
        several.sort(key=lambda seen: f"{seen.relative}\0{seen.suffix}")
        listing.files.extend(several)
    return listing


def _list(folder: Folder, real: str) -> ListedFolder:
    # The time is taken first: what changes while we look is noticed next time.
    listed = ListedFolder(folder, real, _settled(_folder_time(folder.path)))
    try:
        with os.scandir(folder.path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        listed.problems.append(_problem("missing_folder", f"The folder {folder.path} does not exist.", folder.path))
        return listed
    except OSError as error:
        listed.time = _UNREADABLE
        message = f"The folder {folder.path} can not be read: {error.strerror or error}."
        listed.problems.append(_problem("unreadable_folder", message, folder.path))
        return listed
    networks: list[os.DirEntry[str]] = []
    neighbours = Neighbours()
    for entry in entries:
        name = entry.name
        if _is_folder(entry):
            if name not in _LITTER and not name.startswith(".Trash"):
                is_link = entry.is_symlink()
                below = Folder(entry.path, folder.label, f"{folder.below}{name}/", is_link, is_link or folder.linked)
                listed.folders.append(below)
            continue
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in _NETWORKS:
            neighbours.add(entry, stem, suffix)
        elif not name.startswith("._"):  # where macOS keeps what other file systems have no place for
            networks.append(entry)
    for entry in networks:
        stem, suffix = os.path.splitext(entry.name)
        try:
            status = entry.stat()
        except OSError as error:
            message = f"{entry.path} can not be read: {error.strerror or error}."
            listed.problems.append(_problem("unreadable_file", message, entry.path))
            continue
        is_pickle = suffix.lower() in PICKLE_SUFFIXES
        beside = neighbours.of(stem, entry.name)
        place, label, relative = entry.path, folder.label, folder.below + stem
        listed.networks.append(
            SeenFile(place, label, relative, suffix, is_pickle, status.st_size, status.st_mtime_ns, beside)
        )
    return listed


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


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
