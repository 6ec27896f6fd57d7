"""The page without a browser: what it asks of the model, what it says, and where it is served."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

pytest.importorskip("gradio", minversion="6", reason="the demo's page is made with gradio 6")

import gradio
from PIL import Image

from lycopatch.demo.page_compare import wanted_comparison
from lycopatch.demo.page_generate import enlarged, make_pictures, wanted_settings
from lycopatch.demo.report_line import made_html
from lycopatch.demo.serving import HOST, free_port
from lycopatch.demo.txt2img import Made, Settings, Stopped
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.report import Issue, Report, TagReport


def made(report: Report, settings: Settings | None = None) -> Made:
    settings = settings or Settings("a cat", seed=7)
    pictures = [Image.new("RGB", (64, 64)) for _ in range(settings.batch)]
    return Made(settings, pictures, report, "small", 0, 1.7e9, 0.25)


class Studio:
    """In place of a model: keeps what it was asked for and answers what a test wants."""

    def __init__(self, answer: Report | Exception) -> None:
        self.answer, self.asked = answer, []
        self.model, self.last = "small", None

    def make(self, settings: Settings, progress: Any) -> Made:
        self.asked.append(settings)
        if isinstance(self.answer, Exception):
            raise self.answer
        progress(settings.steps, settings.steps)
        return made(self.answer, settings)

    def stop(self) -> None: ...


def press(studio: Any, *wanted: Any) -> tuple[Any, str, Any]:
    """The pictures, the report and the seed after Generate; steps of the progress bar go to ``studio.steps``."""
    studio.steps = []
    return make_pictures(studio, lambda step, **_: studio.steps.append(step), *wanted)


# --- Generate


def test_the_boxes_become_settings() -> None:
    assert wanted_settings("a cat", "dog", 7, 20, 4.5, 2) == Settings("a cat", "dog", 7, 20, 4.5, 2)
    assert wanted_settings(None, None, 7, 20, 4, 1) == Settings("", "", 7)


def test_a_seed_of_minus_one_is_any() -> None:
    assert len({wanted_settings("a cat", "", -1, 20, 4, 1).seed for _ in range(5)}) == 5


def test_pictures_come_with_their_report_seed_and_parameters() -> None:
    studio = Studio(Report())
    pictures, report, seed = press(studio, "a cat", "", 7, 20, 4, 2)
    assert [(picture.size, caption) for picture, caption in pictures["value"]] == [
        ((384, 384), "Seed 7"),
        ((384, 384), "Seed 8"),
    ]
    assert pictures["value"][1][0].info["parameters"].endswith("Seed: 8, Model: small")
    assert "No network is in the prompt" in report
    assert seed == 7
    assert studio.steps == [(0, 20), (20, 20)]


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        (("a cat", "", 7, None, 4, 1), "The box of the steps is empty; write a number into it."),
        (("a cat", "", None, 20, 4, 1), "The box of the seed is empty; write a number into it."),
        (("a cat", "", 7, 20, float("nan"), 1), "The CFG must be between 1 and 30, not nan."),
        (("a cat", "", 7, 20, 4, 1000), "The batch must be between 1 and 64, not 1000."),
        (("a cat", "", -5, 20, 4, 1), "The seed must be between 0 and"),
    ],
)
def test_a_bad_value_is_a_sentence(boxes: tuple[Any, ...], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(gradio, "Warning", said.append)
    studio = Studio(Report())
    _, report, _ = press(studio, *boxes)
    assert sentence in report
    assert sentence in said[0]
    assert not studio.asked


def test_trouble_with_the_model_is_an_escaped_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(gradio, "Warning", said.append)
    _, report, _ = press(Studio(AdapterError("No <b>model</b>.")), "a cat", "", 7, 20, 4, 1)
    assert "No &lt;b&gt;model&lt;/b&gt;." in report
    assert said == ["No &lt;b&gt;model&lt;/b&gt;."]


def test_stop_leaves_the_pictures_that_are_there() -> None:
    pictures, report, _ = press(Studio(Stopped()), "a cat", "", 7, 20, 4, 1)
    assert pictures == gradio.skip()
    assert "Stopped." in report


def test_small_pictures_are_enlarged_with_hard_edges_and_large_ones_stay() -> None:
    small = Image.new("RGB", (64, 64), "red")
    small.info["parameters"] = "a cat"
    assert enlarged(small).size == (384, 384)
    assert enlarged(small).info == {"parameters": "a cat"}
    large = Image.new("RGB", (512, 512))
    assert enlarged(large) is large


# --- the report under the pictures


def test_each_tag_says_what_was_applied_and_each_trouble_is_a_sentence() -> None:
    good = TagReport("<lora:ink:1>", "ink", layers_applied=4, layers_total=4)
    part = TagReport(
        "<lora:mist:1>", "mist", layers_applied=1, layers_total=4, issues=[Issue("x", "3 are <i>odd</i>.")]
    )
    lost = TagReport("<lora:inc:1>", "inc", failed=True, issues=[Issue("y", 'Did you mean "ink"?')])
    html = made_html(made(Report([good, part, lost], [Issue("z", "One more.")], tensors_active=5)))
    assert '<div class="lycopatch-notice lycopatch-good"><code>&lt;lora:ink:1&gt;</code>: 4 of 4 layers applied' in html
    assert "lycopatch-part" in html
    assert "3 are &lt;i&gt;odd&lt;/i&gt;." in html
    assert "Did you mean &quot;ink&quot;?" in html
    assert "One more." in html
    assert "Seed 7, 20 steps, CFG 4: 0.25 s, networks 0.00 s." in html
    assert "without" not in html


def test_many_troubles_are_counted() -> None:
    tag = TagReport("<lora:ink:1>", "ink", issues=[Issue("x", f"Trouble {number}.") for number in range(9)])
    html = made_html(made(Report([tag])))
    assert "Trouble 4." in html
    assert "Trouble 5." not in html
    assert "and 4 more" in html


def test_it_is_said_when_the_model_is_as_it_was() -> None:
    tag = TagReport("<lora:ink:0>", "ink", layers_applied=4, layers_total=4)
    assert "No weight of the model was changed" in made_html(made(Report([tag])))
    assert "No network is in the prompt" in made_html(made(Report()))


# --- Compare


def test_the_boxes_of_the_comparison_become_what_is_wanted() -> None:
    wanted = wanted_comparison(["ink", "mist"], "0.5, 1 1,", "a cat", 4, 20, 4)
    assert wanted == (["ink", "mist"], (0.5, 1.0), Settings("a cat", steps=20, cfg=4.0, batch=4))


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ((["ink"], " ", "a cat", 4, 20, 4), "Write at least one weight, as in 0.5, 1."),
        ((["ink"], "half", "a cat", 4, 20, 4), '"half" is no weight that a tag can have; write numbers, as in 0.5, 1.'),
        ((["ink"], "1", "a cat", 99, 20, 4), "The number of seeds must be between 1 and 16, not 99."),
        ((["ink"], "1", "a cat", 4, None, 4), "The box of the steps is empty; write a number into it."),
    ],
)
def test_a_bad_value_of_the_comparison_is_a_sentence(boxes: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        wanted_comparison(*boxes)


# --- where it is served


def test_a_port_in_use_is_not_taken() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(0) > 0


def test_no_free_port_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise OSError

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ValueError, match="The ports from 7861 to 7880 are all in use; name another with --port"):
        free_port(7861)
