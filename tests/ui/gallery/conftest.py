"""A library of what people have, and a page that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gallery_library import Library, asking, opened_library, write_library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_library(tmp_path / "Lora")


@pytest.fixture
def library(folder: Path, tmp_path: Path) -> Iterator[Library]:
    with opened_library(folder, tmp_path / "cache") as library:
        yield library


@pytest.fixture
def client(library: Library) -> TestClient:
    return asking(library)


@pytest.fixture
def ids(client: TestClient) -> dict[str, str]:
    """Stem → id."""
    return {row["stem"]: row["id"] for row in client.get("networks").json()["rows"]}


@pytest.fixture
def post(client: TestClient) -> Callable[..., Any]:
    """The answer to a question that has to be answered."""

    def post(path: str, **question: object) -> Any:
        answer = client.post(path, json=question)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return post


@pytest.fixture(scope="session")
def untouched_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    place = tmp_path_factory.mktemp("untouched")
    with opened_library(write_library(place / "Lora"), place / "cache") as library:
        yield library


@pytest.fixture(scope="session")
def untouched(untouched_library: Library) -> TestClient:
    """Asks a library that no test changes."""
    return asking(untouched_library)


@pytest.fixture
def untouched_files(untouched_library: Library) -> Callable[[], dict[Path, bytes]]:
    folder = untouched_library.folder
    return lambda: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stranger(untouched_library: Library) -> TestClient:
    """Asks without a token."""
    client = asking(untouched_library)
    del client.headers["X-LycoPatch-Token"]
    return client
