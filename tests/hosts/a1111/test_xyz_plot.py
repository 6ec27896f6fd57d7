"""The axes of the X/Y/Z plot: what they make of a prompt, in any order."""

from __future__ import annotations

import copy
import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lycopatch.engine.catalog import Catalog
from networks import write_network
from stub_modules import shared, stub_modules

LAYERS = {"lora_unet_nowhere_to_q": (8, 8)}
LABELS = [f"[LycoPatch] {label}" for label in ("Network", "Weight", "TE weight", "UNet weight")]
NETWORKS = ["None", "ink", "paper"]


class AxisOption:
    def __init__(
        self, label: str, type: Any, apply: Any, format_value: Any = None, confirm: Any = None, **more: Any
    ) -> None:
        self.label, self.type, self.apply, self.format_value, self.confirm = label, type, apply, format_value, confirm
        self.cost, self.choices = more.pop("cost", 0.0), more.pop("choices", None)
        assert not more, "WebUI 1.5 knows no more arguments"


class Plot:
    """The script with our axes; a cell is a copy of the job to which one axis after the other is applied."""

    def __init__(self, folder: Path) -> None:
        self.script = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
        self.settings = SimpleNamespace(prefer_alias=False, usual_weight=0.7)
        self.catalog = Catalog([folder])

    def register(self) -> Any:
        room = importlib.import_module("lycopatch.hosts.a1111.xyz_plot")
        return room.register_axes(SimpleNamespace(catalog=self.catalog), self.settings)

    def axis(self, label: str) -> Any:
        return next(axis for axis in self.script.axis_options if axis.label == f"[LycoPatch] {label}")

    def cell(self, job: SimpleNamespace, *axes: tuple[str, Any]) -> SimpleNamespace:
        cell = copy.copy(job)
        for label, value in axes:
            self.axis(label).apply(cell, value, NETWORKS if label == "Network" else [value])
        return cell

    def prompt(self, prompt: str, *axes: tuple[str, Any]) -> str:
        """What the axes make of a prompt, whichever of them comes first."""
        job = SimpleNamespace(prompt=prompt, hr_prompt="")
        [result] = {self.cell(job, *order).prompt for order in itertools.permutations(axes)}
        return result


@pytest.fixture
def plot(tmp_path: Path) -> Iterator[Plot]:
    for name in ("ink", "sub/paper"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_network(tmp_path / f"{name}.safetensors", LAYERS, "lora", metadata={"ss_output_name": f"{name}-trained"})
    (tmp_path / "broken.safetensors").write_bytes(b"")
    plot = Plot(tmp_path)
    scripts_data = [
        SimpleNamespace(path=str(tmp_path / "scripts" / "other.py"), module=SimpleNamespace()),
        SimpleNamespace(path=str(tmp_path / "scripts" / "xyz_grid.py"), module=plot.script),
    ]
    with stub_modules({"shared": shared(), "scripts": {"scripts_data": scripts_data}}):
        plot.register()
        yield plot


def labels(plot: Plot) -> list[str]:
    return [axis.label for axis in plot.script.axis_options]


def test_the_axes_are_there_once_and_can_be_taken_away(plot: Plot) -> None:
    assert labels(plot) == ["Nothing", *LABELS]
    remove = plot.register()
    assert labels(plot) == ["Nothing", *LABELS]
    remove()
    assert labels(plot) == ["Nothing"]


def test_a_webui_without_the_script_has_no_axes(plot: Plot) -> None:
    importlib.import_module("modules.scripts").scripts_data.clear()
    plot.register()()


def test_the_choices_are_what_tags_can_name_after_a_baseline(plot: Plot) -> None:
    assert plot.axis("Network").choices() == ["None", "ink", "paper"]
    plot.settings.prefer_alias = True
    assert plot.axis("Network").choices() == ["None", "ink-trained", "sub/paper-trained"]


@pytest.mark.parametrize(
    ("prompt", "network", "expected"),
    [
        ("a cat", "ink", "<lora:ink:0.7>a cat"),
        ("a cat", "None", "a cat"),
        ("a <lora:ink:0.5:0.2:dyn=4>", "paper", "a <lora:paper:0.5:0.2:dyn=4>"),
        ("a <lyco:ink>", "paper", "a <lyco:paper:1>"),
        ("a <lora:ink:0.5> cat", "None", "a  cat"),
        ("<lora:style:0.3> <lora:ink>", "paper", "<lora:style:0.3> <lora:paper:1>"),
        ("<lora:ink> <lora:paper>", "paper", "<lora:paper:1> "),
        ("<lora:style:0.3>", "ink", "<lora:ink:0.7><lora:style:0.3>"),
        ("<lora:ink:x>", "paper", "<lora:paper:0.7><lora:ink:x>"),
    ],
)
def test_the_network_takes_the_place_of_one_of_the_axis_or_is_added(
    plot: Plot, prompt: str, network: str, expected: str
) -> None:
    assert plot.prompt(prompt, ("Network", network)) == expected


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([("Weight", 0.5)], "<lora:ink:0.5> <lyco:paper:0.5:dyn=8>"),
        ([("TE weight", 0.0)], "<lora:ink:0:0.8> <lyco:paper:0:0.2:dyn=8>"),
        ([("UNet weight", -1.0)], "<lora:ink:0.8:-1> <lyco:paper:1:-1:dyn=8>"),
        ([("Weight", 0.5), ("TE weight", 0.1)], "<lora:ink:0.1:0.5> <lyco:paper:0.1:0.5:dyn=8>"),
        ([("TE weight", 0.1), ("UNet weight", 0.1)], "<lora:ink:0.1> <lyco:paper:0.1:dyn=8>"),
    ],
)
def test_without_a_network_axis_the_weights_are_those_of_every_tag(plot: Plot, axes: list[Any], expected: str) -> None:
    assert plot.prompt("<lora:ink:0.8> <lyco:paper:1:0.2:8>", *axes) == expected


@pytest.mark.parametrize(
    ("prompt", "network", "expected"),
    [
        ("<lora:style:0.3> <lora:ink:0.8>", "paper", "<lora:style:0.3> <lora:paper:0.5:0.1>"),
        ("<lora:style:0.3> <lora:ink:0.8>", "None", "<lora:style:0.3> "),
        ("<lora:style:0.3>", "paper", "<lora:paper:0.5:0.1><lora:style:0.3>"),
    ],
)
def test_with_a_network_axis_the_weights_are_those_of_its_network(
    plot: Plot, prompt: str, network: str, expected: str
) -> None:
    axes = ("Weight", 0.5), ("UNet weight", 0.1), ("Network", network)
    assert plot.prompt(prompt, *axes) == expected


def test_the_dust_of_binary_fractions_stays_out_of_prompts_and_labels(plot: Plot) -> None:
    assert plot.prompt("<lora:ink>", ("Weight", 0.1 + 0.2)) == "<lora:ink:0.3>"
    axis = plot.axis("Weight")
    assert axis.format_value(None, axis, 0.1 + 0.2) == "Weight: 0.3"


def test_what_other_extensions_read_in_a_tag_is_kept(plot: Plot) -> None:
    assert plot.prompt("<lora:ink:1:lbw=ALL:te=2>", ("Weight", 0.5)) == "<lora:ink:0.5:lbw=ALL>"


@pytest.mark.parametrize(
    "text", ["a cat", "<hypernet:h:1>", "<lora:", "<lora:ink", "<lora:ink:x>", "<lora::1>", "<lora>"]
)
def test_what_is_no_tag_of_ours_is_left_alone(plot: Plot, text: str) -> None:
    assert plot.prompt(text, ("Weight", 0.5), ("TE weight", 0.1)) == text


def test_a_tag_that_is_not_closed_keeps_its_place_before_the_next(plot: Plot) -> None:
    assert plot.prompt("<lora:a <lora:ink>", ("Weight", 0.5)) == "<lora:a <lora:ink:0.5>"


def test_another_axis_between_ours_keeps_what_it_did(plot: Plot) -> None:
    cell = plot.cell(SimpleNamespace(prompt="a cat <lora:ink>"), ("Weight", 0.5))
    cell.prompt = cell.prompt.replace("cat", "dog")
    assert plot.cell(cell, ("TE weight", 0.1)).prompt == "a dog <lora:ink:0.1:0.5>"


def test_the_job_itself_is_not_changed(plot: Plot) -> None:
    job = SimpleNamespace(prompt="<lora:ink>", hr_prompt="")
    assert plot.cell(job, ("Weight", 0.5)).prompt == "<lora:ink:0.5>"
    assert plot.cell(job, ("TE weight", 0.1)).prompt == "<lora:ink:0.1:1>"
    assert vars(job) == {"prompt": "<lora:ink>", "hr_prompt": ""}


def test_an_equal_hires_prompt_goes_along_and_another_one_stays(plot: Plot) -> None:
    axes = ("Weight", 0.5), ("Network", "paper")
    same = plot.cell(SimpleNamespace(prompt="<lora:ink>", hr_prompt="<lora:ink>"), *axes)
    assert same.hr_prompt == same.prompt == "<lora:paper:0.5>"
    other = plot.cell(SimpleNamespace(prompt="<lora:ink>", hr_prompt="<lora:ink> x"), *axes)
    assert other.hr_prompt == "<lora:ink> x"


def test_a_list_of_prompts_is_rewritten_one_by_one(plot: Plot) -> None:
    cell = plot.cell(SimpleNamespace(prompt=["a", "<lora:ink:1>"]), ("Network", "paper"), ("Weight", 0.5))
    assert cell.prompt == ["<lora:paper:0.5>a", "<lora:paper:0.5>"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("inkk", 'There is no network named "inkk". Did you mean "ink"?'),
        ("", 'There is no network named "", and none with a similar name.'),
        ("<lora:ink:1>", 'No tag can hold the name "<lora:ink:1>"; use the name of a network alone.'),
        ("ink:0.8", 'No tag can hold the name "ink:0.8"; use the name of a network alone.'),
    ],
)
def test_an_unknown_network_is_refused_before_the_first_picture(plot: Plot, name: str, sentence: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        plot.axis("Network").confirm(None, ["None", "ink", name])
    assert str(caught.value) == sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9])
def test_a_weight_that_would_spoil_the_picture_is_refused(plot: Plot, value: float) -> None:
    for label in ("Weight", "TE weight", "UNet weight"):
        axis = plot.axis(label)
        axis.confirm(None, [0.0, -2.0, 1.5])
        with pytest.raises(RuntimeError, match="would spoil the picture; use numbers such as"):
            axis.confirm(None, [1.0, value])


def test_a_cell_of_the_network_axis_shows_its_name(plot: Plot) -> None:
    axis = plot.axis("Network")
    assert [axis.format_value(None, axis, name) for name in NETWORKS] == NETWORKS


def test_a_webui_has_the_axes_once_also_after_its_page_was_built_again(webui: Any) -> None:
    for _ in range(2):
        scripts = webui.module("scripts").scripts_data
        [script] = [entry.module for entry in scripts if Path(entry.path).name == "xyz_grid.py"]
        assert [axis.label for axis in script.axis_options if "LycoPatch" in axis.label] == LABELS
        webui.reload_ui()
    assert webui.errors == []
