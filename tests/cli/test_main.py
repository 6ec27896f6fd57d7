"""The frame of the command line: help, wrong usage, interruption, pipes, modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lycopatch as package
from lycopatch.cli import inspecting, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", ["inspect", "check", "list", "bake"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes" in out
    assert "--json" in out
    assert "--allow-pickle" in out


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["inspect"], ["bake", "a.safetensors"], ["list", "--colour"]])
def test_wrong_usage_ends_with_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "usage: lycopatch" in capsys.readouterr().err


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{package.__version__}"\n' in project
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"lycopatch {package.__version__}\n"


def test_an_interrupted_command_ends_with_130_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, lycopatch: Callable, sound: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspecting, "describe", interrupt)
    result = lycopatch("inspect", sound)
    assert (result.code, result.out) == (130, "")
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_the_module_runs_and_help_does_not_wait_for_torch() -> None:
    script = "import sys, lycopatch.cli\ntry: lycopatch.cli.main(['--help'])\nfinally: print('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "extensions_lib"), "PATH": ""}
    shown = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "False"
    ran = subprocess.run(
        [sys.executable, "-m", "lycopatch", "inspect", "absent.safetensors"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == '"absent.safetensors" can not be read: there is no such file.\n'


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_reader_that_has_seen_enough_causes_no_traceback(sound: Path) -> None:
    command = [sys.executable, "-m", "lycopatch", "inspect", *[str(sound)] * 400, "--quick"]
    environment = {"PYTHONPATH": str(ROOT / "extensions_lib"), "PATH": ""}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.readline()
        ran.stdout.close()
        assert ran.stderr.read() == ""
    assert ran.returncode == 1
