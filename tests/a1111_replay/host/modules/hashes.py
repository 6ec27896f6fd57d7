"""SHA-256 of files, remembered by title; of safetensors files also without their header, as trainers write it."""

from __future__ import annotations

import hashlib
import os

from modules import _host, shared
from modules.cache import cache


def calculate_sha256(filename: str) -> str:
    with open(filename, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def addnet_hash_safetensors(b) -> str:
    b.seek(0)
    b.seek(8 + int.from_bytes(b.read(8), "little"))
    return hashlib.sha256(b.read()).hexdigest()


def sha256_from_cache(filename: str, title: str, use_addnet_hash: bool = False) -> str | None:
    known = cache("hashes-addnet" if use_addnet_hash else "hashes").get(title)
    if known is None or not os.path.exists(filename) or os.path.getmtime(filename) > known["mtime"]:
        return None
    return known["sha256"]


def sha256(filename: str, title: str, use_addnet_hash: bool = False) -> str | None:
    """None with ``--no-hashing``, unless it is known."""
    known = sha256_from_cache(filename, title, use_addnet_hash)
    if known is not None or shared.cmd_opts.no_hashing:
        return known
    if use_addnet_hash:
        with open(filename, "rb") as file:
            value = addnet_hash_safetensors(file)
    else:
        value = calculate_sha256(filename)
    _host.log(f"hashed:{title}")
    store = cache("hashes-addnet" if use_addnet_hash else "hashes")
    store[title] = {"mtime": os.path.getmtime(filename), "sha256": value}
    return value
