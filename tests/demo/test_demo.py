"""The demo does the main job and says that it was undone."""

from __future__ import annotations

import pytest

from lycopatch.demo.__main__ import PROMPTS, main


def test_the_demo_applies_explains_and_undoes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    said = capsys.readouterr().out
    assert all(prompt in said for prompt in PROMPTS)
    assert 'There is no network named "inc". Did you mean "ink"?' in said
    assert "tensors are bit-equal to the checkpoint" in said
