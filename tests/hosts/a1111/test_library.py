"""Which folders are looked into, and that one catalog serves all until something changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a1111_replay import WebUI


@pytest.fixture
def library(install: Callable[..., WebUI], running: Callable[[WebUI], Any], tmp_path: Path) -> Any:
    """A started WebUI's library, by the arguments and settings of the WebUI; closed at the end of the test."""
    opened: list[WebUI] = []

    def start(*arguments: str, **settings: object) -> Any:
        webui = install("1.10", arguments=arguments, settings={f"lycopatch_{k}": v for k, v in settings.items()})
        opened.append(webui.__enter__())
        return running(webui.start()).library

    yield start
    for webui in opened:
        webui.__exit__()


def test_by_default_the_two_folders_below_models_are_made_and_looked_into(
    install: Callable[..., WebUI], version: str, builtin_lora: bool, running: Callable[[WebUI], Any]
) -> None:
    with install(version, builtin_lora=builtin_lora) as webui:
        webui.start()
        models = webui.data / "models"
        (models / "LyCORIS").rmdir()
        assert running(webui).library.folders() == [models / "Lora", models / "LyCORIS"]
        assert (models / "LyCORIS").is_dir()
        assert [file.stem for file in running(webui).library.catalog.files] == ["ink"]


def test_folders_of_the_command_line_take_the_place_of_the_defaults(library: Any, tmp_path: Path) -> None:
    folders = library("--lora-dir", str(tmp_path / "a"), "--lyco-dir", str(tmp_path / "b")).folders()
    assert folders == [tmp_path / "a", tmp_path / "b"]


def test_folders_of_the_settings_come_last(library: Any, tmp_path: Path) -> None:
    folders = library(extra_folders=f"{tmp_path / 'more'}\n{tmp_path / 'most'}").folders()
    assert folders[2:] == [tmp_path / "more", tmp_path / "most"]


def test_one_place_by_several_names_is_one_folder_by_its_first_name(library: Any, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real, target_is_directory=True)
    folders = library("--lora-dir", str(real), extra_folders=f"{link}\n{real}\n{real}/../real").folders()
    assert [folder for folder in folders if folder != tmp_path / "webui" / "models" / "LyCORIS"] == [real]


def test_a_missing_folder_of_the_user_is_not_made_but_named_among_the_problems(library: Any, tmp_path: Path) -> None:
    found = library(extra_folders=str(tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()
    assert [issue.message for issue in found.catalog.problems] == [
        f"The folder {tmp_path / 'mistyped'} does not exist."
    ]


def test_a_file_in_the_place_of_a_folder_is_a_problem_and_no_exception(library: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (issue,) = library(extra_folders=str(tmp_path / "file")).catalog.problems
    assert "can not be read" in issue.message


def test_a_default_folder_that_can_not_be_made_is_a_problem_and_no_exception(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    found = library()
    (tmp_path / "webui" / "models" / "LyCORIS").rmdir()
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "LyCORIS does not exist" in found.catalog.problems[0].message


def test_the_catalog_is_the_same_until_folders_or_pickles_change(library: Any, tmp_path: Path) -> None:
    found = library()
    first = found.catalog
    assert found.catalog is first
    options = sys.modules["modules.shared"].opts
    options.set("lycopatch_extra_folders", str(tmp_path))
    second = found.catalog
    assert second is not first
    options.set("lycopatch_allow_pickle", True)
    third = found.catalog
    assert third is not second
    options.set("lycopatch_show_messages", False)
    assert found.catalog is third


def test_refresh_sees_a_new_file(library: Any, tmp_path: Path) -> None:
    found = library()
    assert len(found.catalog.files) == 1
    folder = tmp_path / "webui" / "models" / "Lora"
    (folder / "second.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    found.refresh()
    assert [file.stem for file in found.catalog.files] == ["ink", "second"]
