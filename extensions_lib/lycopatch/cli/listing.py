"""``list``: the networks in folders, by the names that tags call them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lycopatch.cli.parser import OK, TROUBLE
from lycopatch.cli.terminal import columns, paint, progress, safe, say, say_json, trouble
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.description import ranks
from lycopatch.engine.errors import AdapterNotFound, UnreadableAdapter
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.reading.header_only import HeaderOnly
from lycopatch.engine.recognise import recognise
from lycopatch.engine.wording import size_text


def run(arguments: Namespace) -> int:
    """List the folders; 0 when every folder and every file in them can be read."""
    catalog = Catalog(arguments.folders, allow_pickle=arguments.allow_pickle)
    files = catalog.files
    listed: list[dict[str, Any]] = []
    with progress("networks") as told:
        for number, file in enumerate(files, 1):
            listed.append(_entry(file, catalog, allow_pickle=arguments.allow_pickle))
            told(number, len(files))
    problems = catalog.problems
    for problem in problems:
        trouble(problem.message)
    if arguments.json:
        say_json(listed)
    else:
        _show(listed)
    return TROUBLE if problems or any(each["status"] == "unreadable" for each in listed) else OK


def _entry(file: AdapterFile, catalog: Catalog, *, allow_pickle: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": None,
        "path": str(file.path),
        "relative": file.relative,
        "alias": file.alias,
        "ambiguous": False,
        "family": None,
        "family_title": None,
        "algorithms": {},
        "ranks": {},
        "size": file.fingerprint.size,
        "status": "ok",
        "error": file.error,
    }
    entry["name"], entry["ambiguous"] = _name(file, catalog)
    try:
        with open_tensor_file(file.path, allow_pickle=allow_pickle) as opened:
            adapter = parse_adapter(HeaderOnly(opened))
    except UnreadableAdapter as error:
        return {**entry, "status": "unreadable", "error": str(error)}
    verdict = recognise(adapter)
    entry["family"], entry["family_title"] = verdict.family, verdict.title
    entry["algorithms"] = dict(adapter.algorithms)
    entry["ranks"] = {str(rank): count for rank, count in ranks(adapter).items()}
    if adapter.not_a_network is not None:
        entry["status"], entry["error"] = "not a network", f"It is {adapter.not_a_network}."
    elif not adapter.layers:
        entry["status"], entry["error"] = "empty", "It holds no layer that could be applied."
    return entry


def _name(file: AdapterFile, catalog: Catalog) -> tuple[str | None, bool]:
    """The shortest name that means this file, and whether its file name alone means several."""
    parents = file.path.parts[: -len(Path(file.relative).parts)]
    spellings = [file.stem, file.relative, *("/".join([*parents[-depth:], file.relative]) for depth in (1, 2, 3))]
    ambiguous = False
    for spelling in spellings:
        try:
            if catalog.find(spelling).path == file.path:
                return spelling, ambiguous
        except AdapterNotFound as error:
            ambiguous = ambiguous or (error.ambiguous and spelling == file.stem)
        except UnreadableAdapter:
            pass
    return None, ambiguous


def _show(listed: list[dict[str, Any]]) -> None:
    if not listed:
        say("There is no network in these folders.")
        return
    rows = [("NAME", "BASE MODEL", "ALGORITHM", "RANK", "SIZE", "STATUS"), *map(_row, listed)]
    head, *lines = columns(rows)
    say(paint(head, "bold"))
    for line in lines:
        say(line)
    if any(each["ambiguous"] for each in listed):
        say("* several files have this file name: write the folder in front of it, as shown.")


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    name = safe(entry["name"] or entry["relative"], 60) + (" *" if entry["ambiguous"] else "")
    if entry["alias"] and entry["alias"] != entry["name"]:
        name += f" ({safe(entry['alias'], 40)})"
    return (
        name,
        entry["family_title"] or "",
        ", ".join(list(entry["algorithms"])[:3]),
        ", ".join(list(entry["ranks"])[:3]) + (" …" if len(entry["ranks"]) > 3 else ""),
        size_text(entry["size"]),
        entry["status"],
    )
