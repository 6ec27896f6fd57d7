"""``install.py`` as the WebUI runs it at each start: another process, in the WebUI's folder."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "install.py"


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with pip replaced by a list of what it would have been asked."""
    spec = importlib.util.spec_from_file_location("installer_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked: list[list[str]] = []
    monkeypatch.setattr(module.subprocess, "call", lambda command: asked.append(command) or 0)
    module.__dict__["asked"] = asked
    return module


def test_nothing_is_done_and_nothing_is_said_when_nothing_is_missing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_works_with_nothing_on_the_path_but_the_folder_of_the_webui(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_torch_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(SCRIPT)!r}, run_name='x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_missing_is_asked_for_by_its_name_at_pip(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installer, "REQUIREMENTS", {"no_such_package_here": "wanted>=1"})
    assert installer.main() == 0
    assert installer.asked == [[sys.executable, "-m", "pip", "install", "--prefer-binary", "wanted>=1"]]
    assert "installs wanted>=1" in capsys.readouterr().out


def test_a_failed_installation_is_said_and_returned(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installer, "REQUIREMENTS", {"no_such_package_here": "wanted>=1"})
    monkeypatch.setattr(installer.subprocess, "call", lambda _: 3)
    assert installer.main() == 3
    assert "install it by hand" in capsys.readouterr().out


def test_a_mere_folder_of_the_name_is_no_package(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "package_of_a_test").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installer, "REQUIREMENTS", {"package_of_a_test": "wanted"})
    assert installer.missing() == ["wanted"]


def test_an_old_python_is_told_what_is_needed(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installer.sys, "version_info", (3, 9, 1))
    assert installer.main() == 1
    assert "needs Python 3.10 or newer" in capsys.readouterr().out
