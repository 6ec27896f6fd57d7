"""The user's words beside a network are read whatever is in the file, and never lost."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lycopatch.ui import sidecar as module
from lycopatch.ui.sidecar import Sidecar, TriggerGroup, as_groups, as_range, read_sidecar, sidecar_path, write_sidecar

BUILT_IN = {
    "description": "wet ink",
    "sd version": "SD1",
    "activation text": "ink wash",
    "preferred weight": 0.75,
    "negative text": "oil",
    "notes": "from a friend",
    "modelId": 123,
    "trained words": ["a", {"b": None}],
}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return tmp_path / "ink.v2.safetensors"


def store(network: Path, value: Any) -> Path:
    path = sidecar_path(network)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def stored(network: Path) -> Any:
    return json.loads(sidecar_path(network).read_text(encoding="utf-8"))


def test_only_the_last_extension_is_replaced(network: Path) -> None:
    assert sidecar_path(network).name == "ink.v2.json"


def test_nothing_beside_the_network_is_no_trouble(network: Path) -> None:
    assert read_sidecar(network) == Sidecar()
    assert read_sidecar(network).problem is None


def test_what_the_built_in_editor_wrote_is_understood(network: Path) -> None:
    store(network, BUILT_IN)
    found = read_sidecar(network)
    assert found == Sidecar("wet ink", "from a friend", "ink wash", 0.75, "oil", "SD1", contents=BUILT_IN)


@pytest.mark.parametrize(
    ("value", "weight"),
    [(0.5, 0.5), ("0.5", 0.5), (-1, -1.0), ("x", 0.0), (None, 0.0), (True, 0.0), ([1], 0.0), ("9" * 5000, 0.0)],
)
def test_a_weight_that_is_no_number_is_no_weight(network: Path, value: object, weight: float) -> None:
    store(network, {"preferred weight": value})
    assert read_sidecar(network).preferred_weight == weight


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (["ink", "wash"], "ink, wash"), ({"a": 1}, ""), (None, ""), ("\ud800x", "?x")]
)
def test_a_text_of_another_type_becomes_text_or_nothing(network: Path, value: object, text: str) -> None:
    store(network, {"activation text": value})
    assert read_sidecar(network).activation_text == text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "holds no JSON object"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'"text"', "holds no JSON object"),
        (b"[" * 100_000, "holds no JSON object"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_a_sentence_and_is_kept_when_it_is_replaced(
    network: Path, content: bytes, reason: str
) -> None:
    path = store(network, content)
    problem = read_sidecar(network).problem
    assert problem is not None
    assert reason in problem.message
    kept = write_sidecar(network, Sidecar(notes="new"))
    assert kept is not None
    assert '"ink.v2.json.bak"' in kept.message
    assert path.with_name("ink.v2.json.bak").read_bytes() == content
    assert stored(network) == {"notes": "new"}


def test_a_second_damaged_file_does_not_replace_the_first_copy(network: Path) -> None:
    for content in (b"first", b"second"):
        store(network, content)
        write_sidecar(network, Sidecar())
    assert sidecar_path(network).with_name("ink.v2.json.bak").read_bytes() == b"first"
    assert sidecar_path(network).with_name("ink.v2.json.bak2").read_bytes() == b"second"


def test_a_huge_file_is_not_read_and_not_lost(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    path = store(network, {"notes": "x" * 200})
    problem = read_sidecar(network).problem
    assert problem is not None
    assert "was not read" in problem.message
    write_sidecar(network, Sidecar(notes="new"))
    assert path.with_name("ink.v2.json.bak").stat().st_size > 200


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf{}"])
def test_an_empty_file_and_a_byte_order_mark_are_no_trouble(network: Path, content: bytes) -> None:
    store(network, content)
    assert read_sidecar(network).problem is None


def test_only_what_changed_is_written_and_unknown_keys_stay(network: Path) -> None:
    store(network, {**BUILT_IN, "activation text": ["ink", "wash"]})
    write_sidecar(network, replace(read_sidecar(network), notes="mine"))
    assert stored(network) == {**BUILT_IN, "activation text": ["ink", "wash"], "notes": "mine"}


def test_groups_and_a_range_of_weights_lie_under_a_key_of_our_own(network: Path) -> None:
    store(network, {**BUILT_IN, "lycopatch": {"later": [1]}})
    groups = (TriggerGroup("wet", ("ink wash", "drips, blots")), TriggerGroup("乾", ("dry brush",)))
    write_sidecar(network, replace(read_sidecar(network), groups=groups, weight_range=(-0.5, 1.2)))
    wet = {"name": "wet", "words": ["ink wash", "drips, blots"]}
    dry = {"name": "乾", "words": ["dry brush"]}
    ours = {"later": [1], "groups": [wet, dry], "weight_range": [-0.5, 1.2]}
    assert stored(network) == {**BUILT_IN, "lycopatch": ours}
    again = read_sidecar(network)
    assert (again.groups, again.weight_range) == (groups, (-0.5, 1.2))
    write_sidecar(network, replace(again, groups=(), weight_range=None))
    assert stored(network) == {**BUILT_IN, "lycopatch": {"later": [1]}}


def test_groups_that_another_change_does_not_concern_stay_as_they_were_written(network: Path) -> None:
    ours = {"groups": [{"name": "wet", "words": "ink", "colour": "blue"}, 5], "weight_range": "0..1"}
    store(network, {"lycopatch": ours})
    write_sidecar(network, replace(read_sidecar(network), notes="mine"))
    assert stored(network) == {"lycopatch": ours, "notes": "mine"}


@pytest.mark.parametrize(
    "value", [None, 5, "x", {}, [[]], [{"name": "a"}], [{"words": ["a"]}], [{"name": "", "words": "a"}]]
)
def test_what_is_no_group_is_left_out(value: object) -> None:
    assert as_groups(value) == ()


def test_a_group_of_one_text_is_one_phrase_and_long_ones_are_cut() -> None:
    assert as_groups([{"name": " a ", "words": " b, c "}]) == (TriggerGroup("a", ("b, c",)),)
    (group,) = as_groups([{"name": "n" * 5000, "words": ["w" * 5000] * 5000}])
    assert (len(group.name), len(group.words), len(group.words[0])) == (200, 200, 2000)
    assert len(as_groups([{"name": "a", "words": ["b"]}] * 5000)) == module.MOST_GROUPS


@pytest.mark.parametrize(
    "value", [None, 5, "01", [], [1], [1, 0], [1, 1], [0, "x"], [0, None], [0, 1e9], [0, 1, 2], [0, float("nan")]]
)
def test_what_is_no_range_is_none(value: object) -> None:
    assert as_range(value) is None


def test_nothing_is_written_when_nothing_changed(network: Path) -> None:
    path = store(network, BUILT_IN)
    os.utime(path, (1, 1))
    write_sidecar(network, read_sidecar(network))
    assert path.stat().st_mtime == 1


def test_text_is_written_as_people_read_it(network: Path) -> None:
    write_sidecar(network, Sidecar(notes="水墨 é"))
    assert "水墨 é" in sidecar_path(network).read_text(encoding="utf-8")


def test_half_a_character_in_a_key_of_another_tool_survives(network: Path) -> None:
    store(network, {"other": "\ud800"})
    write_sidecar(network, Sidecar(notes="mine"))
    assert stored(network) == {"other": "\ud800", "notes": "mine"}


def test_a_file_that_is_too_deep_to_be_written_again_stays(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_: object, **__: object) -> str:  # how deep that is differs between releases of Python
        raise RecursionError

    store(network, BUILT_IN)
    monkeypatch.setattr(module.json, "dumps", too_deep)
    with pytest.raises(OSError, match="nested too deeply"):
        write_sidecar(network, Sidecar(notes="mine"))
    assert stored(network) == BUILT_IN


def test_a_description_comes_from_the_text_files_when_the_json_has_none(network: Path) -> None:
    Path(f"{network.parent}/ink.v2.description.txt").write_text("longer", encoding="utf-8")
    assert read_sidecar(network).description == "longer"
    Path(f"{network.parent}/ink.v2.txt").write_bytes(b"short \xff")
    assert read_sidecar(network).description == "short \N{REPLACEMENT CHARACTER}"
    write_sidecar(network, replace(read_sidecar(network), notes="mine"))
    assert stored(network) == {"notes": "mine"}
    store(network, {"description": ""})
    assert read_sidecar(network).description == ""


def test_a_description_of_gigabytes_is_cut(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_DESCRIPTION", 10)
    Path(f"{network.parent}/ink.v2.txt").write_text("x" * 99)
    assert read_sidecar(network).description == "x" * 10


def test_a_caller_that_knows_the_folder_saves_the_look_at_the_disk(network: Path) -> None:
    store(network, BUILT_IN)
    assert read_sidecar(network, exists=lambda path: False) == Sidecar()


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(network, BUILT_IN)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_sidecar(network, replace(read_sidecar(network), notes="mine"))
    assert stored(network) == BUILT_IN
    assert [path.name for path in network.parent.iterdir()] == ["ink.v2.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_rights_of_the_file_stay(network: Path) -> None:
    path = store(network, BUILT_IN)
    path.chmod(0o664)
    write_sidecar(network, replace(read_sidecar(network), notes="mine"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_a_name_of_the_greatest_length_has_its_words(tmp_path: Path) -> None:
    network = tmp_path / ("x" * 243 + ".safetensors")
    write_sidecar(network, Sidecar(notes="mine"))
    assert read_sidecar(network).notes == "mine"
