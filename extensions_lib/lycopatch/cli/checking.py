"""``check``: the health of files and of whole folders."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lycopatch.cli.inspecting import issue_lines
from lycopatch.cli.parser import OK, TROUBLE
from lycopatch.cli.terminal import paint, progress, safe, say, say_json, trouble
from lycopatch.engine.catalog_scan import scan_folders
from lycopatch.engine.description import checked


def run(arguments: Namespace) -> int:
    """Check every file; 0 when each of them can be read and has no fault."""
    files, problems = _files(arguments.paths, allow_pickle=arguments.allow_pickle)
    for problem in problems:
        trouble(problem)
    results: list[dict[str, Any]] = []
    for path in files:
        result = checked(path, allow_pickle=arguments.allow_pickle, progress=progress)
        results.append(result)
        if not arguments.json:
            _show(result)
    healthy = sum(result["status"] == "ok" for result in results)
    if arguments.json:
        say_json(results)
    elif len(results) != 1:
        say(f"{healthy} of {len(results)} files are in order.")
    return OK if healthy == len(results) and not problems else TROUBLE


def _files(paths: Sequence[Path], *, allow_pickle: bool) -> tuple[list[Path], list[str]]:
    """The files to check, each once, and what is wrong with the folders."""
    found: dict[Path, None] = {}
    problems: list[str] = []
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        listing = scan_folders([path], allow_pickle=allow_pickle)
        found.update((seen.path, None) for seen in listing.files)
        problems.extend(issue.message for issue in listing.problems)
        if listing.pickles:
            # no fault: without --allow-pickle they are not used as networks either
            trouble(f"Not checked in {path}: {len(listing.pickles)} pickle file(s); --allow-pickle reads them.")
    return list(found), problems


def _show(result: dict[str, Any]) -> None:
    good = result["status"] == "ok"
    say(f"{paint('good' if good else result['status'], 'green' if good else 'red')}  {safe(result['path'])}")
    for line in issue_lines(result["issues"]):
        say(f"    {line}")
