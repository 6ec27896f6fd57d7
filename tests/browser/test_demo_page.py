"""What a person does on the demo's page, done in a browser."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROMPT = "#demo_prompt textarea"
PICTURES = "#demo_pictures .grid-container img"
CARDS = "#demo_library .lycopatch-tile[data-state=ready]"
FIRST = "a red circle on blue"


def write(page: Any, prompt: str, seed: int = 5) -> None:
    page.fill(PROMPT, prompt)
    page.fill("#demo_seed input", str(seed))


def generate(page: Any, press: str = "#demo_run") -> bytes:
    """Press Generate, wait for another report than before, and return the first picture's file."""
    before = page.inner_html("#demo_report")
    page.click(press)
    page.wait_for_function(
        "before => document.querySelector('#demo_report').innerHTML !== before", arg=before, polling=50
    )
    return page.request.get(page.locator(PICTURES).first.get_attribute("src")).body()


def names(page: Any) -> list[str]:
    """The networks on the cards that are seen."""
    page.wait_for_selector(CARDS)
    return page.locator(f"{CARDS} .lycopatch-tile-title").all_inner_texts()


def open_tab(page: Any, title: str) -> None:
    page.locator("button[role=tab]:visible", has_text=title).last.click()


def wait_for_prompt(page: Any, prompt: str) -> None:
    page.wait_for_function(f"wanted => document.querySelector('{PROMPT}').value === wanted", arg=prompt)


def test_a_click_on_a_card_changes_the_picture_and_another_gives_the_same_one_back(page: Any) -> None:
    name = names(page)[0]
    write(page, FIRST)
    plain = generate(page)
    assert plain.startswith(b"\x89PNG")
    assert "No network is in the prompt" in page.inner_text("#demo_report")
    assert "Seed 5, 20 steps" in page.inner_text("#demo_report")

    page.locator(CARDS).first.click()
    wait_for_prompt(page, f"{FIRST} <lora:{name}:1>")
    page.wait_for_selector(f"{CARDS}[data-chosen=true] >> text={name}")
    changed = generate(page)
    assert changed != plain
    assert f"<lora:{name}:1>" in page.inner_text("#demo_report")
    assert "layers applied" in page.inner_text("#demo_report")

    page.locator(CARDS).first.click()
    wait_for_prompt(page, FIRST)
    assert generate(page) == plain


def test_a_name_that_is_not_there_gets_a_proposal(page: Any) -> None:
    wrong = f"{names(page)[0]}x"
    write(page, f"{FIRST} <lora:{wrong}:1>")
    generate(page)
    report = page.inner_text("#demo_report")
    assert f'There is no network named "{wrong}". Did you mean' in report
    assert "No weight of the model was changed" in report


def test_keys_generate_too_and_several_pictures_come_with_their_seeds(page: Any) -> None:
    names(page)
    write(page, FIRST, seed=40)
    page.locator("#demo_batch input[type=number]").fill("3")
    before = page.inner_html("#demo_report")
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function("before => document.querySelector('#demo_report').innerHTML !== before", arg=before)
    page.wait_for_function(f"document.querySelectorAll('{PICTURES}').length === 3")
    assert page.locator("#demo_pictures .caption-label").all_inner_texts() == ["Seed 40", "Seed 41", "Seed 42"]
    assert page.input_value(PROMPT) == FIRST


def test_the_seed_of_the_last_picture_comes_back(page: Any) -> None:
    names(page)
    write(page, FIRST, seed=-1)
    any_seed = generate(page)
    page.click("#demo_last_seed")
    page.wait_for_function("document.querySelector('#demo_seed input').value !== '-1'")
    page.fill(PROMPT, f"{FIRST} <lora:nothing of this name:1>")  # does nothing, and makes another report
    assert generate(page) != b""
    page.fill(PROMPT, FIRST)
    assert generate(page) == any_seed


def test_a_bad_value_is_a_sentence(page: Any) -> None:
    names(page)
    write(page, FIRST, seed=-7)
    page.click("#demo_run")
    page.wait_for_selector("#demo_report >> text=The seed must be between 0 and")


def test_stop_ends_the_pictures_in_work(page: Any) -> None:
    names(page)
    write(page, FIRST)
    page.locator("#demo_steps input[type=number]").fill("60")
    page.locator("#demo_batch input[type=number]").fill("16")
    page.click("#demo_run")
    page.wait_for_selector("#demo_pictures >> text=/Drawing/")
    page.click("#demo_stop")
    page.wait_for_selector("#demo_report >> text=Stopped.")


def test_the_tab_of_the_webui_has_the_library_inspects_a_file_and_reports_the_last_picture(page: Any) -> None:
    name = names(page)[0]
    write(page, f"{FIRST} <lora:{name}:0.5>")
    generate(page)
    open_tab(page, "LycoPatch")
    page.wait_for_selector("#lycopatch_library_html .lycopatch-tile[data-state=ready]")
    open_tab(page, "Inspect")
    page.fill("#lycopatch_name textarea, #lycopatch_name input", name)
    page.click("#lycopatch_inspect")
    page.wait_for_selector("#lycopatch_details h3:visible")
    open_tab(page, "Last picture")
    page.wait_for_selector(f'#lycopatch_report >> text="<lora:{name}:0.5>"')


def test_a_comparison_gives_a_grid_a_table_and_both_as_files(page: Any) -> None:
    name = names(page)[0]
    open_tab(page, "Compare")
    page.fill("#demo_compare_weights textarea, #demo_compare_weights input", "half")
    page.click("#demo_compare_run")
    page.wait_for_selector('#demo_compare_said >> text="half" is no weight that a tag can have')
    page.fill("#demo_compare_weights textarea, #demo_compare_weights input", "1")
    page.fill("#demo_compare_seeds input", "1")
    page.click("#demo_compare_run")
    page.wait_for_selector("#demo_compare_grid img")
    assert name in page.inner_text("#demo_compare_table")
    with page.expect_download() as download:
        page.locator("#demo_compare_csv").last.click()
    assert name in download.value.path().read_text(encoding="utf-8")
