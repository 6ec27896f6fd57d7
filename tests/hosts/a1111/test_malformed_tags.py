"""From a malformed tag in the prompt to the lines that the user reads under the picture.

The WebUI takes out of a prompt what matches its pattern and splits it at colons; the rest stays in the text.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.report import Issue, Report
from lycopatch.engine.session import Session
from lycopatch.hosts.memory.models import DictModel
from malformed_tags import CASES
from networks import write_network
from random_models import layers_of, sd15
from stub_modules import shared, stub_modules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Lora")
    layers = layers_of(sd15(shrink=40), only=("down_blocks_0_attentions_0",))
    for name in ("ink", "inkwash", "paper", "one/twin", "two/twin", "cut"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_network(folder / f"{name}.safetensors", layers, "lora")
    write_network(folder / "stranger.safetensors", {"lora_unet_nowhere_to_q": (8, 8)}, "lora")
    save_file({"emb_params": torch.zeros(2, 768)}, folder / "inversion.safetensors")
    torch.save({"a": torch.zeros(2)}, folder / "pickle.pt")
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:900])
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "nothing.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def lines_under(folder: Path) -> Iterator[Callable[[str], list[str]]]:
    """Prompt → the lines under its picture, by way of the real tag handler."""
    session = Session(DictModel(sd15(shrink=40)), Catalog([folder]))
    settings = SimpleNamespace(show_messages=True)
    hashes = SimpleNamespace(write=lambda p, report: None)
    usage = SimpleNamespace(count=lambda p, report: None)

    def activate(_p: Any, requests: Any, issues: list[Issue], *_: object) -> Report:
        return session.activate(requests, issues)

    def report_bug(message: str, exc_info: bool) -> None:
        raise AssertionError(message)

    modules = {"shared": shared(), "sd_unet": {"current_unet": None}, "errors": {"report": report_bug}}
    with stub_modules(modules):
        room = importlib.import_module("lycopatch.hosts.a1111.tag_handler")
        handler = room.TagHandler(SimpleNamespace(activate=activate), settings, hashes, usage, list)

        def lines(prompt: str) -> list[str]:
            p = job(prompt)
            handler.activate(p, [tag for kind in ("lora", "lyco") for tag in p.extra_network_data.get(kind, ())])
            return p.comments

        yield lines
    session.deactivate()


def job(prompt: str) -> SimpleNamespace:
    """What the WebUI makes of a prompt: the text without tags, and the tags' arguments."""
    found: dict[str, list[Any]] = defaultdict(list)

    def take(tag: re.Match[str]) -> str:
        found[tag[1]].append(SimpleNamespace(items=tag[2].split(":")))
        return ""

    text = re.sub(r"<(\w+):([^>]+)>", take, prompt)
    comments: list[str] = []
    return SimpleNamespace(
        all_prompts=[prompt],
        prompts=[text],
        negative_prompts=[""],
        iteration=0,
        batch_size=1,
        extra_network_data=found,
        comments=comments,
        comment=comments.append,
    )


def fits(line: str, pattern: str) -> bool:
    """Whether a line is the pattern, whose "…" stand for any text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line) is not None


def test_there_are_more_than_two_hundred_different_malformed_tags() -> None:
    prompts = [prompt for prompt, _ in CASES]
    assert len(set(prompts)) == len(prompts) > 200


@pytest.mark.parametrize(("prompt", "expected"), CASES, ids=[ascii(prompt)[:50] for prompt, _ in CASES])
def test_a_malformed_tag_is_told_under_the_picture(
    prompt: str, expected: list[str], lines_under: Callable[[str], list[str]]
) -> None:
    found = lines_under(prompt)
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert fits(line, pattern), line
        assert line.isprintable()
        assert len(line) <= 400
        assert line[-1] in ".?"


@pytest.mark.parametrize(
    "prompt", ["a cat", "<lora:ink>", "<lyco:ink:0.5:1:dyn=4>", "<lora: INK :te=0.5>", "1 < 2 > 0", "<3"]
)
def test_a_prompt_without_fault_gives_no_line(prompt: str, lines_under: Callable[[str], list[str]]) -> None:
    assert lines_under(prompt) == []


def test_the_lines_stand_under_a_picture_of_the_webui_and_the_good_tag_counts(webui: Any) -> None:
    good = webui.txt2img("a cat <lora:ink:0.8>")
    bad = webui.txt2img("a cat <lora:ink:0.8> <lora:ink:0,5> <lyco:inkk> <loras:ink:1> <lora ink>")
    assert good.comments == ""
    assert bad.comments.splitlines() == [
        'The TE weight "0,5" in "<lora:ink:0,5>" is not a number, so the tag was left out; write 0.5.',
        'The tag "<lora ink>" has no colon after its kind; write <lora:name:0.8>.',
        'The tag "<loras:ink:1>" is not for networks; write "<lora:ink:1>".',
        'There is no network named "inkk". Did you mean "ink"?',
    ]
    assert webui.errors == []
