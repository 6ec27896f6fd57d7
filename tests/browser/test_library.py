"""The library in a page, used as a person uses it: over several hundred networks with strange ones among them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROMPT = "#demo_prompt textarea"
LIBRARY = "#demo_library .lycopatch-gallery"
TILES = f"{LIBRARY} .lycopatch-tile[data-state=ready]"
SEARCH = f"{LIBRARY} .lycopatch-bar input.lycopatch-search"
COUNT = f"{LIBRARY} .lycopatch-count"
ROW = f"{LIBRARY} .lycopatch-stack-row"
DRAWER = "dialog.lycopatch-sheet"
ORDINARY = 300


@pytest.fixture
def page(open_page: Any, crowd: Any) -> Any:
    """The demo over the crowd, with everything read."""
    return opened(open_page(crowd.address))


def opened(page: Any) -> Any:
    page.wait_for_selector(TILES)
    page.wait_for_selector(f"{LIBRARY} .lycopatch-progress", state="hidden")
    return page


def titles(page: Any) -> list[str]:
    """What is on the cards that are in the page, in the order in which they are seen."""
    return page.locator(TILES).evaluate_all(
        """cards => cards.map(card => [card.querySelector(".lycopatch-tile-title").textContent,
            card.getBoundingClientRect()]).sort((a, b) => a[1].top - b[1].top || a[1].left - b[1].left)
            .map(each => each[0])"""
    )


def search(page: Any, words: str, count: str) -> None:
    """Type into the search box and wait for the count."""
    page.fill(SEARCH, words)
    wait_for_count(page, count)


def wait_for_count(page: Any, count: str) -> None:
    page.wait_for_function(
        "([place, wanted]) => document.querySelector(place).textContent.startsWith(wanted)", arg=[COUNT, count]
    )


def wait_for_prompt(page: Any, prompt: str) -> None:
    page.wait_for_function(
        "([place, wanted]) => document.querySelector(place).value === wanted", arg=[PROMPT, prompt], timeout=20_000
    )


def tile(page: Any, title: str) -> Any:
    return page.locator(TILES).filter(has=page.get_by_text(title, exact=True)).first


def tool(page: Any, label: str) -> Any:
    return page.locator(f'{LIBRARY} .lycopatch-bar [aria-label="{label}"]')


def choose(page: Any, section: str, name: str) -> None:
    """Click a filter's chip: the first click includes, the second leaves out, the third lets go."""
    chips = page.locator(f"{LIBRARY} .lycopatch-section-{section} .lycopatch-chip")
    chips.filter(has_text=re.compile(rf"^\W*{re.escape(name)}")).first.click()


def test_hundreds_of_networks_are_listed_and_few_are_in_the_page(page: Any) -> None:
    total = int(re.sub(r"\D", "", page.inner_text(COUNT).split()[0]))
    assert total > ORDINARY
    assert page.locator(f"{LIBRARY} .lycopatch-tile").count() < 80
    search(page, "plain-", f"{ORDINARY} of")
    view = page.locator(f"{LIBRARY} .lycopatch-view")
    first = titles(page)
    view.evaluate("view => { view.scrollTop = view.scrollHeight }")
    page.wait_for_function(
        "([place, before]) => !document.querySelector(place).textContent.includes(before)",
        arg=[f"{LIBRARY} .lycopatch-canvas", first[0]],
    )
    assert page.locator(f"{LIBRARY} .lycopatch-tile").count() < 80


def test_the_search_answers_while_one_types(page: Any) -> None:
    page.locator(SEARCH).press_sequentially("plain-01")
    wait_for_count(page, "10 of")
    assert titles(page) == [f"plain-01{number}" for number in range(10)]
    search(page, "trained-123", "1 of")
    assert titles(page) == ["plain-123"]
    search(page, "subject 42", "1 of")
    page.locator(SEARCH).press("Escape")
    wait_for_count(page, "3")
    assert page.input_value(SEARCH) == ""


def test_nothing_found_is_said_with_a_way_out(page: Any) -> None:
    search(page, "no network has this word", "0 of")
    page.locator(f"{LIBRARY} .lycopatch-message button").click()
    page.wait_for_selector(TILES)


def test_filters_include_leave_out_and_combine(page: Any) -> None:
    tool(page, "Filters").click()
    search(page, "stripes", "1")
    before = set(titles(page))
    choose(page, "kind", "LoKr")
    page.wait_for_selector(f"{LIBRARY} .lycopatch-active-filters .lycopatch-chip")
    page.wait_for_function(f"document.querySelectorAll('{TILES}').length === 2")
    lokr = set(titles(page))
    assert lokr == {"stripes-lokr-high", "stripes-lokr-low"}
    choose(page, "kind", "LoKr")
    page.wait_for_function(f"document.querySelectorAll('{TILES}').length > 2")
    assert not lokr & set(titles(page))
    assert set(titles(page)) <= before
    page.locator(f"{LIBRARY} .lycopatch-active-filters .lycopatch-more").click()
    page.wait_for_selector(f"{LIBRARY} .lycopatch-active-filters", state="hidden")


def test_a_folder_shows_what_is_in_it_and_below(page: Any) -> None:
    tool(page, "Folders").click()
    folder = page.locator(f"{LIBRARY} .lycopatch-folders [data-path$='/styles'] .lycopatch-folder-name").first
    folder.click()
    wait_for_count(page, "100 of")
    assert titles(page)[0] == "plain-002"


def test_the_order_can_be_turned_and_is_kept_over_a_reload(page: Any) -> None:
    search(page, "plain-", "300 of")
    tool(page, "Ascending").click()
    page.wait_for_selector(f"{TILES} >> text=plain-299")
    assert titles(page)[:2] == ["plain-299", "plain-298"]
    page.locator(f"{LIBRARY} .lycopatch-order").select_option("size")
    page.wait_for_timeout(600)  # what is remembered is written after a pause
    page.reload()
    opened(page)
    wait_for_count(page, "300 of")
    assert page.input_value(SEARCH) == "plain-"
    assert page.input_value(f"{LIBRARY} .lycopatch-order") == "size"


def test_a_favourite_survives_a_reload_and_can_be_listed_alone(page: Any) -> None:
    search(page, "plain-007", "1 of")
    tile(page, "plain-007").hover()
    tile(page, "plain-007").locator(".lycopatch-tile-star").click()
    page.wait_for_selector(f"{TILES}[data-favourite=true]")
    page.reload()
    opened(page)
    page.fill(SEARCH, "")
    tool(page, "Favourites only").click()
    wait_for_count(page, "1 of")
    assert titles(page) == ["plain-007"]
    tile(page, "plain-007").hover()
    tile(page, "plain-007").locator(".lycopatch-tile-star").click()
    page.wait_for_selector(f"{TILES}[data-favourite=false]")


def test_keys_search_move_and_insert(page: Any) -> None:
    page.fill(PROMPT, "a cat")
    page.locator("#demo_title").click()
    page.keyboard.press("/")
    page.keyboard.type("plain-00")
    wait_for_count(page, "10 of")
    page.keyboard.press("Enter")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_prompt(page, "a cat <lora:plain-001:1>")
    page.keyboard.press("Enter")
    wait_for_prompt(page, "a cat")


def test_two_clicks_leave_the_prompt_as_it_was_whatever_is_written_in_between(page: Any, crowd: Any) -> None:
    words = crowd.folder / "mine" / "stripes.json"
    words.write_text(json.dumps({"activation text": "stripes", "preferred weight": 0.7, "negative text": "plain"}))
    page.fill(PROMPT, "a  cat , ")
    page.fill("#demo_negative textarea", "dog")
    search(page, "stripes", "1")
    tile(page, "stripes").click()
    wait_for_prompt(page, "a  cat ,  <lora:stripes:0.7> stripes")
    assert page.input_value("#demo_negative textarea") == "dog, plain"
    page.fill(PROMPT, "a  cat ,  <lora:stripes:0.4> stripes and more")
    tile(page, "stripes").click()
    wait_for_prompt(page, "a  cat ,  and more")
    assert page.input_value("#demo_negative textarea") == "dog"
    words.unlink()


def test_a_note_is_saved_beside_the_file_and_other_keys_stay(page: Any, crowd: Any) -> None:
    words = crowd.folder / "people" / "plain-000.json"
    words.write_text(json.dumps({"modelId": 7}))
    details(page, "plain-000")
    page.get_by_label("Notes").fill("from a friend")
    page.locator(DRAWER).get_by_text("Saved", exact=True).wait_for()
    assert json.loads(words.read_text(encoding="utf-8")) == {"modelId": 7, "notes": "from a friend"}
    page.keyboard.press("Escape")
    page.wait_for_selector(DRAWER, state="detached")
    search(page, "from a friend", "1 of")


def test_a_trigger_word_goes_into_the_prompt_and_out_again(page: Any) -> None:
    page.fill(PROMPT, "a cat")
    details(page, "plain-001")
    chip = page.locator(f"{DRAWER} .lycopatch-trigger", has_text="subject 1")
    chip.click()
    wait_for_prompt(page, "a cat, subject 1")
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    wait_for_prompt(page, "a cat")


def test_where_a_network_acts_is_measured_on_the_model(page: Any) -> None:
    details(page, "stripes")
    page.wait_for_selector(f"{DRAWER} .lycopatch-column-bar")
    assert "as a share of its own weights" in page.inner_text(DRAWER)


def test_the_stack_and_the_prompt_follow_each_other(page: Any) -> None:
    page.fill(PROMPT, "a cat <lora:stripes:0.5> <lora:stripes-loha:1>")
    page.wait_for_function(f"document.querySelectorAll('{ROW}').length === 2")
    first = page.locator(ROW).first
    first.locator(".lycopatch-weight:not([hidden]) input[type=range]").fill("0.8")
    wait_for_prompt(page, "a cat <lora:stripes:0.8> <lora:stripes-loha:1>")
    page.fill(PROMPT, "a cat <lora:stripes:0.3> <lora:stripes-loha:1>")
    box = first.locator(".lycopatch-weight:not([hidden]) input[type=number]")
    page.wait_for_function("box => box.valueAsNumber === 0.3", arg=box.element_handle())
    first.get_by_role("switch").click()
    wait_for_prompt(page, "a cat <lora:stripes:0> <lora:stripes-loha:1>")
    first.get_by_role("switch").click()
    wait_for_prompt(page, "a cat <lora:stripes:0.3> <lora:stripes-loha:1>")
    first.get_by_label(re.compile("Remove")).click()
    page.wait_for_function(f"document.querySelectorAll('{ROW}').length === 1")
    assert "stripes:" not in page.input_value(PROMPT)


def test_the_dry_run_says_what_each_tag_would_do(page: Any) -> None:
    page.fill(PROMPT, "a cat <lora:stripes:1> <lora:plain-000:1> <lora:nobody:1>")
    page.locator(f"{LIBRARY} .lycopatch-dry button", has_text="Check the prompt").click()
    page.wait_for_selector(f"{LIBRARY} .lycopatch-dry-tag")
    good, other, wrong = page.locator(f"{LIBRARY} .lycopatch-dry-tag").all_inner_texts()
    assert "96 of 96 layers" in good
    assert "0 of 1 layer" in other
    assert 'There is no network named "nobody"' in wrong
    assert "2 networks will have no effect" in page.inner_text(f"{LIBRARY} .lycopatch-dry")


def test_a_japanese_reader_gets_japanese(open_page: Any, crowd: Any) -> None:
    page = opened(open_page(crowd.address, locale="ja-JP"))
    placeholder = page.get_attribute(SEARCH, "placeholder")
    assert re.search("[\u3040-\u9fff]", placeholder or "")
    page.fill(SEARCH, "plain-001")
    tile(page, "plain-001").hover()
    tile(page, "plain-001").locator(".lycopatch-tile-info").click()
    page.wait_for_selector(f"{DRAWER} textarea")
    headings = page.locator(f"{DRAWER} h3").all_inner_texts()
    assert all(re.search("[\u3040-\u9fff]", heading) for heading in headings), headings


def test_nothing_that_strangers_wrote_runs(page: Any, crowd: Any) -> None:
    """The fixture fails on any dialog and on any error in the console."""
    search(page, "strange", "")
    page.wait_for_timeout(1000)
    shown = titles(page)
    assert "<img src=x onerror=alert(1)>" in shown or sorted(Path(crowd.folder / "strange").iterdir())
    for title in shown:
        details(page, title, by_search=False)
        page.keyboard.press("Escape")
        page.wait_for_selector(DRAWER, state="detached")
    for name in ("words", "page", "cut", "empty"):
        page.fill(PROMPT, f"a cat <lora:{name}:1>")
        page.wait_for_selector(ROW)
        page.locator(f"{LIBRARY} .lycopatch-dry button", has_text="Check the prompt").click()
        page.wait_for_selector(f"{LIBRARY} .lycopatch-dry-tag")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x'], .lycopatch-gallery script, dialog script").count() == 0


def test_what_can_not_be_used_is_listed_with_its_reason(page: Any) -> None:
    search(page, "cut", "1 of")
    reason = tile(page, "cut").locator(".lycopatch-tile-note").inner_text()
    assert "the download is incomplete" in reason
    assert tile(page, "cut").get_attribute("data-fit") == "damaged"


def details(page: Any, title: str, *, by_search: bool = True) -> None:
    if by_search:
        search(page, title, "1")
    tile(page, title).hover()
    tile(page, title).locator(".lycopatch-tile-info").click()
    page.wait_for_selector(f"{DRAWER} .lycopatch-facts, {DRAWER} section")
