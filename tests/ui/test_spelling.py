"""What is written into a prompt for a network is read back as that network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.ui.spelling import spelling_of

HASH = "0123456789abcdef" * 4
Write = Callable[..., Path]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    (tmp_path / "Lora").mkdir()
    return tmp_path / "Lora"


@pytest.fixture
def write(lora: Path) -> Write:
    def write(name: str, **metadata: str) -> Path:
        path = lora / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
        raw = json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")
        return path

    return write


def test_the_shortest_name_is_written(lora: Path, write: Write) -> None:
    write("ink")
    write("styles/ink")
    write("styles/oil")
    catalog = Catalog([lora])
    spellings = [spelling_of(file, catalog, prefer_alias=False) for file in catalog.files]
    assert spellings == ["ink", "styles/ink", "oil"]


def test_the_trainers_name_is_written_when_it_is_wanted_and_finds_the_file(lora: Path, write: Write) -> None:
    write("a", ss_output_name="ink")
    write("b", ss_output_name="twice")
    write("c", ss_output_name="twice")
    write("d", ss_output_name="a")
    write("e", ss_output_name="x:y")
    write("f", ss_output_name="None")
    catalog = Catalog([lora])
    assert [spelling_of(file, catalog, prefer_alias=True) for file in catalog.files] == ["ink", *"bcdef"]
    assert spelling_of(catalog.files[0], catalog, prefer_alias=False) == "a"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", ["a:b", "a>b", "te=1", "a<lora:b", "line\nend", "dyn=4", "\x01", "\udcff"])
def test_a_name_that_no_tag_can_hold_is_spelled_by_its_hash(lora: Path, write: Write, name: str) -> None:
    write(name, sshs_model_hash=HASH)
    catalog = Catalog([lora])
    assert spelling_of(catalog.files[0], catalog, prefer_alias=False) == HASH[:12]
    assert catalog.find(HASH[:12]).stem == name


def test_without_a_hash_or_with_one_of_two_files_there_is_no_spelling(lora: Path, write: Write) -> None:
    write("a:b")
    write("c:d", sshs_model_hash=HASH)
    write("e:f", sshs_model_hash=HASH[:12] + "f" * 52)
    catalog = Catalog([lora])
    assert [spelling_of(file, catalog, prefer_alias=False) for file in catalog.files] == [None, None, None]
