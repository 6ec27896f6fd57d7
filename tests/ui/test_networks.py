"""Rows of the catalog: names, ids, search, order, pages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterNotFound
from lycopatch.ui.networks import MOST_ROWS, ORDERS, Networks


def names(networks: Networks, search: str = "", order: str = "name") -> list[str]:
    return [row.name for row in networks.page(search, order).rows]


def test_a_row_says_what_the_metadata_say(networks: Networks) -> None:
    [ink] = networks.page("inkwash").rows
    assert (ink.name, ink.base_model, ink.algorithm) == ("ink", "Stable Diffusion 1", "lora")
    assert ink.trigger_words == ("ink wash", "tree")
    [mist] = networks.page("mist").rows
    assert (mist.base_model, mist.algorithm, mist.trigger_words) == ("Stable Diffusion 2", "loha", ("mst",))


@pytest.mark.parametrize("search", ["INK", "styles/ink", "inkwash", "wash tree", "  lora diffusion ink "])
def test_every_word_of_a_search_has_to_occur_somewhere(networks: Networks, search: str) -> None:
    assert names(networks, search) == ["ink"]


def test_words_that_occur_in_no_network_find_none(networks: Networks) -> None:
    page = networks.page("ink loha")
    assert (page.rows, page.found, page.total) == ((), 0, 6)


def test_two_files_of_one_name_get_names_that_tell_them_apart(networks: Networks, catalog: Catalog) -> None:
    twins = names(networks, "twin")
    assert len(set(twins)) == 2
    assert {catalog.find(name).path.parent.name for name in twins} == {"Lora", "LyCORIS"}
    assert len({row.id for row in networks.rows()}) == 6


def test_an_id_survives_moving_the_folders_and_says_nothing_of_the_path(
    networks: Networks, folders: list[Path], tmp_path: Path
) -> None:
    before = {row.name: row.id for row in networks.rows() if "twin" not in row.name}
    shutil.move(str(folders[0]), str(tmp_path / "moved"))
    catalog = Catalog([tmp_path / "moved", folders[1]])
    moved = Networks(lambda: catalog)
    assert {row.name: row.id for row in moved.rows() if "twin" not in row.name} == before
    assert all(len(identity) == 16 and int(identity, 16) >= 0 for identity in before.values())


def test_rows_come_in_the_order_that_was_asked_for(networks: Networks, folders: list[Path]) -> None:
    os.utime(folders[1] / "mist.safetensors", (2e9, 2e9))
    networks.catalog().refresh()
    assert names(networks, order="newest")[0] == "mist"
    assert names(networks, order="damaged first")[0] == "cut"
    assert names(networks, order="base model")[:2] == ["ink", "mist"]
    assert names(networks, order="algorithm")[:2] == ["mist", "ink"]
    sizes = [row.file.fingerprint.size for row in networks.page(order="largest").rows]
    assert sizes == sorted(sizes, reverse=True)
    assert names(networks) == sorted(names(networks), key=str.casefold)
    assert all(len(names(networks, order=order)) == 6 for order in ORDERS)


def test_pages_are_bounded_and_join_without_gaps(networks: Networks) -> None:
    parts = [networks.page(offset=offset, limit=2) for offset in (0, 2, 4, 6)]
    assert [len(part.rows) for part in parts] == [2, 2, 2, 0]
    assert tuple(row for part in parts for row in part.rows) == networks.page(limit=10**9).rows
    assert MOST_ROWS == 500


def test_a_row_is_made_again_only_when_its_file_changed(networks: Networks, folders: list[Path]) -> None:
    first = {row.name: row for row in networks.rows()}
    shutil.copy(folders[0] / "twin.safetensors", folders[1] / "mist.safetensors")
    networks.catalog().refresh()
    second = {row.name: row for row in networks.rows()}
    assert second["ink"] is first["ink"]
    assert (second["mist"].algorithm, first["mist"].algorithm) == ("", "loha")


def test_a_network_is_found_as_a_tag_would_find_it(networks: Networks) -> None:
    assert networks.find("Inkwash").id == networks.find("styles/ink").id
    with pytest.raises(AdapterNotFound, match="Did you mean"):
        networks.find("imk")
