"""The README's commands exist: what a newcomer copies from it runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

_FENCE = re.compile(r"^[ ]{0,3}```(?:console|bash|sh|shell)\s*\n(.*?)^[ ]{0,3}```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"^\w+=\S*$")


def commands(text: str) -> list[list[str]]:
    """The words of each command in the fenced shell blocks of ``text``; a console's answers are left out."""
    found: list[list[str]] = []
    for block in _FENCE.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        console = any(line.startswith("$ ") for line in lines)
        for line in lines:
            if console and not line.startswith("$ "):
                continue
            for part in re.split(r"&&|\|\||;|\|", line.removeprefix("$ ").partition(" #")[0]):
                words = part.split()
                while words and _ASSIGNMENT.match(words[0]):
                    words = words[1:]
                if words and not words[0].startswith("#"):
                    found.append(words)
    return found


def named_targets(text: str) -> set[str]:
    """The targets that the commands of ``text`` hand to make."""
    made = [words[1:] for words in commands(text) if words[0] == "make"]
    return {word for words in made for word in words if not word.startswith("-") and "=" not in word}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def run_modules(text: str) -> list[tuple[str, str | None]]:
    """Each module of ours that ``python -m`` runs, or ``lycopatch`` itself, and the sub-command after it, if any."""
    found: list[tuple[str, str | None]] = []
    for words in commands(text):
        rest = words[words.index("-m") + 1 :] if "-m" in words and "python" in words[0] else words
        if rest and rest[0].split(".")[0] == "lycopatch":
            following = rest[1] if len(rest) > 1 and re.fullmatch(r"[a-z][a-z-]*", rest[1]) else None
            found.append((rest[0], following))
    return found


@pytest.fixture(scope="module")
def readme() -> str:
    assert README.is_file(), "README.md is missing"
    return README.read_text(encoding="utf-8")


def test_every_make_target_of_the_readme_exists(readme: str) -> None:
    assert "test" in named_targets(readme), "the README does not say how to run the tests: `make test` in a bash block"
    assert named_targets(readme) <= make_targets()


def test_every_module_the_readme_runs_exists(readme: str) -> None:
    missing = [name for name, _ in run_modules(readme) if importlib.util.find_spec(name) is None]
    assert not missing


def test_every_subcommand_of_the_readme_answers_to_help(readme: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lycopatch.cli import main

    for subcommand in sorted({word for name, word in run_modules(readme) if name == "lycopatch" and word}):
        with pytest.raises(SystemExit) as stopped:
            main([subcommand, "--help"])
        assert stopped.value.code in (0, None), capsys.readouterr().err


def test_the_build_server_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in script


def test_commands_are_found_in_a_readme() -> None:
    text = (
        "```bash\nexport A=1\nCI=1 make -j2 test lint  # both\npython -m lycopatch inspect file.safetensors\n```\n"
        "```console\n$ lycopatch list && python3 -m lycopatch.demo\nmake no answer a command\n```\n"
        "```python\nmake(1)\n```\n"
    )
    assert named_targets(text) == {"test", "lint"}
    assert run_modules(text) == [("lycopatch", "inspect"), ("lycopatch", "list"), ("lycopatch.demo", None)]
