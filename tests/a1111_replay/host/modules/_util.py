"""Small helpers, among them the directory listing that pages look into."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence


def natural_sort_key(s: str) -> list:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", s)]


def walk_files(path: str, allowed_extensions: Sequence[str] | None = None) -> Iterator[str]:
    """Every file below a folder, links followed, in natural order."""
    if not os.path.exists(path):
        return
    for root, _, files in sorted(os.walk(path, followlinks=True), key=lambda entry: natural_sort_key(entry[0])):
        for name in sorted(files, key=natural_sort_key):
            if allowed_extensions is None or os.path.splitext(name)[1].lower() in allowed_extensions:
                yield os.path.join(root, name)


def topological_sort(dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """Names after what they depend on; what is missing or circular is passed over."""
    result: list[str] = []
    visited: set[str] = set()

    def visit(name: str) -> None:
        visited.add(name)
        for other in dependencies[name]:
            if other in dependencies and other not in visited:
                visit(other)
        result.append(name)

    for name in dependencies:
        if name not in visited:
            visit(name)
    return result


class MassFileLister:
    """Looks at each folder once between two ``reset()``; a folder that is missing raises FileNotFoundError."""

    def __init__(self) -> None:
        self.cached_dirs: dict[str, dict[str, tuple[str, float, float]]] = {}

    def find(self, path: str) -> tuple[str, float, float] | None:
        folder, name = os.path.split(path)
        if folder not in self.cached_dirs:
            stats = [(entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(folder)]
            self.cached_dirs[folder] = {name: (name, stat.st_mtime, stat.st_ctime) for name, stat in stats}
        return self.cached_dirs[folder].get(name)

    def exists(self, path: str) -> bool:
        return self.find(path) is not None

    def mctime(self, path: str) -> tuple[float, float]:
        found = self.find(path)
        return (0, 0) if found is None else found[1:]

    def reset(self) -> None:
        self.cached_dirs.clear()

    def update_file_entry(self, path: str) -> None:
        folder, name = os.path.split(path)
        if folder in self.cached_dirs:
            stat = os.stat(path)
            self.cached_dirs[folder][name] = (name, stat.st_mtime, stat.st_ctime)
