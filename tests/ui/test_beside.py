"""Searches find what people and sites wrote beside a network."""

from __future__ import annotations

import json
from pathlib import Path

from lycopatch.engine.catalog_facts import Words
from lycopatch.ui.beside import read_words


def test_the_users_words_and_civitais_are_found(tmp_path: Path) -> None:
    network = tmp_path / "ink.safetensors"
    own = {"activation text": "ink wash", "preferred weight": 0.7, "notes": "from a friend", "sd version": "SD1"}
    (tmp_path / "ink.json").write_text(json.dumps(own), encoding="utf-8")
    site = {"modelId": 5, "model": {"name": "Ink & Wash"}, "trainedWords": ["inkstyle"], "baseModel": "Pony"}
    (tmp_path / "ink.civitai.info").write_text(json.dumps(site), encoding="utf-8")
    words = read_words(network)
    assert (words.title, words.activation_text, words.weight, words.base_model) == (
        "Ink & Wash",
        "ink wash",
        0.7,
        "SD1",
    )
    assert {"from a friend", "inkstyle"} <= set(words.text.split("\n"))


def test_nothing_beside_is_nothing_to_find(tmp_path: Path) -> None:
    assert read_words(tmp_path / "ink.safetensors") == Words()


def test_damaged_files_are_nothing_to_find(tmp_path: Path) -> None:
    (tmp_path / "ink.json").write_text("{")
    (tmp_path / "ink.civitai.info").write_text("[1]")
    assert read_words(tmp_path / "ink.safetensors") == Words()
