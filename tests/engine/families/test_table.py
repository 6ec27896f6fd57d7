"""The table of base models holds every family, and each recognises itself."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lycopatch.engine import families
from lycopatch.engine.families import FAMILIES
from lycopatch.engine.families.binding import bind, references
from lycopatch.engine.families.family import Family

FOLDER = Path(str(families.__file__)).parent
STATING = sorted(path.stem for path in FOLDER.glob("*.py") if "\nFAMILY = " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STATING)
def test_a_family_file_is_in_the_table_under_its_own_name(name: str) -> None:
    module = importlib.import_module(f"lycopatch.engine.families.{name}")
    assert module.FAMILY in FAMILIES, f"families/{name}.py is missing in FAMILIES of families/__init__.py"
    assert module.FAMILY.name == name


def test_the_table_holds_nothing_twice_and_nothing_without_a_file() -> None:
    assert sorted(family.name for family in FAMILIES) == STATING


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_recognises_its_own_checkpoint(family: Family) -> None:
    bound = bind(family.checkpoint())
    assert (bound.family, bound.candidates, bound.variant) == (family.name, (family.name,), None)
    assert set(bound.prefixes) == {"unet"} | {encoder.component for encoder in family.encoders}


def test_the_references_cover_the_table_and_name_no_path_twice_in_one_component() -> None:
    assert set(references()) == set(STATING)
    for bound in references().values():
        paths = [(layer.component, *path) for layer in bound.layers for path in layer.paths]
        assert len(paths) == len(set(paths))


def test_underscores_keep_the_paths_of_one_naming_apart() -> None:
    for bound in references().values():
        spelled = [
            (layer.component, naming, path.replace(".", "_")) for layer in bound.layers for naming, path in layer.paths
        ]
        assert len(spelled) == len(set(spelled)), bound.family
