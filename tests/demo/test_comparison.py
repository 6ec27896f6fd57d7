"""Comparing networks: what is made, what is measured, and how it is shown."""

from __future__ import annotations

import csv
import io
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="the demo's model is one of diffusers")

import torch
from PIL import Image, ImageChops

from lycopatch.demo import model
from lycopatch.demo.comparison import (
    KEPT_SIDE,
    MOST_NETWORKS,
    MOST_PICTURES,
    MOST_SEEDS,
    MOST_WEIGHTS,
    Cell,
    Comparison,
    FileFacts,
    Measures,
    compare,
    measure,
    parse_weights,
    shape_and_colour,
)
from lycopatch.demo.comparison_view import BASELINE, JUDGE_NOTE, csv_text, grid, markdown, table_rows
from lycopatch.demo.judging import load_judge
from lycopatch.demo.txt2img import Made, Settings, Stopped, TextToImage
from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.engine.request import parse_prompt
from lycopatch.hosts.diffusers import NetworkLoader

PROMPT = "a red circle on blue"
QUESTIONS = {"shape": ("circle", "star"), "colour": ("red", "blue"), "stripes": ("no", "yes")}
SIDE = 8


def grey(level: int, side: int = SIDE) -> Image.Image:
    return Image.new("RGB", (side, side), (level, level, level))


def batch(*levels: int) -> torch.Tensor:
    """Pictures of one grey each, as ``measure`` takes them."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)


class Loader:
    """In place of a pipeline's: knows every network but "missing", and takes the seconds that it is told to."""

    def __init__(self) -> None:
        self.active, self.seconds, self.log = "", [3.0, 1.0, 2.0], list[str]()

    def activate(self, prompt: str) -> Report:
        self.log.append(prompt)
        self.active = prompt
        tags = [self._tag(request.tag, request.name) for request in parse_prompt(prompt).requests]
        self.seconds = [*self.seconds[1:], self.seconds[0]]
        return Report(tags, seconds=self.seconds[-1])

    def deactivate(self) -> None:
        self.log.append("-")
        self.active = ""

    def _tag(self, tag: str, name: str) -> TagReport:
        if name in ("missing", "lost"):
            return TagReport(tag, name, failed=True, issues=[Issue("not found", f"There is no {name}.", tag)])
        issues = [Issue("unmatched", f"{name} is for another model.", tag)] if name == "odd" else []
        return TagReport(tag, name, layers_applied=3, layers_total=4, issues=issues)


class Studio:
    """In place of a model: each picture is grey, 10 × its seed + 40 × the sum of the weights + the prompt's length."""

    def __init__(self, side: int = SIDE) -> None:
        self.loader, self.side, self.made, self.is_alone = Loader(), side, list[Settings](), False

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.is_alone = True
        yield
        self.is_alone = False

    def make(self, settings: Settings, progress: Callable[[int, int], None]) -> Made:
        assert self.is_alone
        self.made.append(settings)
        for step in range(settings.steps):
            progress(step + 1, settings.steps)
        parsed = parse_prompt(settings.prompt)
        level = 40 * sum(request.unet_multiplier for request in parsed.requests if request.name != "own")
        pictures = [
            grey(int(level + 10 * (settings.seed + i) + len(parsed.text)), self.side) for i in range(settings.batch)
        ]
        return Made(settings, pictures, self.loader.activate(settings.prompt), "small", 0, 0.0, 0.0)


class Judge:
    """In place of the trained one: light pictures are striped, and all but the very dark ones are red circles."""

    questions = QUESTIONS

    def judge(self, pictures: torch.Tensor) -> list[dict[str, str]]:
        assert pictures.shape[1:] == (3, 2, 2)
        light = [float(picture.mean()) for picture in pictures]
        return [
            {"shape": "circle", "colour": "blue" if each < -0.9 else "red", "stripes": "yes" if each > 0 else "no"}
            for each in light
        ]


def compared(
    networks: list[str], weights: list[float], settings: Settings | None = None, **more: Any
) -> tuple[Comparison, Studio]:
    studio: Any = Studio()
    return compare(studio, networks, weights, settings or Settings("", steps=2, batch=2), **more), studio


# --- weights


@pytest.mark.parametrize(
    ("written", "weights"),
    [
        ("0.5, 1", (0.5, 1.0)),
        (" 1;0.5\t-1 ,", (1.0, 0.5, -1.0)),
        ("1 1.0, 1e0", (1.0,)),
        ("0", (0.0,)),
    ],
)
def test_weights_are_written_with_commas_or_blanks(written: str, weights: tuple[float, ...]) -> None:
    assert parse_weights(written) == weights


@pytest.mark.parametrize("written", ["", "  ", ", ;"])
def test_no_weight_is_refused_with_a_sentence(written: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_weights(written)
    assert str(refused.value) == "Write at least one weight, as in 0.5, 1."


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e7", "half", "1:2", "<b>"])
def test_what_a_tag_would_not_take_is_no_weight_here(bad: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_weights(f"0.5, {bad}")
    assert str(refused.value) == f'"{bad}" is no weight that a tag can have; write numbers, as in 0.5, 1.'


def test_numbers_that_no_tag_can_have_are_refused_also_when_nobody_wrote_them() -> None:
    with pytest.raises(ValueError, match='"nan" is no weight'):
        compared(["a"], [math.nan])
    with pytest.raises(ValueError, match="Write at least one weight"):
        compared(["a"], [])


# --- what is made


def test_every_network_at_every_weight_is_made_with_the_prompt_and_seeds_of_the_baseline() -> None:
    made, studio = compared(["a", "b"], [0.5, 1], Settings(f"{PROMPT} <lora:own:1>", "dog", 5, 3, 2.5, 4))
    plain = f"{PROMPT} <lora:own:1>"
    tags = ["", "<lora:a:0.5>", "<lora:a:1.0>", "<lora:b:0.5>", "<lora:b:1.0>"]
    assert studio.made == [Settings(plain + tag, "dog", 5, 3, 2.5, 4) for tag in tags]
    assert [(cell.network, cell.weight) for cell in made.cells] == [("a", 0.5), ("a", 1), ("b", 0.5), ("b", 1)]
    assert [len(cell.pictures) for cell in (made.baseline, *made.cells)] == [4] * 5


def test_a_name_or_weight_that_is_given_twice_is_compared_once() -> None:
    made, _ = compared(["a", "a"], [1, 1.0])
    assert len(made.cells) == 1


def test_more_prompts_count_in_the_measures_and_are_not_kept() -> None:
    made, studio = compared(["a"], [1], more_prompts=["b"])
    assert [settings.prompt for settings in studio.made] == ["", "b", "<lora:a:1.0>", "b<lora:a:1.0>"]
    assert made.prompts == ("", "b")
    assert [picture.getpixel((0, 0)) for picture in made.cells[0].pictures] == [(40, 40, 40), (50, 50, 50)]
    assert made.cells[0].measures.change == 40


def test_each_picture_is_told_and_a_network_that_fails_counts_as_done() -> None:
    told = list[tuple[int, int, str]]()
    compared(["a", "missing", "b"], [1], progress=lambda *each: told.append(each))
    assert told == [
        (1, 8, "no network"),
        (2, 8, "no network"),
        (3, 8, '"a" at 1'),
        (4, 8, '"a" at 1'),
        (7, 8, '"b" at 1'),
        (8, 8, '"b" at 1'),
    ]


def test_the_time_is_the_median_of_three_times_alone_and_the_layers_are_those_of_the_network() -> None:
    made, studio = compared(["a"], [0.5], Settings("<lora:own:1>", steps=1))
    alone = "<lora:a:0.5>"
    assert studio.loader.log == ["<lora:own:1>", "-", alone, "-", alone, "-", alone, f"<lora:own:1>{alone}"]
    (cell,) = made.cells
    assert cell.seconds == 2.0
    assert (cell.layers_applied, cell.layers_total) == (3, 4)
    assert made.baseline.seconds is None


def test_a_network_that_can_not_be_loaded_is_a_row_with_its_reason() -> None:
    made, studio = compared(["missing", "a:b", "a"], [1])
    failed = made.cells[:2]
    assert [cell.troubles for cell in failed] == [
        ("There is no missing.",),
        ('No tag can name "a:b"; rename the file.',),
    ]
    assert all(cell.pictures == () and cell.measures == Measures() and cell.seconds is None for cell in failed)
    assert len(made.cells[2].pictures) == 2
    assert len(studio.made) == 2


def test_troubles_travel_along_and_those_of_the_prompt_stay_with_the_baseline() -> None:
    made, _ = compared(["a", "odd"], [1], Settings("<lora:lost:1>", steps=1))
    assert made.baseline.troubles == ("There is no lost.",)
    assert [cell.troubles for cell in made.cells] == [(), ("odd is for another model.",)]


def test_large_pictures_are_kept_as_smaller_copies() -> None:
    studio: Any = Studio(side=2 * KEPT_SIDE)
    made = compare(studio, ["a"], [1], Settings("", steps=1))
    assert made.baseline.pictures[0].size == (KEPT_SIDE, KEPT_SIDE)
    assert made.cells[0].measures.change == 40


@pytest.mark.parametrize(
    ("networks", "weights", "seeds", "sentence"),
    [
        (0, 1, 1, "Choose at least one network."),
        (MOST_NETWORKS + 1, 1, 1, f"{MOST_NETWORKS} networks, and this one would have {MOST_NETWORKS + 1};"),
        (1, MOST_WEIGHTS + 1, 1, f"{MOST_WEIGHTS} weights, and this one would have {MOST_WEIGHTS + 1};"),
        (1, 1, MOST_SEEDS + 1, f"{MOST_SEEDS} seeds, and this one would have {MOST_SEEDS + 1};"),
        (8, 4, MOST_SEEDS, f"{MOST_PICTURES} pictures, and this one would have {MOST_PICTURES + MOST_SEEDS};"),
    ],
)
def test_too_much_is_refused_with_a_sentence(networks: int, weights: int, seeds: int, sentence: str) -> None:
    names, numbers = [f"n{i}" for i in range(networks)], [float(i) for i in range(weights)]
    with pytest.raises(ValueError) as refused:
        compared(names, numbers, Settings("", steps=1, batch=seeds))
    assert sentence in str(refused.value)


def test_the_most_there_can_be_is_made() -> None:
    made, studio = compared([f"n{i}" for i in range(MOST_NETWORKS)], [1, 2], Settings("", steps=1, batch=10))
    assert len(made.cells) == MOST_NETWORKS * 2
    assert sum(settings.batch for settings in studio.made) == 490 <= MOST_PICTURES


# --- what is measured


def test_the_change_is_the_mean_difference_from_the_baseline_of_the_same_seed() -> None:
    assert measure([batch(20, 0)], [batch(10, 30)], [""], None) == Measures(20.0, None, None, 1.0)
    half = batch(0).clone()
    half[:, :1] = 100
    assert measure([half], [batch(0)], [""], None).change == 50


def test_diversity_is_the_mean_difference_between_seeds_as_a_part_of_the_baseline() -> None:
    # pairs: 60, 30, 30 → 40; without a network 20, 10, 10 → 13.33
    assert measure([batch(0, 60, 30)], [batch(50, 70, 60)], [""], None).diversity == pytest.approx(3.0)
    assert measure([batch(7, 7)], [batch(0, 60)], [""], None).diversity == 0


def test_diversity_is_unknown_with_one_seed_or_when_the_baseline_has_none() -> None:
    assert measure([batch(1), batch(9)], [batch(2), batch(5)], ["", ""], None).diversity is None
    assert measure([batch(1, 9)], [batch(4, 4)], [""], None).diversity is None


def test_the_judge_says_how_many_are_striped_and_how_many_keep_what_the_prompt_names() -> None:
    judge: Any = Judge()
    samples, plain = [batch(0, 50, 200, 255)], [batch(0, 0, 0, 0)]
    told = measure(samples, plain, ["a red circle"], judge)
    assert (told.striped, told.kept) == (0.5, 0.75)
    assert measure(samples, plain, ["a red star"], judge).kept == 0
    assert measure(samples, plain, ["a circle"], judge).kept is None
    both = measure([*samples, batch(50, 50, 50, 50)], plain * 2, ["a cat", "a red circle on red"], judge)
    assert (both.striped, both.kept) == (0.25, 1.0)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red circle on blue", ("circle", "red")),
        ("A RED Circle", ("circle", "red")),
        ("blue background, a big red star, circle", ("star", "red")),
        ("a red circle<lora:blue star:1>", ("circle", "red")),
        ("a circle on blue", None),
        ("circle", None),
        ("all red", None),
        ("redcircles", None),
        ("", None),
    ],
)
def test_what_a_prompt_names_is_its_first_shape_and_the_colour_before_it(prompt: str, named: object) -> None:
    assert shape_and_colour(prompt, QUESTIONS) == named


# --- how it is shown


def comparison(*cells: Cell, seeds: int = 2, weights: tuple[float, ...] = (0.5,), judged: bool = True) -> Comparison:
    names = tuple(dict.fromkeys(cell.network for cell in cells))
    measures = Measures(0.0, 0.04 if judged else None, 1.0 if judged else None, 1.0 if seeds > 1 else None)
    base = Cell("", 0.0, tuple(grey(0, 64) for _ in range(seeds)), FileFacts(), 0, 0, None, measures, ())
    return Comparison(Settings(PROMPT, seed=3, batch=seeds), (PROMPT,), names, weights, judged, base, cells)


def cell(network: str = "ink", weight: float = 0.5, levels: tuple[int, ...] = (100, 200)) -> Cell:
    facts, measures = FileFacts("LoRA", "8", 290_528), Measures(12.34, 0.956, 0.5, 0.876)
    return Cell(network, weight, tuple(grey(each, 64) for each in levels), facts, 95, 96, 0.0214, measures, ())


def failed(network: str, reason: str, weight: float = 0.5) -> Cell:
    return Cell(network, weight, (), FileFacts(), 0, 0, None, Measures(), (reason,))


def test_the_table_has_a_row_for_the_baseline_and_one_for_each_cell() -> None:
    assert table_rows(comparison(cell())) == [
        [
            *("Network", "Weight", "Algorithm", "Rank", "File size", "Layers", "Apply time"),
            *("Change of the picture", "Stripes found", "Shape and colour kept", "Diversity"),
        ],
        [BASELINE, "", "", "", "", "", "", "0.0 / 255", "4%", "100%", "1.00"],
        ["ink", "0.5", "LoRA", "8", "290.5 kB", "95 of 96", "0.021 s", "12.3 / 255", "96%", "50%", "0.88"],
    ]


def test_without_a_judge_its_columns_and_its_note_are_not_there() -> None:
    made = comparison(cell(), judged=False)
    assert "Stripes found" not in table_rows(made)[0]
    assert JUDGE_NOTE not in markdown(made)
    assert JUDGE_NOTE in markdown(comparison(cell()))


def test_troubles_have_a_column_when_there_are_any() -> None:
    head, _, first, second = table_rows(comparison(cell(), failed("lost", "There is no lost.")))
    assert head[-1] == "Troubles"
    assert first[-1] == ""
    assert second == ["lost", "0.5", *[""] * 9, "There is no lost."]
    many = replace(cell(), troubles=tuple(f"Trouble {i}." for i in range(9)))
    assert table_rows(comparison(many))[2][-1] == "Trouble 0. Trouble 1. Trouble 2. and 6 more"


def test_the_csv_has_bare_numbers() -> None:
    head, base, row = csv.reader(io.StringIO(csv_text(comparison(cell("ink, wash", -0.5)))))
    assert head[4:8] == ["File size, bytes", "Layers", "Apply time, s", "Change of the picture, 0 to 255"]
    assert base[:7] == [BASELINE, *[""] * 6]
    assert row == ["ink, wash", "-0.5", "LoRA", "8", "290528", "95 of 96", "0.0214", "12.34", "0.956", "0.5", "0.876"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "\t=1"])
def test_no_cell_of_the_csv_is_a_formula(name: str) -> None:
    made = comparison(failed(name, f"{name} is missing."))
    row = list(csv.reader(io.StringIO(csv_text(made))))[-1]
    assert row[0][0] in ("'", "\N{REPLACEMENT CHARACTER}")
    assert row[-1].startswith("'")


def test_a_name_can_not_break_the_markdown_table() -> None:
    made = markdown(comparison(failed("a|b\n<b>*_`[x](y)\\", "A | B")))
    row = made.splitlines()[3]
    assert "\\| B" in row
    assert "a\\|b\N{REPLACEMENT CHARACTER}&lt;b&gt;\\*\\_\\`\\[x\\](y)\\\\" in row
    assert [len(line.replace("\\|", "").split("|")) for line in made.splitlines()[:4]] == [14] * 4


def colours_down(sheet: Image.Image, x: int) -> list[int]:
    """The greys along a column, each run once, without white and lines."""
    levels = [pixel[0] for y in range(sheet.height) if isinstance(pixel := sheet.getpixel((x, y)), tuple)]
    runs = [each for each, before in zip(levels, [-1, *levels], strict=False) if each != before]
    return [each for each in runs if each in (0, 100, 150, 200)]


def test_rows_are_networks_and_columns_seeds_with_the_baseline_first() -> None:
    sheet = grid(comparison(cell("ink", 0.5, (100, 200)), cell("ink", 1, (200, 150)), weights=(0.5, 1)))
    assert colours_down(sheet, sheet.width - 300) == [0, 100, 200]
    assert colours_down(sheet, sheet.width - 100) == [0, 200, 150]


def test_with_one_seed_the_columns_are_weights() -> None:
    cells = [cell("ink", 0.5, (100,)), cell("ink", 1, (200,)), cell("wash", 0.5, (200,)), cell("wash", 1, (150,))]
    sheet = grid(comparison(*cells, seeds=1, weights=(0.5, 1)))
    assert colours_down(sheet, sheet.width - 300) == [0, 100, 200]
    assert colours_down(sheet, sheet.width - 100) == [0, 200, 150]


def test_small_pictures_are_enlarged_without_a_blur() -> None:
    picture = grey(100, 64)
    picture.paste((200, 0, 0), (0, 0, 32, 64))
    sheet = grid(comparison(replace(cell(), pictures=(picture, picture))))
    corner = sheet.crop((sheet.width - 200, sheet.height - 100, sheet.width - 8, sheet.height - 99))
    assert corner.getcolors() == [(96, (200, 0, 0)), (96, (100, 100, 100))]


def test_a_network_without_pictures_takes_little_room_and_moves_no_other() -> None:
    cells = [failed("lost", "There is no lost.", 0.5), cell("lost", 1, (200,)), cell("ink", 0.5, (100,))]
    both = grid(comparison(*cells, cell("ink", 1, (150,)), seeds=1, weights=(0.5, 1)))
    assert colours_down(both, both.width - 300) == [0, 100]
    assert both.height < grid(comparison(*[cell("ink", 1, (150,))] * 4, seeds=1, weights=(0.5, 1))).height - 100


@pytest.mark.parametrize(
    "name", ["\u65e5\u672c\u8a9e\u306e\u540d\u524d" * 40, "\udc80\x00\n\u202e", "n" * 5000, "\U0001f98a", "e\u0301"]
)
def test_no_name_breaks_the_grid_or_makes_it_wide(name: str) -> None:
    made = comparison(cell(name), failed(name, name))
    assert grid(made).width <= 300 + 3 * 16 + 2 * 200
    assert csv_text(made).encode()
    assert markdown(made).encode()


def test_the_largest_grid_is_of_a_bearable_size() -> None:
    cells = [cell(f"n{i}", 1, (100,) * 16) for i in range(31)]
    sheet = grid(comparison(*cells, seeds=16, weights=(1.0,)))
    assert sheet.width * sheet.height < 10_000_000


# --- with the model of the package


@pytest.fixture(scope="module")
def studio() -> Iterator[TextToImage]:
    pipe = model.load_pipeline()
    with NetworkLoader(pipe, [model.NETWORKS]) as loader:
        yield TextToImage(pipe, loader, model.NAME)


@pytest.fixture(scope="module")
def networks() -> list[Path]:
    return sorted(model.NETWORKS.glob("*.safetensors"))[:2]


def test_networks_are_compared_and_the_model_is_as_before(studio: TextToImage, networks: list[Path]) -> None:
    settings = Settings(PROMPT, steps=3, batch=2)
    before = [picture.tobytes() for picture in studio.make(settings).pictures]
    names = [file.stem for file in networks]
    made = compare(studio, [*names, "nobody-has-this"], [0, 1], settings, load_judge(model.JUDGE))
    assert [picture.tobytes() for picture in studio.make(settings).pictures] == before
    assert [picture.tobytes() for picture in made.baseline.pictures] == before
    *cells, lost, lost_too = made.cells
    assert [cell.file.size for cell in cells[::2]] == [file.stat().st_size for file in networks]
    for off, on in zip(cells[::2], cells[1::2], strict=True):
        assert [picture.tobytes() for picture in off.pictures] == before
        assert off.measures.change == 0
        assert on.measures.change is not None
        assert on.measures.change > 0
        assert on.file.algorithm
        assert on.seconds is not None
        assert on.layers_applied == on.layers_total > 0
        for answer in (on.measures.striped, on.measures.kept):
            assert answer in (0.0, 0.5, 1.0)
        assert on.pictures[0].tobytes() != on.pictures[1].tobytes()
        assert on.troubles == ()
    assert lost.troubles == lost_too.troubles
    assert "nobody-has-this" in lost.troubles[0]
    assert len(table_rows(made)) == 2 + len(made.cells)
    sheet = grid(made)
    picture = made.cells[-3].pictures[-1]
    assert ImageChops.difference(sheet, Image.new("RGB", sheet.size, "white")).getbbox() is not None
    assert picture.resize((192, 192), Image.Resampling.NEAREST).tobytes() in _last_pictures(sheet)


def _last_pictures(sheet: Image.Image) -> list[bytes]:
    """What lies in the last column, at every height."""
    left = sheet.width - 200
    return [sheet.crop((left, y, left + 192, y + 192)).tobytes() for y in range(sheet.height - 192)]


def test_one_stop_ends_the_whole_comparison(studio: TextToImage, networks: list[Path]) -> None:
    """Also a stop while nothing is drawn: between two networks."""
    before = studio.make(Settings(PROMPT, steps=2)).pictures[0].tobytes()
    told = list[str]()

    def tell(done: int, total: int, what: str) -> None:
        told.append(what)
        if done == 1 and what == "no network":
            studio.stop()

    with pytest.raises(Stopped):
        compare(studio, [networks[0].stem], [1], Settings(PROMPT, steps=2), progress=tell)
    assert set(told) == {"no network"}
    assert studio.make(Settings(PROMPT, steps=2)).pictures[0].tobytes() == before


def test_nobody_makes_pictures_in_the_middle_of_a_comparison(studio: TextToImage, networks: list[Path]) -> None:
    order = list[str]()
    threads = list[threading.Thread]()

    def other() -> None:
        studio.make(Settings(PROMPT, steps=1))
        order.append("other")

    def tell(done: int, total: int, what: str) -> None:
        order.append(what)
        if not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()

    compare(studio, [networks[0].stem], [1], Settings(PROMPT, steps=2), progress=tell)
    threads[0].join(60)
    assert order[-1] == "other"
    assert order.count("other") == 1
