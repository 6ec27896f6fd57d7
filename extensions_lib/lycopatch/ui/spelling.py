"""What to write into a prompt for a network: the other direction of reading a tag."""

from __future__ import annotations

from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_index import hash_digits
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.wording import printable


def spelling_of(file: AdapterFile, catalog: Catalog, *, prefer_alias: bool) -> str | None:
    """What to write in a tag so that it finds exactly this file, or None when no tag can."""
    for alias in file.usable_alias if prefer_alias else ():
        if _can_be_written(alias) and _finds(catalog, alias, file):
            return alias
    name = catalog.shortest_name(file)
    if _can_be_written(name):
        return name
    for digits in filter(None, map(hash_digits, file.stated_hashes)):
        found = catalog.find_hash(digits[:12])
        if found is not None and found.path == file.path:
            return digits[:12]
    return None


def _can_be_written(name: str) -> bool:
    """Whether a tag with this name is read back with this name."""
    parsed = parse_prompt(f"<lora:{name}:1>")
    return (
        [request.name for request in parsed.requests] == [name]
        and not parsed.issues
        and not parsed.text
        and printable(name) == name
        and all(char >= " " for char in name)
    )


def _finds(catalog: Catalog, name: str, file: AdapterFile) -> bool:
    try:
        return catalog.find(name).path == file.path
    except AdapterError:
        return False
