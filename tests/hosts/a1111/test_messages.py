"""The lines under the picture: one per trouble, in the engine's own words, few and short."""

from __future__ import annotations

from pathlib import Path

import pytest

from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.hosts.a1111.messages import lines
from lycopatch.hosts.memory.loader import NetworkLoader
from networks import write_network
from random_models import layers_of, sd15

PLACE = ("down_blocks_0_attentions_0",)
FULL_SIZE = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (320, 1024)}


def tag(name: str = "ink", *messages: str, applied: int = 4, total: int = 4, kind: str = "some kind") -> TagReport:
    issues = [Issue(kind, message) for message in messages]
    return TagReport(f"<lora:{name}>", name, layers_applied=applied, layers_total=total, issues=issues)


def test_nothing_is_said_when_all_is_well() -> None:
    assert lines(Report(tags=[tag()])) == []


def test_troubles_come_in_the_order_of_the_prompt_after_those_of_no_tag() -> None:
    report = Report(
        tags=[tag("ink", "One.", "Two."), tag("paper"), tag("wash", "Three.")], issues=[Issue("a", "Zero.")]
    )
    assert lines(report) == ["Zero.", "One.", "Two.", "Three."]


def test_a_partial_match_says_how_much_is_in_the_model() -> None:
    report = Report(tags=[tag("ink", "74 layers left out.", "Another.", applied=190, total=264)])
    assert lines(report) == ["ink: 190 of 264 layers; 74 layers left out.", "Another."]


def test_a_network_for_another_base_model_is_one_line() -> None:
    one = tag("ink", "74 layers left out.", applied=0, total=264)
    one.issues.insert(0, Issue("other base model", "Made for another."))
    assert lines(Report(tags=[one])) == ["ink: 0 of 264 layers; Made for another."]


def test_equal_lines_are_shown_once() -> None:
    assert lines(Report(tags=[tag("ink", "One."), tag("ink", "One.")])) == ["One."]


def test_a_tag_with_many_troubles_gets_three_lines() -> None:
    found = lines(Report(tags=[tag("ink", *(f"{n}." for n in range(6)))]))
    assert found == ["0.", "1.", "And 4 more about ink, see the LycoPatch tab."]


def test_a_prompt_with_many_troubles_gets_twelve_lines() -> None:
    found = lines(Report(tags=[tag(f"ink{n}", f"{n}.") for n in range(40)]))
    assert found == [*(f"{n}." for n in range(11)), "And 29 more, see the LycoPatch tab."]


@pytest.mark.parametrize("hostile", ["a\nb\r\nc", "a\0b", "\x1b[31mred", "\u202eltr", "a\u2028b"])
def test_a_line_has_no_line_break_and_no_control_character(hostile: str) -> None:
    [line] = lines(Report(tags=[tag(hostile, f"Trouble with {hostile}.", applied=1)]))
    assert line.isprintable()


def test_a_line_is_short_whatever_the_sentence() -> None:
    [line] = lines(Report(issues=[Issue("a", "x" * 100_000)]))
    assert len(line) == 400
    assert line.endswith("…")


def test_markup_is_left_to_the_host_which_escapes_it() -> None:
    assert lines(Report(issues=[Issue("a", "<b>&amp;</b>")])) == ["<b>&amp;</b>"]


def test_a_replaced_unet_is_told_when_a_network_would_change_it() -> None:
    expected = ['"TensorRT" computes in place of the U-Net; networks change only the text encoder meanwhile.']
    assert lines(Report(tags=[tag()]), unet_replacement="TensorRT") == expected
    assert lines(Report(), unet_replacement="TensorRT") == []
    silent = tag()
    silent.unet_multiplier = 0.0
    assert lines(Report(tags=[silent]), unet_replacement="TensorRT") == []


def test_real_troubles_read_well(tmp_path: Path) -> None:
    model = sd15(shrink=40)
    layers = layers_of(model, only=PLACE)
    write_network(tmp_path / "inkwash.safetensors", layers | {"lora_unet_nowhere_to_q": (8, 8)}, "lora")
    write_network(tmp_path / "paper.safetensors", FULL_SIZE, "lora")
    write_network(tmp_path / "cut.safetensors", layers, "lora")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:500])
    with NetworkLoader(model, [tmp_path]) as loader:
        partial, too_large, damaged, missing = lines(
            loader.activate("<lora:inkwash><lora:paper><lora:cut><lora:inkwsh>")
        )
    assert partial == (
        'inkwash: 12 of 13 layers; 1 layer of "inkwash" left out (no such layer), '
        "for example lora_unet_nowhere_to_q: this model has no layer of that name."
    )
    assert too_large.startswith('paper: 0 of 1 layers; 1 layer of "paper" left out (other size), for example ')
    assert too_large.endswith(": it was made for 320 outputs, this model's layer has 8.")
    assert damaged.startswith('"cut.safetensors" can not be read: ')
    assert missing == 'There is no network named "inkwsh". Did you mean "inkwash"?'
