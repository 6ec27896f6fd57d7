"""Name → file: the order of spellings, what happens when the disk changes, and what a name can never do."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lycopatch.engine import catalog as catalog_module
from lycopatch.engine import catalog_entry, catalog_facts, catalog_files, catalog_scan
from lycopatch.engine.catalog import AdapterFile, Catalog
from lycopatch.engine.catalog_folders import Folders
from lycopatch.engine.errors import AdapterNotFound, UnreadableAdapter
from lycopatch.engine.reading import file_hashes
from lycopatch.engine.types import Fingerprint

LONG_AGO = 1_600_000_000
HASH = "0123456789abcdef" * 4


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Lora"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def lyco(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "LyCORIS"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read, in order."""
    names: list[str] = []
    original = catalog_entry.open_tensor_file

    def counting(path: Path) -> object:
        names.append(path.name)
        return original(path)

    for module in (catalog_entry, catalog_facts):
        monkeypatch.setattr(module, "open_tensor_file", counting)
    return names


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each scan of the folders."""
    done: list[object] = []
    original = Folders.scan

    def counting(self: Folders, *, everything: bool) -> None:
        done.append(everything)
        original(self, everything=everything)

    monkeypatch.setattr(Folders, "scan", counting)
    return done


def write(path: Path, data: bytes = b"\0\0\0\0", **metadata: str) -> Path:
    """A safetensors file of one tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def settle(folder: Path) -> None:
    """Make all folders look unchanged for years, so that only later changes count."""
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        os.utime(path, (LONG_AGO, LONG_AGO))


def not_found(catalog: Catalog, name: str) -> AdapterNotFound:
    with pytest.raises(AdapterNotFound) as caught:
        catalog.find(name)
    return caught.value


# --- what is listed --------------------------------------------------------------------------------------------------


def test_a_file_is_described_by_its_header(lora: Path) -> None:
    path = write(lora / "styles" / "ink.v1.safetensors", ss_output_name="Inkwash", ss_tag_frequency="{}")
    status = path.stat()
    [file] = Catalog([lora]).files
    assert file == AdapterFile(
        path=path,
        relative="styles/ink.v1",
        stem="ink.v1",
        alias="Inkwash",
        fingerprint=Fingerprint(status.st_size, status.st_mtime_ns),
        metadata={"ss_output_name": "Inkwash", "ss_tag_frequency": "{}"},
        error=None,
    )
    assert len({file, file}) == 1


def test_embedded_pictures_are_not_kept_in_memory(lora: Path) -> None:
    write(
        lora / "a.safetensors", **{"ssmd_cover_images": "x" * 9999, "modelspec.thumbnail": "y" * 9999, "ss_steps": "1"}
    )
    [file] = Catalog([lora]).files
    assert dict(file.metadata) == {"ss_steps": "1"}


@pytest.mark.parametrize("alias", ["", "  ", "None"])
def test_an_empty_output_name_is_no_alias(lora: Path, alias: str) -> None:
    write(lora / "a.safetensors", ss_output_name=alias)
    assert Catalog([lora]).files[0].alias is None


def test_files_come_in_the_order_of_folders_and_names(lora: Path, lyco: Path) -> None:
    for path in [lyco / "a", lora / "sub" / "a", lora / "b", lora / "a"]:
        write(path.with_suffix(".safetensors"))
    catalog = Catalog([lora, lyco])
    assert [file.path.relative_to(lora.parent).as_posix() for file in catalog.files] == [
        "Lora/a.safetensors",
        "Lora/b.safetensors",
        "Lora/sub/a.safetensors",
        "LyCORIS/a.safetensors",
    ]
    assert catalog.problems == []


def test_only_names_of_networks_are_listed(lora: Path) -> None:
    for name in ["a.safetensors", "b.SafeTensors", "c.sft", "._a.safetensors", "a.png", "a.json", "a.safetensors.part"]:
        write(lora / name)
    assert [file.stem for file in Catalog([lora]).files] == ["a", "b", "c"]


def test_hidden_folders_are_scanned_but_the_litter_of_programs_is_not(lora: Path) -> None:
    for folder in [".private", ".git", ".ipynb_checkpoints", ".cache", ".Trash-1000", "__MACOSX", "@eaDir"]:
        write(lora / folder / f"in {folder}.safetensors")
    assert [file.relative for file in Catalog([lora]).files] == [".private/in .private"]


def test_pickles_are_listed_only_when_allowed_and_never_opened_for_it(lora: Path, opened: list[str]) -> None:
    for suffix in [".pt", ".ckpt", ".bin", ".pth"]:
        torch.save({"w": torch.zeros(1)}, lora / f"old{suffix}")
    assert Catalog([lora]).files == []
    files = Catalog([lora], allow_pickle=True).files
    assert [file.path.suffix for file in files] == [".bin", ".ckpt", ".pt", ".pth"]
    assert all(file.error is None and not file.metadata for file in files)
    assert opened == []


def test_no_folders_mean_no_files() -> None:
    catalog = Catalog([])
    assert (catalog.files, catalog.problems) == ([], [])
    assert not_found(catalog, "a").near_misses == ()


def test_the_same_folder_twice_lists_its_files_once(lora: Path) -> None:
    write(lora / "sub" / "a.safetensors")
    catalog = Catalog([lora, lora / "sub" / "..", lora / "sub"])
    assert [file.relative for file in catalog.files] == ["sub/a"]
    assert catalog.find("a").relative == "sub/a"


def test_links_are_followed_and_loops_end(lora: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "far.safetensors")
    write(lora / "z" / "near.safetensors")
    (lora / "away").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (lora / "a loop").symlink_to(lora, target_is_directory=True)
    (lora / "z" / "up").symlink_to(lora, target_is_directory=True)
    (lora / "a link to z").symlink_to(lora / "z", target_is_directory=True)
    (lora / "copy.safetensors").symlink_to(tmp_path / "elsewhere" / "far.safetensors")
    catalog = Catalog([lora])
    assert [file.relative for file in catalog.files] == ["away/far", "copy", "z/near"]
    assert catalog.problems == []


def test_a_folder_that_is_a_link_to_the_other_one_does_not_make_every_name_ambiguous(lora: Path) -> None:
    write(lora / "a.safetensors")
    (lora.parent / "Twin").symlink_to(lora, target_is_directory=True)
    assert Catalog([lora, lora.parent / "Twin"]).find("a").path == lora / "a.safetensors"


# --- what can not be read --------------------------------------------------------------------------------------------


def test_a_missing_folder_is_a_problem_and_the_others_are_listed(lora: Path) -> None:
    write(lora / "a.safetensors")
    catalog = Catalog([lora.parent / "Nowhere", lora])
    assert [file.stem for file in catalog.files] == ["a"]
    [problem] = catalog.problems
    assert problem.kind == "missing_folder"
    assert problem.message == f"The folder {lora.parent / 'Nowhere'} does not exist."


def test_an_unreadable_folder_is_a_problem_and_the_others_are_listed(
    lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lora / "locked" / "a.safetensors")
    write(lora / "open" / "b.safetensors")
    settle(lora)
    original = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return original(path)

    monkeypatch.setattr(catalog_scan.os, "scandir", guarded)
    catalog = Catalog([lora])
    assert [file.stem for file in catalog.files] == ["b"]
    [problem] = catalog.problems
    assert problem.kind == "unreadable_folder"
    assert problem.message == f"The folder {lora / 'locked'} can not be read: Permission denied."
    monkeypatch.undo()
    assert catalog.find("a").stem == "a"


def test_a_link_to_nothing_is_a_problem(lora: Path) -> None:
    (lora / "gone.safetensors").symlink_to(lora / "nothing.safetensors")
    (lora / "self.safetensors").symlink_to(lora / "self.safetensors")
    catalog = Catalog([lora])
    assert catalog.files == []
    assert [problem.kind for problem in catalog.problems] == ["unreadable_file", "unreadable_file"]
    assert "gone.safetensors can not be read: No such file or directory." in catalog.problems[0].message


@pytest.mark.parametrize("content", [b"", b"12345", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{]"])
def test_a_damaged_file_is_found_with_the_sentence_that_says_why(lora: Path, content: bytes) -> None:
    (lora / "broken.safetensors").write_bytes(content)
    write(lora / "good.safetensors")
    catalog = Catalog([lora])
    file = catalog.find("broken")
    assert file.error is not None
    assert file.error.startswith('"broken.safetensors" can not be read: ')
    assert dict(file.metadata) == {}
    assert file.alias is None
    assert [(problem.kind, problem.message, problem.file) for problem in catalog.problems] == [
        ("unreadable_file", file.error, "broken")
    ]
    assert catalog.find("good").error is None


def test_a_damaged_file_gets_a_new_chance_even_when_its_fingerprint_is_the_same(lora: Path) -> None:
    path = write(lora / "a.safetensors")
    good = path.read_bytes()
    path.write_bytes(b"\xff" * len(good))
    os.utime(path, (LONG_AGO, LONG_AGO))
    catalog = Catalog([lora])
    assert catalog.find("a").error is not None
    path.write_bytes(good)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert catalog.find("a").error is None
    assert catalog.problems == []


# --- the order of spellings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "styles/sub/ink.v1",
        "styles/sub/ink.v1.safetensors",
        "styles\\sub\\ink.v1",
        "Lora/styles/sub/ink.v1",
        "Lora\\styles/sub/ink.v1.safetensors",
        "ink.v1",
        "ink.v1.safetensors",
        "Ink Wash: the alias",
        HASH,
        "0X" + HASH.upper(),
        HASH[:8],
        HASH[:12],
        "fedcba98",
        " ink.v1\n",
        "\tInk Wash: the alias ",
        f" {HASH[:10]} ",
        "INK.V1",
        "Styles/Sub/Ink.V1.SAFETENSORS",
        "lora/styles/sub/ink.v1",
        "ink wash: THE alias",
        "\u200bink.v1\ufeff",
    ],
)
def test_a_file_is_found_by_each_of_its_spellings(lora: Path, name: str) -> None:
    path = write(
        lora / "styles" / "sub" / "ink.v1.safetensors",
        ss_output_name="Ink Wash: the alias",
        sshs_model_hash="0x" + HASH.upper(),
        sshs_legacy_hash="FEDCBA98",
    )
    write(lora / "other.safetensors", ss_output_name="another", sshs_model_hash="f" * 64)
    assert Catalog([lora]).find(name).path == path


@pytest.mark.parametrize(
    "name", ["ink", "ink.v", "nk.v1", "ink.v1.pt", "styles/ink.v1", "sub/ink.v1", HASH[:7], "ink_v1"]
)
def test_a_similar_name_is_offered_but_never_taken(lora: Path, name: str) -> None:
    write(lora / "styles" / "sub" / "ink.v1.safetensors", sshs_model_hash=HASH)
    assert not not_found(Catalog([lora]), name).ambiguous


def test_a_path_beats_a_file_name(lora: Path) -> None:
    write(lora / "a.safetensors")
    write(lora / "sub" / "a.safetensors")
    assert Catalog([lora]).find("a").path == lora / "a.safetensors"


def test_a_file_name_beats_an_alias(lora: Path) -> None:
    write(lora / "sub" / "a.safetensors")
    write(lora / "b.safetensors", ss_output_name="a")
    assert Catalog([lora]).find("a").stem == "a"


def test_an_alias_beats_a_hash(lora: Path) -> None:
    write(lora / "a.safetensors", sshs_model_hash=HASH)
    write(lora / "b.safetensors", ss_output_name=HASH[:10])
    assert Catalog([lora]).find(HASH[:10]).stem == "b"


def test_an_exact_spelling_beats_a_tolerant_one(lora: Path) -> None:
    write(lora / "INK.safetensors")
    write(lora / "b.safetensors", ss_output_name="ink")
    write(lora / " ink.safetensors")
    catalog = Catalog([lora])
    assert catalog.find("ink").stem == "b"
    assert catalog.find(" ink").stem == " ink"
    assert catalog.find("INK").stem == "INK"
    assert not_found(catalog, "Ink").ambiguous


def test_a_spelling_with_blanks_around_it_beats_one_of_other_case(lora: Path) -> None:
    write(lora / "x" / "Ink.safetensors")
    write(lora / "y" / "ink.safetensors")
    assert Catalog([lora]).find(" ink ").relative == "y/ink"


@pytest.mark.parametrize("name", ["None", "none", "Addams", "addams"])
def test_reserved_words_are_no_aliases_but_may_be_file_names(lora: Path, name: str) -> None:
    write(lora / "a.safetensors", ss_output_name=name)
    catalog = Catalog([lora])
    not_found(catalog, name)
    write(lora / "sub" / f"{name}.safetensors")
    assert catalog.find(name).stem == name


@pytest.mark.parametrize("name", ["a=b", "a,b", "(a)", "a.b", "水墨画", "😀", "é", "a'b", "100%", "a:b", "-", "a {} b"])
def test_a_name_may_hold_anything(lora: Path, name: str) -> None:
    write(lora / f"{name}.safetensors")
    assert Catalog([lora]).find(name).stem == name


def test_a_name_with_a_blank_at_its_end_is_found_with_and_without_it(lora: Path) -> None:
    write(lora / "a .safetensors")
    catalog = Catalog([lora])
    assert catalog.find("a ").stem == "a "
    assert catalog.find("a").stem == "a "


def test_the_way_accents_are_encoded_does_not_matter(lora: Path) -> None:
    write(lora / (unicodedata.normalize("NFD", "éclair") + ".safetensors"))
    assert Catalog([lora]).find(unicodedata.normalize("NFC", "éclair")).error is None


def test_safetensors_beat_the_pickle_of_the_same_name(lora: Path) -> None:
    write(lora / "a.safetensors")
    torch.save({}, lora / "a.pt")
    catalog = Catalog([lora], allow_pickle=True)
    assert catalog.find("a").path.suffix == ".safetensors"
    assert catalog.find("A").path.suffix == ".safetensors"
    assert catalog.find("a.pt").path.suffix == ".pt"


def test_two_pickles_of_the_same_name_are_told_apart_by_their_extension(lora: Path) -> None:
    torch.save({}, lora / "a.bin")
    torch.save({}, lora / "a.pt")
    catalog = Catalog([lora], allow_pickle=True)
    error = not_found(catalog, "a")
    assert error.near_misses == ("a.bin", "a.pt")
    assert [catalog.find(name).path.name for name in error.near_misses] == ["a.bin", "a.pt"]


def test_a_pickle_that_is_not_allowed_is_refused_with_what_to_do(lora: Path) -> None:
    torch.save({}, lora / "Old.pt")
    with pytest.raises(UnreadableAdapter) as caught:
        Catalog([lora]).find("old")
    assert caught.value.path == lora / "Old.pt"
    assert "pickle" in str(caught.value)


# --- several fit -----------------------------------------------------------------------------------------------------


def test_one_file_name_in_two_folders_is_ambiguous_and_each_offer_finds_its_file(lora: Path) -> None:
    write(lora / "x" / "a.safetensors")
    write(lora / "y" / "a.safetensors")
    catalog = Catalog([lora])
    error = not_found(catalog, "a")
    assert error.ambiguous
    assert error.near_misses == ("x/a", "y/a")
    assert str(error) == 'The name "a" fits several networks: "x/a", "y/a". Write the folder in front of it.'
    assert [catalog.find(name).relative for name in error.near_misses] == ["x/a", "y/a"]


def test_one_path_below_two_folders_is_told_apart_by_the_folder_s_name(lora: Path, lyco: Path) -> None:
    write(lora / "a.safetensors")
    write(lyco / "a.safetensors")
    catalog = Catalog([lora, lyco])
    error = not_found(catalog, "a")
    assert error.near_misses == ("Lora/a", "LyCORIS/a")
    assert [catalog.find(name).path.parent for name in error.near_misses] == [lora, lyco]


def test_two_folders_of_one_name_are_told_apart_by_the_folder_above(lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "shared" / "Lora"
    write(lora / "a.safetensors")
    write(other / "a.safetensors")
    catalog = Catalog([lora, other])
    error = not_found(catalog, "a")
    assert error.near_misses == ("models/Lora/a", "shared/Lora/a")
    assert [catalog.find(name).path.parent for name in error.near_misses] == [lora, other]


def test_an_alias_of_two_files_is_ambiguous(lora: Path) -> None:
    write(lora / "a-000005.safetensors", ss_output_name="a")
    write(lora / "a-000010.safetensors", ss_output_name="a")
    error = not_found(Catalog([lora]), "a")
    assert error.ambiguous
    assert error.near_misses == ("a-000005", "a-000010")


def test_spellings_that_differ_only_in_case_are_ambiguous_for_a_third(lora: Path) -> None:
    write(lora / "x" / "Ink.safetensors")
    write(lora / "y" / "ink.safetensors")
    catalog = Catalog([lora])
    assert catalog.find("ink").relative == "y/ink"
    assert not_found(catalog, "INK").near_misses == ("Ink", "ink")


def test_copies_are_no_reason_to_refuse_a_hash(lora: Path) -> None:
    write(lora / "a.safetensors", sshs_model_hash=HASH)
    write(lora / "b.safetensors", sshs_model_hash=HASH)
    catalog = Catalog([lora])
    assert catalog.find(HASH[:12]).stem == "a"
    write(lora / "c.safetensors", sshs_model_hash=HASH[:12] + "0" * 52)
    catalog.refresh()
    assert not_found(catalog, HASH[:12]).ambiguous
    assert catalog.find_hash(HASH[:12]) is None
    assert catalog.find(HASH[:13]).stem == "a"


# --- near misses -----------------------------------------------------------------------------------------------------


def test_the_shortest_name_of_every_file_finds_that_file_and_no_other(lora: Path, lyco: Path) -> None:
    for folder, names in ((lora, ["ink", "sub/ink", "sub/oil", "wash"]), (lyco, ["ink", "chalk"])):
        for name in names:
            write(folder / f"{name}.safetensors")
    catalog = Catalog([lora, lyco])
    names = [catalog.shortest_name(file) for file in catalog.files]
    assert names == ["Lora/ink", "sub/ink", "oil", "wash", "chalk", "LyCORIS/ink"]
    assert [catalog.find(name) for name in names] == catalog.files


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("ink-wash style", "Ink_Wash_Style"),
        ("ink.wash.style", "Ink_Wash_Style"),
        ("Ink Wash Stile", "Ink_Wash_Style"),
        ("wash", "Ink_Wash_Style"),
        ("Ink_Wash_Style_v2", "Ink_Wash_Style"),
        ("wrong/Ink_Wash_Style", "Ink_Wash_Style"),
        ("Ink_Wash_Style：0.8", "Ink_Wash_Style"),
        ("shiny thinks", "shiny things"),
        ("portriats/anna", "anna"),
        ("portriats/ana", "anna"),
    ],
)
def test_what_was_probably_meant_is_offered_first_and_can_be_found(lora: Path, name: str, offer: str) -> None:
    write(lora / "styles" / "Ink_Wash_Style.safetensors")
    write(lora / "st-000001.safetensors", ss_output_name="shiny things")
    write(lora / "portraits" / "anna.safetensors")
    catalog = Catalog([lora])
    error = not_found(catalog, name)
    assert not error.ambiguous
    assert error.near_misses[0] == offer
    assert f'"{offer}"' in str(error)
    assert catalog.find(offer).error is None


def test_an_ambiguous_alias_is_offered_as_the_file_names_behind_it(lora: Path) -> None:
    write(lora / "q1.safetensors", ss_output_name="shiny things")
    write(lora / "q2.safetensors", ss_output_name="shiny things")
    assert set(not_found(Catalog([lora]), "shiny thinks").near_misses) <= {"q1", "q2"}


def test_at_most_five_near_misses_are_offered(lora: Path) -> None:
    for index in range(9):
        write(lora / f"ink {index}.safetensors")
    assert len(not_found(Catalog([lora]), "ink").near_misses) == 5


@pytest.mark.parametrize("name", ["", " ", "___", "zzzzzz", "x" * 10_000, "ink " * 999, "\0", "😀"])
def test_nothing_similar_means_nothing_offered(lora: Path, name: str) -> None:
    write(lora / "ink.safetensors")
    assert not_found(Catalog([lora]), name).near_misses == ()


# --- the disk changes ------------------------------------------------------------------------------------------------


def test_a_header_is_read_again_only_when_the_file_changed(lora: Path, opened: list[str]) -> None:
    write(lora / "a.safetensors")
    path = write(lora / "b.safetensors", ss_output_name="old")
    catalog = Catalog([lora])
    assert len(catalog.files) == 2
    catalog.refresh()
    assert len(catalog.files) == 2
    assert opened == ["a.safetensors", "b.safetensors"]
    write(path, ss_output_name="newer")
    catalog.refresh()
    assert [file.alias for file in catalog.files] == [None, "newer"]
    assert opened == ["a.safetensors", "b.safetensors", "b.safetensors"]


def test_finding_by_file_name_reads_one_header(lora: Path, opened: list[str]) -> None:
    for name in ["a", "b", "c"]:
        write(lora / f"{name}.safetensors")
    catalog = Catalog([lora])
    catalog.find("b")
    catalog.find("b")
    assert opened == ["b.safetensors"]


def test_a_file_retrained_under_the_same_name_is_read_again(lora: Path) -> None:
    path = write(lora / "a.safetensors", ss_steps="1")
    catalog = Catalog([lora])
    old = catalog.find("a")
    write(path, ss_steps="1000")
    new = catalog.find("a")
    assert new.metadata["ss_steps"] == "1000"
    assert new.fingerprint != old.fingerprint
    assert catalog.files == [new]


def test_a_file_of_the_same_size_written_again_is_noticed_by_its_time(lora: Path) -> None:
    path = write(lora / "a.safetensors", ss_steps="1")
    catalog = Catalog([lora])
    catalog.find("a")
    write(path, ss_steps="2")
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert catalog.find("a").metadata["ss_steps"] == "2"


def test_a_new_file_is_found_without_a_refresh(lora: Path) -> None:
    (lora / "sub").mkdir()
    catalog = Catalog([lora])
    settle(lora)
    not_found(catalog, "new")
    write(lora / "sub" / "new.safetensors", ss_output_name="the new one")
    assert catalog.find("new").relative == "sub/new"
    write(lora / "brand" / "newer.safetensors", ss_output_name="the newest")
    assert catalog.find("the newest").stem == "newer"


def test_a_folder_that_was_missing_is_found_when_it_appears(lora: Path) -> None:
    catalog = Catalog([lora / "later"])
    not_found(catalog, "a")
    write(lora / "later" / "a.safetensors")
    assert catalog.find("a").stem == "a"


def test_a_file_added_in_the_same_moment_as_the_scan_is_not_missed(lora: Path) -> None:
    catalog = Catalog([lora])
    catalog.refresh()
    status = lora.stat()
    write(lora / "a.safetensors")
    os.utime(lora, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert catalog.find("a").stem == "a"


def test_names_that_do_not_exist_cost_no_scan_while_no_folder_changes(lora: Path, scans: list[object]) -> None:
    write(lora / "sub" / "a.safetensors")
    settle(lora)
    catalog = Catalog([lora, lora.parent / "missing"])
    for _ in range(5):
        not_found(catalog, "nothing")
        assert catalog.find_hash("12345678") is None
    assert len(scans) == 1


def test_a_removed_file_is_not_found_any_more(lora: Path) -> None:
    path = write(lora / "a.safetensors", ss_output_name="alias", sshs_model_hash=HASH)
    write(lora / "b.safetensors")
    catalog = Catalog([lora])
    assert catalog.find("a").path == path
    path.unlink()
    for name in ["a", "alias", HASH]:
        assert "a" not in not_found(catalog, name).near_misses
    assert [file.stem for file in catalog.files] == ["b"]


def test_an_ambiguity_ends_when_one_of_the_files_is_removed(lora: Path) -> None:
    write(lora / "x" / "a.safetensors")
    path = write(lora / "y" / "a.safetensors")
    catalog = Catalog([lora])
    assert not_found(catalog, "a").ambiguous
    path.unlink()
    assert catalog.find("a").relative == "x/a"


def test_an_alias_that_was_changed_on_disk_does_not_lead_to_the_file_any_more(lora: Path) -> None:
    path = write(lora / "a.safetensors", ss_output_name="before")
    catalog = Catalog([lora])
    assert catalog.find("before").path == path
    write(path, ss_output_name="after that")
    not_found(catalog, "before")
    assert catalog.find("after that").path == path


def test_a_file_that_becomes_unreadable_says_so(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lora / "a.safetensors")
    catalog = Catalog([lora])

    def refused(path: Path) -> Fingerprint:
        raise PermissionError(13, "Permission denied", str(path))

    def unreadable(path: Path) -> object:
        raise UnreadableAdapter(path, "permission denied.")

    assert catalog.find("a").error is None
    monkeypatch.setattr(catalog_files, "fingerprint_of", refused)
    monkeypatch.setattr(catalog_entry, "open_tensor_file", unreadable)
    assert catalog.find("a").error == '"a.safetensors" can not be read: permission denied.'


def test_threads_may_ask_while_files_come_and_go(lora: Path) -> None:
    write(lora / "stays.safetensors", ss_output_name="steady")
    catalog = Catalog([lora])
    finished = threading.Event()

    def ask() -> int:
        rounds = 0
        while not finished.is_set():
            assert catalog.find("stays").alias == "steady"
            assert catalog.find("steady").stem == "stays"
            assert not not_found(catalog, "stayz").ambiguous
            assert "stays" in {file.stem for file in catalog.files}
            rounds += 1
        return rounds

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for index in range(40):
            path = write(lora / f"comes {index % 3}.safetensors", ss_output_name=f"alias {index}")
            catalog.refresh()
            if index % 2:
                path.unlink()
        finished.set()
        assert all(thread.result() > 0 for thread in asking)


# --- hashes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed, in order."""
    names: list[str] = []

    def counting(path: Path) -> object:
        names.append(path.name)
        return file_hashes(path)

    monkeypatch.setattr(catalog_module, "file_hashes", counting)
    return names


def test_a_name_that_looks_like_a_hash_hashes_nothing(lora: Path, hashed: list[str]) -> None:
    path = write(lora / "a.safetensors", b"data")
    catalog = Catalog([lora])
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    not_found(catalog, digits[:10])
    assert catalog.find_hash(digits) is None
    assert hashed == []


@pytest.mark.parametrize("kind", ["sha256", "autov2", "autov3", "short", "autov1"])
@pytest.mark.parametrize("spell", [str.lower, str.upper, lambda digits: f"0x{digits}"])
def test_every_kind_of_hash_is_computed_when_asked_for(lora: Path, kind: str, spell: Callable[[str], str]) -> None:
    write(lora / "a.safetensors", b"1" * 0x110000)
    path = write(lora / "b.safetensors", b"2" * 0x110000)
    digits = getattr(file_hashes(path), kind)
    catalog = Catalog([lora])
    found = catalog.find_hash(spell(digits), compute=True)
    assert found is not None
    assert found.path == path
    assert catalog.find(digits) == found


def test_a_hash_is_computed_once_and_not_at_all_when_the_file_states_it(lora: Path, hashed: list[str]) -> None:
    a = write(lora / "a.safetensors", b"first")
    write(lora / "b.safetensors", b"second", sshs_model_hash=HASH)
    c = write(lora / "c.safetensors", b"third")
    catalog = Catalog([lora])
    found = catalog.find_hash(HASH[:12], compute=True)
    assert found is not None
    assert found.stem == "b"
    assert hashed == []
    catalog.find_hash(file_hashes(a).autov2, compute=True)
    assert hashed == ["a.safetensors"]
    catalog.find_hash(file_hashes(c).autov2, compute=True)
    catalog.find_hash("0" * 10, compute=True)
    catalog.refresh()
    catalog.find_hash(file_hashes(a).short, compute=True)
    assert hashed == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_a_changed_file_is_hashed_again(lora: Path) -> None:
    path = write(lora / "a.safetensors", b"old")
    old = file_hashes(path).autov3
    catalog = Catalog([lora])
    assert catalog.find_hash(old, compute=True) is not None
    write(path, b"newer")
    assert catalog.find_hash(old, compute=True) is None
    assert catalog.find_hash(file_hashes(path).autov3, compute=True) is not None


@pytest.mark.parametrize("digits", ["", "abc", "1234567", "not a hash", "g" * 10, "0" * 65, "0x", "../../etc"])
def test_what_is_no_hash_finds_nothing_and_hashes_nothing(lora: Path, digits: str, hashed: list[str]) -> None:
    write(lora / "a.safetensors", sshs_model_hash="", sshs_legacy_hash="abc")
    assert Catalog([lora]).find_hash(digits, compute=True) is None
    assert hashed == []


def test_the_legacy_hash_of_small_files_names_none_of_them(lora: Path) -> None:
    write(lora / "a.safetensors", sshs_legacy_hash="e3b0c442")
    catalog = Catalog([lora])
    assert catalog.find_hash("e3b0c442", compute=True) is None
    not_found(catalog, "e3b0c442")


def test_a_file_that_can_not_be_hashed_is_a_problem_and_the_others_are_hashed(
    lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lora / "a.safetensors", b"first")
    b = write(lora / "b.safetensors", b"second")

    def picky(path: Path) -> object:
        if path.stem == "a":
            raise UnreadableAdapter(path, "the disk says no.")
        return file_hashes(path)

    monkeypatch.setattr(catalog_module, "file_hashes", picky)
    catalog = Catalog([lora])
    found = catalog.find_hash(file_hashes(b).short, compute=True)
    assert found is not None
    assert found.stem == "b"
    assert [problem.message for problem in catalog.problems] == ['"a.safetensors" can not be read: the disk says no.']


# --- what a name can never do ----------------------------------------------------------------------------------------


def test_no_name_leads_out_of_the_folders(lora: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.safetensors", ss_output_name="hidden")
    write(lora / "sub" / "a.safetensors")
    catalog = Catalog([lora])
    for name in [
        "../../secret",
        "../../secret.safetensors",
        "..\\..\\secret",
        "sub/../../../secret",
        str(secret),
        str(secret.with_suffix("")),
        "secret",
        "hidden",
        "sub/../sub/a",
        "./sub/a",
        str(lora / "sub" / "a"),
        "~/secret",
        "..",
        "/",
        "",
        "*",
        "sub/*",
    ]:
        not_found(catalog, name)


def test_metadata_that_looks_like_a_path_leads_nowhere(lora: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret.safetensors")
    path = write(lora / "a.safetensors", ss_output_name="../../secret")
    assert Catalog([lora]).find("../../secret").path == path
