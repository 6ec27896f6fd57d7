"""What the tab shows: read as a browser would read it, so that nothing of a stranger can become markup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lycopatch.engine.health import Progress
from lycopatch.engine.report import Issue, Report, TagReport
from lycopatch.ui.networks import Networks
from lycopatch.ui.pages import Pages
from lycopatch.ui.report_view import report_html

OURS = frozenset(
    "p div table caption thead tbody tr th td button small span h3 h4 dl dt dd ul li details summary code "
    "section".split()
)
ATTRIBUTES = frozenset({"class", "scope", "type"})

HOSTILE = '"><img src=x onerror=alert(1)>'


@dataclass(frozen=True)
class Last:
    report: Report
    when: float = 1.7e9
    model: str = "v1-5.safetensors"
    bytes_held: int = 1_500_000


class Reader(HTMLParser):
    """Collects the text, and refuses what is not ours or is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in OURS, f"<{tag}> is none of ours"
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture
def pages(networks: Networks) -> Pages:
    return Pages(networks, lambda: None, lambda: False, lambda: None)


@contextmanager
def untold(what: str) -> Iterator[Progress]:
    yield lambda done, total: None


def test_strangers_texts_never_become_markup_nor_turn_the_line_around(pages: Pages, networks: Networks) -> None:
    (name,) = [row.name for row in networks.rows() if row.name.startswith("hostile")]
    shown, checked = Reader(pages.shown(name)), Reader(pages.checked(name, untold))
    for page in (shown, checked):
        assert "\u202e" not in page.text
        assert HOSTILE in page.text


def test_each_row_s_name_finds_its_network(pages: Pages, networks: Networks) -> None:
    rows = networks.rows()
    assert len(rows) == 6
    for row in rows:
        assert "no network named" not in Reader(pages.shown(row.name)).text


def test_inspecting_says_what_a_file_is_without_reading_its_numbers(pages: Pages) -> None:
    text = Reader(pages.shown("ink")).text
    for part in ("Stable Diffusion 1", "LoRA", "U-Net (1 layer)", "text encoder (1 layer)", "6 of 6 keys explained"):
        assert part in text
    assert "ink wash (12), tree (3)" in text
    assert "Health" not in text
    assert "SHA-256" not in text


def test_a_check_adds_health_and_hashes_and_tells_its_progress(pages: Pages) -> None:
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(what: str) -> Iterator[Progress]:
        yield lambda done, total: told.append((what, done, total))

    text = Reader(pages.checked("ink", progress)).text
    assert "Health good" in text
    assert "SHA-256" in text
    assert {what for what, _, _ in told} == {"ink.safetensors: numbers", "ink.safetensors: hashes"}
    assert told[-1][1] == told[-1][2]


def test_damage_is_named_with_its_layer(pages: Pages, folders: list[Path]) -> None:
    tensors = load_file(folders[0] / "twin.safetensors")
    tensors[next(key for key in tensors if "lora_up" in key)][0] = float("nan")
    tensors["odd.key"] = torch.zeros(2)
    save_file(tensors, folders[0] / "sick.safetensors")
    text = Reader(pages.checked("sick", untold)).text
    assert "no numbers (NaN)" in text
    assert "damaged" in text
    assert "not understood: odd.key" in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (None, "Write the name of a network"),
        ("  ", "Write the name of a network"),
        ("imk", 'There is no network named "imk". Did you mean "ink"?'),
        ("twin", 'The name "twin" fits several networks'),
        ("cut", "the download is incomplete"),
        ("../../etc/passwd", "There is no network named"),
        ("/etc/passwd", "There is no network named"),
        ("\x00", "There is no network named"),
        ("x" * 100_000, "There is no network named"),
    ],
)
def test_a_name_that_can_not_be_inspected_gets_a_sentence(pages: Pages, name: str | None, sentence: str) -> None:
    assert sentence in Reader(pages.shown(name)).text
    assert sentence in Reader(pages.checked(name, untold)).text


def test_the_report_tells_per_tag_what_matched_and_what_did_not() -> None:
    good = TagReport("<lora:a:0.8>", "a", family="sd1", te_multiplier=0.8, unet_multiplier=0.8)
    good.layers_applied = good.layers_total = 264
    part = TagReport("<lyco:b:0.5:1>", "b", te_multiplier=0.5, layers_applied=1, layers_total=100)
    part.keys["unmatched"] = [f"layer_{number}" for number in range(99)]
    part.issues = [Issue("unmatched", f"Layer {number} <b>is</b> not there.") for number in range(8)]
    lost = TagReport("<lora:c>", "c", failed=True, issues=[Issue("not found", "There is no c.")])
    report = Report([good, part, lost], [Issue("malformed", "<lora: is not closed.")], tensors_written=265, seconds=1.5)
    text = " ".join(Reader(report_html(Last(report))).text.split())
    for words in (
        "265 tensors written in 1.50 s",
        "1.5 MB",
        "v1-5.safetensors",
        "264 of 264 layers",
        "Stable Diffusion 1",
        "TE 0.5, UNet 1",
        "99 of layers this model lacks",
        "99 keys of layers this model lacks",
        "and 79 more",
        "Layer 4 <b>is</b> not there. and 3 more",
        "There is no c.",
        "<lora: is not closed.",
    ):
        assert words in text, words
    page = report_html(Last(report))
    assert [kind in page for kind in ("lycopatch-good", "lycopatch-part", "lycopatch-trouble")] == [True] * 3


def test_before_the_first_picture_the_report_says_so(pages: Pages) -> None:
    assert "No picture was made yet" in Reader(pages.report()).text
    assert "named no network" in Reader(report_html(Last(Report()))).text


def test_standing_aside_is_said_above_everything(networks: Networks) -> None:
    pages = Pages(networks, lambda: None, lambda: False, lambda: "Another copy of <LycoPatch> is installed.")
    for page in (pages.aside(), pages.report()):
        assert Reader(page).text.startswith("Another copy of <LycoPatch> is installed.")
