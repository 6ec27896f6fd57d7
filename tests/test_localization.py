"""Everything of ours that the WebUI translates has a Japanese entry, and no entry is for a text that is gone."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "extensions_lib" / "lycopatch"
SHOWN = [
    SOURCE / "ui" / "tab.py",
    SOURCE / "ui" / "pages.py",
    SOURCE / "ui" / "mount.py",
    SOURCE / "ui" / "report_view.py",
    SOURCE / "hosts" / "a1111" / "settings.py",
    SOURCE / "hosts" / "a1111" / "metadata_editor.py",
    SOURCE / "hosts" / "a1111" / "xyz_plot.py",
    SOURCE / "hosts" / "a1111" / "entry.py",
]
BY_KEYWORD = ("label", "info", "placeholder")
BY_POSITION = {"TabItem": 0, "Button": 0, "notice": 0, "folded": 0}


def translations() -> dict[str, str]:
    return json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))


def shown_texts() -> Iterator[str]:
    """Constant texts on components, and the label and explanation of each setting, as the WebUI prints them."""
    for path in SHOWN:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            found = [keyword.value for keyword in call.keywords if keyword.arg in BY_KEYWORD]
            found += [call.args[BY_POSITION[name]]] if name in BY_POSITION and call.args else []
            yield from (each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str))
            if name == "setting" and path.name == "settings.py":
                label, info = (str(each.value) for each in call.args[1:3] if isinstance(each, ast.Constant))
                yield label
                yield f"({info})"


def test_every_text_of_our_settings_and_our_tab_has_a_translation() -> None:
    texts = set(shown_texts())
    assert {"Inspect", "Last picture", "Show what went wrong under the picture", "(one line for each trouble)"} <= texts
    assert sorted(texts - translations().keys() - {"D:/networks"}) == []


def test_every_translation_is_japanese_and_of_a_text_that_is_there() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in SHOWN)
    for english, japanese in translations().items():
        assert english == "LycoPatch" or any("\u3040" <= char <= "\u9fff" for char in japanese), english
        assert english.removeprefix("[LycoPatch] ").strip("()") in sources, english
