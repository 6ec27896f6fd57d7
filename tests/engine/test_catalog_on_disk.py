"""The catalog with a database: what is read once, what is noticed, what waits, and what may go wrong meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lycopatch.engine import catalog as catalog_module
from lycopatch.engine import catalog_entry, catalog_facts, catalog_folders
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_facts import Words
from lycopatch.engine.catalog_scan import Folder, ListedFolder
from lycopatch.engine.catalog_store import CatalogStore
from lycopatch.engine.errors import AdapterNotFound
from lycopatch.engine.reading import file_hashes

SOURCE = Path(__file__).resolve().parents[2] / "extensions_lib"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
LONG_AGO = 1_600_000_000
PROBLEMS = "SELECT stem, problem FROM files JOIN seen ON file_id = id WHERE problem IS NOT NULL ORDER BY stem"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    folder = tmp_path / "Lora"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CatalogStore]:
    store = CatalogStore(tmp_path / "cache" / "index.sqlite3")
    yield store
    store.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read."""
    names: list[str] = []
    original = catalog_entry.open_tensor_file

    def counting(path: Path) -> object:
        names.append(path.name)
        return original(path)

    for module in (catalog_entry, catalog_facts):
        monkeypatch.setattr(module, "open_tensor_file", counting)
    return names


def write(path: Path, rank: int = 4, **metadata: str) -> Path:
    """A LoRA of one layer of Stable Diffusion 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, shape in {f"{LAYER}.lora_up.weight": [320, rank], f"{LAYER}.lora_down.weight": [rank, 768]}.items():
        begin, end = end, end + 2 * shape[0] * shape[1]
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(end))
    return path


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (LONG_AGO, LONG_AGO))


def settle(folder: Path) -> None:
    """Let all folders look unchanged for years, so that only later changes count."""
    age(folder, *(path for path in folder.rglob("*") if path.is_dir()))


def rows(catalog: Catalog, columns: str = "stem") -> list[Any]:
    question = f"SELECT {columns} FROM files JOIN seen ON file_id = id ORDER BY folder, stem"
    found = catalog.store.connection().execute(question).fetchall()
    return [row[0] for row in found] if "," not in columns else found


def indexed(folder: Path, store: CatalogStore | None = None, **options: Any) -> Catalog:
    catalog = Catalog([folder], store=store, **options)
    catalog.index()
    return catalog


def noticed(catalog: Catalog) -> bool:
    """Whether a change is noticed; what was, is read."""
    if not catalog.refresh_changed():
        return False
    catalog.index()
    assert not catalog.refresh_changed()
    return True


# --- reading once ----------------------------------------------------------------------------------------------------


def test_a_second_start_opens_no_file(lora: Path, store: CatalogStore, opened: list[str]) -> None:
    for name in ("a", "sub/b"):
        write(lora / f"{name}.safetensors", ss_output_name=f"alias of {name}")
    first = indexed(lora, store).files
    opened.clear()
    again = Catalog([lora], store=store)
    again.index()
    assert again.files == first
    assert again.find("alias of sub/b").metadata["ss_output_name"] == "alias of sub/b"
    assert again.find("a").alias == "alias of a"
    assert opened == []


def test_a_row_says_what_the_header_says(lora: Path) -> None:
    tags = json.dumps({"10_set": {"Ink Wash": 7, "tree": 9}})
    path = write(lora / "styles" / "ink.safetensors", rank=8, ss_output_name="Ink", ss_tag_frequency=tags)
    catalog = indexed(lora)
    columns = "folder, relative, alias, kind, label, rank, family, parts, layers, keys, tags, problem, size, mtime_ns"
    [row] = rows(catalog, columns)
    assert row[:9] == ("Lora/styles", "styles/ink", "Ink", "lora", "LoRA r8", 8, "sd1", "unet", 1)
    assert row[9:12] == (2, '[["tree", 9], ["Ink Wash", 7]]', None)
    assert row[12:] == (path.stat().st_size, path.stat().st_mtime_ns)
    connection = catalog.store.connection()
    assert connection.execute("SELECT tag FROM file_tags ORDER BY tag").fetchall() == [("ink wash",), ("tree",)]
    for word in ("styles/ink", "ink wash", "lora r8", "stable diffusion 1"):
        assert connection.execute("SELECT rowid FROM search WHERE text LIKE ?", (f"%{word}%",)).fetchall(), word


def test_new_files_have_rows_before_their_headers_are_read(lora: Path) -> None:
    write(lora / "a.safetensors")
    catalog = Catalog([lora])
    catalog.refresh_changed()
    assert rows(catalog, "stem, kind, read_at") == [("a", None, None)]


def test_progress_is_told_and_ends_with_everything(lora: Path) -> None:
    for number in range(5):
        write(lora / f"{number}.safetensors")
    told: list[tuple[int, int]] = []
    catalog = Catalog([lora])
    catalog.index(lambda done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(1, 6)]
    assert (catalog.state.running, catalog.state.done, catalog.state.total) == (False, 5, 5)
    catalog.index(lambda done, total: told.append((done, total)))
    assert len(told) == 5


def test_who_cancels_keeps_what_was_read(lora: Path, opened: list[str]) -> None:
    for number in range(30):
        write(lora / f"{number}.safetensors")
    catalog = Catalog([lora])

    def enough(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalog.index(enough)
    assert not catalog.state.running
    [read] = catalog.store.connection().execute("SELECT count(*) FROM files WHERE read_at IS NOT NULL").fetchone()
    assert read == 10
    opened.clear()
    catalog.index()
    assert len(opened) == 20


def test_metadata_are_not_kept_in_memory(lora: Path, opened: list[str]) -> None:
    for number in range(100):
        write(lora / f"{number:03}.safetensors", ss_steps=str(number))
    catalog = indexed(lora)
    files = catalog.files
    opened.clear()
    assert [int(file.metadata["ss_steps"]) for file in files] == list(range(100))
    assert opened == []
    assert len(catalog._files._metadata._kept) < 100


def test_metadata_of_a_file_that_changed_since_are_not_those_of_the_new_one(lora: Path) -> None:
    path = write(lora / "a.safetensors", ss_steps="1")
    catalog = indexed(lora)
    [old] = catalog.files
    for number in range(99):  # that nobody remembers
        write(lora / f"{number:03}.safetensors")
    write(path, ss_steps="1000")
    catalog.refresh()
    assert [file.metadata.get("ss_steps") for file in catalog.files].count("1000") == 1
    assert dict(old.metadata) in ({}, {"ss_steps": "1"})


# --- noticing ---------------------------------------------------------------------------------------------------------


def test_new_changed_renamed_and_removed_files_are_noticed(lora: Path, store: CatalogStore, opened: list[str]) -> None:
    for name in ("stays", "sub/changes", "sub/moves", "goes"):
        write(lora / f"{name}.safetensors")
    settle(lora)
    catalog = indexed(lora, store)
    assert not catalog.refresh_changed()
    opened.clear()
    write(lora / "new.safetensors")
    assert noticed(catalog)
    (lora / "sub" / "moves.safetensors").rename(lora / "sub" / "moved.safetensors")
    assert noticed(catalog)
    (lora / "goes.safetensors").unlink()
    assert noticed(catalog)
    write(lora / "brand" / "new folder.safetensors")
    assert noticed(catalog)
    shutil.rmtree(lora / "brand")
    assert noticed(catalog)
    temporary = write(lora / "temporary", rank=16)
    temporary.replace(lora / "sub" / "changes.safetensors")
    assert noticed(catalog)
    assert rows(catalog, "stem, rank") == [("new", 4), ("stays", 4), ("changes", 16), ("moved", 4)]
    assert opened == [f"{name}.safetensors" for name in ("new", "moved", "new folder", "changes")]


def test_only_folders_that_changed_are_listed_again(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "b/2", "c/3"):
        write(lora / f"{name}.safetensors")
    settle(lora)
    catalog = indexed(lora)
    write(lora / "b" / "new.safetensors")
    listed: list[str] = []
    original = os.scandir

    def counting(path: str) -> object:
        listed.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", counting)
    assert catalog.refresh_changed()
    assert listed == ["b"]


def test_a_file_that_is_written_in_its_place_is_noticed_when_it_is_used(lora: Path, opened: list[str]) -> None:
    path = write(lora / "a.safetensors", ss_steps="1")
    settle(lora)
    catalog = indexed(lora)
    write(path, rank=32, ss_steps="1000", ss_output_name="retrained")
    settle(lora)
    assert catalog.at(path) is not None
    assert noticed(catalog)
    assert rows(catalog, "alias, rank") == [("retrained", 32)]
    opened.clear()
    assert catalog.find("retrained").metadata["ss_steps"] == "1000"
    assert opened == []


def test_words_and_previews_beside_a_network_are_noticed(lora: Path) -> None:
    def words(path: Path) -> Words:
        asked.append(path.name)
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Words(title=found["title"], weight=0.7, tags=("My Tag",), text="hidden notes")

    asked: list[str] = []
    write(lora / "a.safetensors")
    write(lora / "a.b.safetensors")
    catalog = indexed(lora, read_words=words)
    assert (asked, rows(catalog, "beside, preview")) == ([], [("", None), ("", None)])
    (lora / "a.json").write_text('{"title": "Aquarelle"}', encoding="utf-8")
    (lora / "a.b.preview.webm").write_bytes(b"video")
    (lora / "a.PNG").write_bytes(b"picture")
    assert noticed(catalog)
    assert asked == ["a.safetensors"]
    columns = "title, weight, preview, preview_kind"
    assert rows(catalog, columns) == [
        ("Aquarelle", 0.7, str(lora / "a.PNG"), "image"),
        (None, None, str(lora / "a.b.preview.webm"), "video"),
    ]
    connection = catalog.store.connection()
    for word, times in (("hidden", 1), ("aquarelle", 1), ("my tag", 1)):
        found = connection.execute("SELECT rowid FROM search WHERE text LIKE ?", (f"%{word}%",)).fetchall()
        assert len(found) == times
    (lora / "a.preview.png").write_bytes(b"better")
    (lora / "a.json").write_text('{"title": "Watercolour"}', encoding="utf-8")
    catalog.read_again(lora / "a.safetensors")
    assert rows(catalog, "title")[0] == "Watercolour"
    assert noticed(catalog)
    assert rows(catalog, "preview")[0] == str(lora / "a.preview.png")


def test_a_moved_library_keeps_its_identities_and_equal_stems_stay_different(lora: Path, tmp_path: Path) -> None:
    for name in ("a", "x/a", "y/a"):
        write(lora / f"{name}.safetensors")
    before = rows(indexed(lora), "identity, relative")
    assert len({identity for identity, _ in before}) == 3
    lora.rename(tmp_path / "Elsewhere")
    assert rows(indexed(tmp_path / "Elsewhere"), "identity, relative") == before


def test_a_row_outlives_the_time_when_its_disk_is_not_there(lora: Path, store: CatalogStore, opened: list[str]) -> None:
    write(lora / "a.safetensors")
    catalog = indexed(lora, store)
    lora.rename(lora.with_name("unplugged"))
    catalog.refresh()
    assert rows(catalog) == []
    assert [problem.kind for problem in catalog.problems] == ["missing_folder"]
    lora.with_name("unplugged").rename(lora)
    opened.clear()
    assert noticed(catalog)
    assert (rows(catalog, "stem, label"), opened) == ([("a", "LoRA r4")], [])


def test_two_catalogs_of_different_folders_share_a_database(tmp_path: Path, store: CatalogStore) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write(one / "a.safetensors")
    write(other / "b.safetensors")
    indexed(one, store)
    second = indexed(other, store)
    assert rows(second) == ["b"]
    assert store.connection().execute("SELECT count(*) FROM files").fetchone() == (2,)


@pytest.mark.slow
def test_two_processes_read_the_same_folders_at_once(lora: Path, store: CatalogStore) -> None:
    for number in range(60):
        write(lora / f"{number}.safetensors", ss_output_name=f"alias {number}")
    program = """
import sys
from pathlib import Path
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_store import CatalogStore
store = CatalogStore(Path(sys.argv[2]))
catalog = Catalog([Path(sys.argv[1])], store=store)
print("ready", flush=True)
catalog.index()
print(len([file for file in catalog.files if file.alias]), catalog.find("alias 7").stem, catalog.problems, store.path)
"""
    command = [sys.executable, "-c", program, str(lora), str(store.path)]
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        ours = indexed(lora, store)
        assert other.communicate() == (f"60 7 [] {store.path}\n", "")
    assert (len(ours.files), ours.find("alias 7").stem, ours.problems) == (60, "7", [])


# --- what waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".part", ".crdownload", ".aria2", ".download"])
def test_a_file_that_is_still_being_downloaded_waits(lora: Path, tmp_path: Path, ending: str) -> None:
    whole = write(tmp_path / "whole.safetensors", ss_output_name="done")
    path = lora / "big.safetensors"
    path.write_bytes(b"" if ending == ".part" else bytes(whole.stat().st_size))
    trace = lora / f"big.safetensors{ending}"
    trace.write_bytes(b"")
    age(path, trace)
    catalog = indexed(lora)
    assert rows(catalog, "stem, problem") == [("big", "downloading")]
    assert "it is looked at again later" in str(catalog.find("big").error)
    trace.unlink()
    shutil.copy(whole, path)
    assert noticed(catalog)
    assert rows(catalog, "alias, problem") == [("done", None)]


def test_a_file_of_which_only_the_size_is_whole_waits(lora: Path) -> None:
    write(lora / "a.safetensors")
    (lora / "a.safetensors.aria2").write_bytes(b"")
    settle(lora)
    catalog = indexed(lora)
    assert rows(catalog, "problem") == ["downloading"]
    assert "still being downloaded" in str(catalog.find("a").error)
    assert not catalog.refresh_changed()
    (lora / "a.safetensors.aria2").unlink()
    assert noticed(catalog)
    assert rows(catalog, "problem, label") == [(None, "LoRA r4")]


def test_a_whole_file_beside_an_old_trace_of_a_download_is_used(lora: Path) -> None:
    write(lora / "a.safetensors")
    (lora / "a.safetensors.part").write_bytes(b"")
    assert rows(indexed(lora), "problem, label") == [(None, "LoRA r4")]


def test_a_file_that_grows_is_called_damaged_only_when_it_stopped(lora: Path) -> None:
    path = write(lora / "a.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    settle(lora)
    catalog = indexed(lora)
    assert rows(catalog, "problem") == ["downloading"]
    path.write_bytes(whole[:400])
    settle(lora)
    assert not noticed(catalog) or rows(catalog, "problem") == ["downloading"]
    age(path)
    settle(lora)
    assert noticed(catalog)
    assert rows(catalog, "problem") == ["truncated"]
    assert "download is incomplete" in catalog.problems[0].message
    path.write_bytes(whole)
    assert catalog.find("a").error is None
    assert noticed(catalog)
    assert rows(catalog, "problem") == [None]


def test_a_slow_folder_keeps_nobody_from_the_others(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / "far"
    write(lora / "near.safetensors")
    write(far / "distant.safetensors")
    awake = threading.Event()
    original = catalog_folders.scan_folder

    def slow(root: Folder, known: Any = None) -> dict[str, ListedFolder]:
        if root.path == str(far):
            awake.wait(20)
        return original(root, known)

    monkeypatch.setattr(catalog_folders, "scan_folder", slow)
    monkeypatch.setattr(catalog_folders, "PATIENCE", 0.05)
    monkeypatch.setattr(catalog_module, "_SLOW_FOLDER_SECONDS", 0.05)
    catalog = Catalog([lora, far])
    assert catalog.find("near").error is None
    with pytest.raises(AdapterNotFound):
        catalog.find("distant")
    assert [problem.kind for problem in catalog.problems] == ["slow_folder"]
    monkeypatch.setattr(catalog_module, "_SLOW_FOLDER_SECONDS", 20.0)
    threading.Timer(0.05, awake.set).start()
    assert catalog.find("distant").error is None
    assert [file.stem for file in catalog.files] == ["near", "distant"]
    assert catalog.problems == []


# --- what strangers leave ---------------------------------------------------------------------------------------------


def test_each_damaged_file_is_listed_with_its_reason(lora: Path) -> None:
    whole = write(lora / "good.safetensors").read_bytes()
    (lora / "empty.safetensors").write_bytes(b"")
    (lora / "cut.safetensors").write_bytes(whole[:-1])
    (lora / "page.safetensors").write_bytes(b"<html><script>alert(1)</script></html>")
    (lora / "zeros.safetensors").write_bytes(bytes(500))
    (lora / "huge.safetensors").write_bytes((10**9).to_bytes(8, "little") + b'{"' + bytes(300))
    (lora / "old.pt").write_bytes(b"pickle")
    (lora / "none.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    age(*lora.iterdir())
    catalog = indexed(lora)
    assert dict(catalog.store.connection().execute(PROBLEMS)) == {
        "cut": "truncated",
        "empty": "empty",
        "huge": "too large header",
        "none": "not a network",
        "old": "pickle",
        "page": "damaged",
        "zeros": "truncated",
    }
    errors = dict(catalog.store.connection().execute("SELECT stem, error FROM files WHERE problem IS NOT NULL"))
    assert all(f'"{stem}.' in error and error.endswith(".") for stem, error in errors.items())
    assert {file.stem for file in catalog.files if file.error} == {"cut", "empty", "huge", "page", "zeros"}
    assert "old" not in {file.stem for file in catalog.files}


def test_a_header_that_can_not_be_understood_keeps_no_other_file_from_being_read(
    lora: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError

    write(lora / "a.safetensors")
    monkeypatch.setattr("lycopatch.engine.catalog_structure.parse_adapter", broken)
    assert rows(indexed(lora), "problem") == ["damaged"]
    assert "could not be understood" in caplog.text


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_no_text_are_stored_found_and_shown(lora: Path, store: CatalogStore) -> None:
    path = Path(os.fsdecode(bytes(lora) + b"/\xff\xfe \x80/na\xffme.safetensors"))
    write(path, ss_output_name="alias")
    path.with_suffix(".png").write_bytes(b"")
    for catalog in (indexed(lora, store), Catalog([lora], store=store)):
        assert [file.path for file in catalog.files] == [path]
        assert catalog.find("alias").path == path
        assert catalog.find(path.stem).error is None
        [(stem, folder)] = rows(catalog, "stem, folder")
        assert (stem, folder) == ("na?me", "Lora/?? ?")
        assert not catalog.refresh_changed() or catalog.index() is None
    path.unlink()
    assert noticed(catalog)
    assert rows(catalog) == []


@pytest.mark.parametrize("name", ['it\'s "so"', "%_[a]*?", "🎉", "x" * 240, "dots..", "--", "a\nb", "<img src=x>"])
def test_names_with_signs_of_other_languages_are_only_names(lora: Path, store: CatalogStore, name: str) -> None:
    path = write(lora / f"{name}.safetensors", ss_output_name=f"{name}'; DROP TABLE files; --")
    catalog = indexed(lora, store)
    assert rows(catalog, "stem") == [name]
    assert catalog.find(f"{name}'; DROP TABLE files; --").path == path


# --- what may go wrong with the database ------------------------------------------------------------------------------


def test_a_database_that_breaks_while_it_is_used_is_made_again(lora: Path, store: CatalogStore) -> None:
    write(lora / "a.safetensors", ss_output_name="alias")
    catalog = indexed(lora, store)
    assert store.path is not None
    for ending in ("-wal", "-shm"):
        store.path.with_name(store.path.name + ending).unlink()
    store.path.write_bytes(b"garbage" * 5000)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(catalog.find("alias").stem))
    thread.start()
    thread.join()
    assert found == ["a"]
    assert store.path.with_name("index.sqlite3.damaged").exists()
    assert rows(indexed(lora, CatalogStore(store.path)), "label") == ["LoRA r4"]


def test_without_a_database_networks_are_still_found(lora: Path, store: CatalogStore) -> None:
    path = write(lora / "a.safetensors")
    catalog = indexed(lora, store)
    store.close()
    assert catalog.find("a").path == path
    with pytest.raises(AdapterNotFound):
        catalog.find("b")


def test_a_question_of_others_gets_an_answer_or_the_one_for_trouble(lora: Path, store: CatalogStore) -> None:
    write(lora / "a.safetensors")
    catalog = Catalog([lora], store=store)
    assert catalog.ask(lambda connection: connection.execute("SELECT stem FROM files").fetchall(), []) == [("a",)]

    def busy(connection: sqlite3.Connection) -> Sequence[object]:
        raise sqlite3.OperationalError("database is locked")

    assert catalog.ask(busy, ["nothing"]) == ["nothing"]


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_hashes_are_computed_in_the_background_only_when_asked_and_kept(lora: Path, store: CatalogStore) -> None:
    path = write(lora / "a.safetensors")
    catalog = indexed(lora, store)
    assert len(catalog.files) == 1
    assert rows(catalog, "sha256") == [None]
    (lora / "gone.safetensors").symlink_to(lora / "nowhere")
    catalog.hash_in_background()
    catalog.hash_in_background()
    deadline = time.monotonic() + 20
    while rows(catalog, "sha256") == [None] and time.monotonic() < deadline:
        time.sleep(0.01)
    hashes = file_hashes(path)
    assert rows(catalog, "sha256, autov3, autov1") == [(hashes.sha256, hashes.autov3, hashes.autov1)]
    again = Catalog([lora], store=store)
    assert again.find(hashes.autov3[:10]).path == path
    write(path, rank=8)
    again.refresh()
    assert rows(again, "sha256") == [None]
    catalog.close()


def test_closing_ends_the_work_in_the_background(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(lora / "a.safetensors")
    write(lora / "b.safetensors")
    begun, ended = threading.Event(), threading.Event()

    def endless(path: Path, progress: Any) -> object:
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                progress(1, 2)
        finally:
            ended.set()

    monkeypatch.setattr(catalog_module, "file_hashes", endless)
    catalog = indexed(lora)
    catalog.hash_in_background()
    assert begun.wait(20)
    catalog.close()
    assert ended.wait(20)
