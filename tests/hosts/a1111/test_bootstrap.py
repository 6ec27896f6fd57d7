"""``scripts/lycopatch.py``: how the package gets into the WebUI's process, whoever else is there.

The package is a stub that writes down what is done to it; the real one is started in the tests of the other rooms.
"""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "lycopatch.py"
ENTRY = "lycopatch.hosts.a1111.entry"

WORKS = """
import sys
from lycopatch.hosts.a1111.host_api import on
started = []
def register(root):
    started.append(root)
    on(late)
def late():
    import lycopatch.late
    return lycopatch.late
"""

HOST_API = """
import sys
def on(react):
    sys.modules["modules.script_callbacks"].add(react, __file__)
"""


class Callbacks(types.ModuleType):
    """As much of ``modules.script_callbacks`` as the bootstrap looks at."""

    def __init__(self) -> None:
        super().__init__("modules.script_callbacks")
        self.callback_map: dict[str, list[SimpleNamespace]] = {"callbacks_before_ui": [], "callbacks_ui_tabs": []}

    def add(self, react: object, file: str) -> None:
        self.callback_map["callbacks_before_ui"].append(SimpleNamespace(script=file, callback=react))


@pytest.fixture(autouse=True)
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callbacks]:
    """A process in which the package was never imported, put back as it was."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "lycopatch"}
    for name in kept:
        del sys.modules[name]
    fake = Callbacks()
    monkeypatch.setitem(sys.modules, "modules.script_callbacks", fake)
    yield fake
    for name in [name for name in sys.modules if name.split(".")[0] == "lycopatch"]:
        del sys.modules[name]
    sys.modules.update(kept)


def new_copy(root: Path, entry: str = WORKS) -> Path:
    """An extension folder with the real bootstrap and a stub of the package; returns the bootstrap."""
    package = root / "extensions_lib" / "lycopatch"
    (package / "hosts" / "a1111").mkdir(parents=True)
    for folder in (package, package / "hosts", package / "hosts" / "a1111"):
        (folder / "__init__.py").touch()
    (package / "late.py").touch()
    (package / "hosts" / "a1111" / "host_api.py").write_text(HOST_API)
    (package / "hosts" / "a1111" / "entry.py").write_text(entry)
    (root / "scripts").mkdir()
    return Path(shutil.copy(SCRIPT, root / "scripts" / "lycopatch.py"))


def run(script: Path) -> dict[str, object]:
    """Execute a script file as the WebUI does: its folder's parent is on the path meanwhile, and it is no module."""
    before = sys.path
    sys.path = during = [str(script.parents[1]), *before]
    try:
        names = runpy.run_path(str(script))
        assert sys.path is during
        assert during == [str(script.parents[1]), *before]
        return names
    finally:
        sys.path = before


def test_the_entry_gets_the_folder_whatever_it_is_called(tmp_path: Path) -> None:
    root = tmp_path / "a folder, renamed"
    run(new_copy(root))
    assert sys.modules[ENTRY].started == [root]


def test_what_is_imported_later_is_found_without_the_path(tmp_path: Path) -> None:
    run(new_copy(tmp_path / "ours"))
    late = sys.modules[ENTRY].late()
    assert Path(late.__file__) == tmp_path / "ours" / "extensions_lib" / "lycopatch" / "late.py"


def test_a_neighbour_with_a_folder_of_the_same_name_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = tmp_path / "neighbour"
    (neighbour / "extensions_lib").mkdir(parents=True)
    (neighbour / "extensions_lib" / "__init__.py").touch()
    (neighbour / "lycopatch").mkdir()
    (neighbour / "lycopatch" / "__init__.py").touch()
    monkeypatch.syspath_prepend(neighbour)
    theirs = importlib.import_module("extensions_lib")
    importlib.import_module("lycopatch")
    try:
        run(new_copy(tmp_path / "ours"))
        assert sys.modules["extensions_lib"] is theirs
        assert sys.modules[ENTRY].started == [tmp_path / "ours"]
        assert sys.modules["lycopatch"].__path__ == [str(tmp_path / "ours" / "extensions_lib" / "lycopatch")]
    finally:
        del sys.modules["extensions_lib"]


def test_reload_ui_runs_the_files_as_they_are_now(tmp_path: Path, callbacks: Callbacks) -> None:
    script = new_copy(tmp_path / "ours")
    run(script)
    first = sys.modules[ENTRY]
    (script.parents[1] / "extensions_lib" / "lycopatch" / "hosts" / "a1111" / "entry.py").write_text(
        WORKS + "new = True  # an update, of another size\n"
    )
    callbacks.callback_map["callbacks_before_ui"].clear()
    run(script)
    assert sys.modules[ENTRY] is not first
    assert sys.modules[ENTRY].new
    assert sys.modules[ENTRY].started == [tmp_path / "ours"]


def test_a_second_copy_is_refused_with_a_sentence_and_the_first_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(new_copy(tmp_path / "first"))
    first = sys.modules[ENTRY]
    run(new_copy(tmp_path / "second"))
    assert sys.modules[ENTRY] is first
    assert first.started == [tmp_path / "first"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"LycoPatch is installed twice: {tmp_path / 'first'} is in use, so {tmp_path / 'second'} is not. "
        "Remove one of them."
    )


def test_the_second_copy_starts_when_the_first_is_gone_after_reload_ui(tmp_path: Path, callbacks: Callbacks) -> None:
    run(new_copy(tmp_path / "first"))
    callbacks.callback_map["callbacks_before_ui"].clear()
    run(new_copy(tmp_path / "second"))
    assert sys.modules[ENTRY].started == [tmp_path / "second"]


@pytest.mark.parametrize(
    ("entry", "sentence", "traceback"),
    [
        ("import no_such_package_here", "ModuleNotFoundError: No module named 'no_such_package_here'", False),
        ("def register(root):\n    raise ValueError('a bug')", "ValueError: a bug", True),
    ],
)
def test_a_failed_start_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str, sentence: str, traceback: bool
) -> None:
    run(new_copy(tmp_path / "ours", entry))
    (record,) = caplog.records
    assert record.getMessage() == f"LycoPatch could not start, and the WebUI goes on without it: {sentence}"
    assert bool(record.exc_info) is traceback
    assert not [name for name in sys.modules if name.startswith("lycopatch")]


def test_a_copy_that_failed_does_not_keep_another_from_starting(tmp_path: Path) -> None:
    run(new_copy(tmp_path / "broken", "raise RuntimeError"))
    run(new_copy(tmp_path / "good"))
    assert sys.modules[ENTRY].started == [tmp_path / "good"]


def test_an_old_python_is_told_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = new_copy(tmp_path / "ours")
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(sys, "version", "3.9.1 (main)")
    run(script)
    assert [record.getMessage() for record in caplog.records] == [
        "LycoPatch needs Python 3.10 or newer; this WebUI runs on 3.9.1."
    ]
    assert ENTRY not in sys.modules


def test_no_class_is_defined_where_the_webui_looks_for_scripts(tmp_path: Path) -> None:
    names = run(new_copy(tmp_path / "ours"))
    assert not [name for name, value in names.items() if isinstance(value, type) and value.__module__ == "<run_path>"]
    assert not (SCRIPT.parent / "__init__.py").exists()
