"""What reaches the terminal: nothing unescaped, colours only where they are wanted, columns that line up."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest

from lycopatch.cli.terminal import columns, paint, progress, safe, say, say_json
from lycopatch.engine.wording import size_text


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Screen]:
    """Put a terminal in place of both streams; called by the test, because pytest replaces them before it."""

    def show() -> Screen:
        shown = Screen()
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("WT_SESSION", "1")
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return show


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("inkwash – 名前", "inkwash – 名前"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_control_and_formatting_characters_are_spelled_out(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_a_long_text_is_cut_before_it_is_escaped() -> None:
    assert safe("\x1b" * 10_000_000, 3) == "\\x1b\\x1b\\x1b…"


def test_colours_are_for_terminals_whose_user_wants_them(
    open_screen: Callable[[], Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_screen()
    assert paint("good", "green") == "\x1b[32mgood\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("good", "green") == "good"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint("good", "green") == "good"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert paint("good", "green") == "good"


def test_json_is_ascii_without_control_characters(open_screen: Callable[[], Screen]) -> None:
    screen = open_screen()
    value = {"\x1b\x7f名": "\udce9\n\x00"}
    say_json(value)
    shown = screen.getvalue()
    assert shown.isascii()
    assert "\x1b" not in shown
    assert "\x7f" not in shown
    assert json.loads(shown) == value


def test_a_character_that_the_terminal_lacks_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("名 × ok")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u540d \\xd7 ok\n"


def test_columns_line_up_also_with_wide_characters() -> None:
    assert columns([("a", "bb"), ("名前", "c")]) == ["a     bb", "名前  c"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3_117_793, "3.1 MB"), (6_938_040_714_000, "6938.0 GB")]
)
def test_sizes_are_said_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text


def test_a_bar_is_drawn_only_on_a_terminal(open_screen: Callable[[], Screen], monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", partial(tqdm.tqdm, mininterval=0))
    screen = open_screen()
    with progress("work\x07") as told:
        told(1, 3)
        time.sleep(0.35)
        told(2, 3)
    assert "work\\x07:  67%" in screen.getvalue()
    assert "\x07" not in screen.getvalue()
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress("work") as told:
        told(1, 2)
    assert quiet.getvalue() == ""


def test_without_tqdm_there_is_no_bar_and_no_error(
    open_screen: Callable[[], Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = open_screen()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress("work") as told:
        told(1, 2)
    assert screen.getvalue() == ""
