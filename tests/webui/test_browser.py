"""A real browser at a real WebUI: the library, and the tab. Needs playwright and a Chromium; skipped without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webui.process import WebUI

pytestmark = pytest.mark.webui

TIMEOUT = 120_000.0
PROMPT_BOX = "#txt2img_prompt textarea"
LIBRARY = "#txt2img_lora_cards_html .lycopatch-gallery"
ON_PAGE = f"{LIBRARY} .lycopatch-tile[data-state=ready]"
SHEET = "dialog.lycopatch-sheet"


@pytest.fixture(scope="module")
def browser(installation) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: pip install it")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-proxy-server"])
        except playwright.Error as error:
            pytest.skip(f"the browser tests need a Chromium: {error}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def webui(start, browser) -> Iterator[WebUI]:
    with start("for the browser") as running:
        yield running


@pytest.fixture(scope="module")
def page(webui, browser) -> Any:
    """The WebUI's page, open, with the errors of its scripts in ``page.errors``."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1100})
    opened.set_default_timeout(TIMEOUT)
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(webui.address)
    opened.wait_for_selector("#txt2img_prompt textarea")
    return opened


@pytest.fixture
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def test_the_library_is_on_the_page_of_networks_and_two_clicks_leave_the_prompt_as_it_was(page, pictures):
    open_networks(page)
    page.wait_for_selector(f"{ON_PAGE} >> text=ink")
    page.screenshot(path=pictures / "library.png")
    page.fill(PROMPT_BOX, "a cat")
    tile(page, "ink").click()
    wait_for_prompt(page, "a cat <lora:ink:0.7> inkwash style")
    page.screenshot(path=pictures / "clicked.png")
    tile(page, "ink").click()
    wait_for_prompt(page, "a cat")


def test_the_search_the_stack_and_the_dry_run_work_in_the_webui_too(page, webui, pictures):
    webui.generate("")  # waits until the model is loaded
    page.locator(f"{LIBRARY} .lycopatch-bar input.lycopatch-search").fill("kron")
    page.wait_for_function("place => document.querySelectorAll(place).length === 1", arg=ON_PAGE)
    page.fill(PROMPT_BOX, "a cat <lora:kron:0.5>")
    row = page.locator(f"{LIBRARY} .lycopatch-stack-row").first
    row.locator(".lycopatch-weight:not([hidden]) input[type=range]").fill("0.8")
    wait_for_prompt(page, "a cat <lora:kron:0.8>")
    page.locator(f"{LIBRARY} .lycopatch-dry button").first.click()
    page.wait_for_selector(f"{LIBRARY} .lycopatch-dry-tag")
    page.screenshot(path=pictures / "dry_run.png")
    assert "layers" in page.inner_text(f"{LIBRARY} .lycopatch-dry-tag")
    page.locator(f"{LIBRARY} .lycopatch-bar input.lycopatch-search").fill("")


def test_details_open_and_a_note_is_saved_beside_the_file(page, installation, pictures):
    open_details(page, "ink")
    page.locator(SHEET).get_by_label("Notes").fill("from a friend")
    page.locator(SHEET).get_by_text("Saved", exact=True).wait_for()
    page.screenshot(path=pictures / "details.png")
    words = json.loads((installation.networks / "ink.json").read_text(encoding="utf-8"))
    assert words == {"activation text": "inkwash style", "preferred weight": 0.7, "notes": "from a friend"}
    close_details(page)


def test_hostile_names_and_metadata_run_nothing_in_the_page(page):
    page.evaluate("() => { window.alert = () => { window.hacked = true } }")
    open_details(page, "evil")
    close_details(page)
    assert page.locator('img[src="x"]').count() == 0
    assert page.evaluate("() => window.hacked") is None


def test_the_other_pages_of_the_webui_search_and_sort_as_before(page):
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Checkpoints").first.click()
    page.wait_for_selector("#txt2img_checkpoints_cards .card:visible")
    search = "#txt2img_extra_search textarea, #txt2img_checkpoints_extra_search"
    page.locator(search).first.fill("no checkpoint has this name")
    page.wait_for_selector("#txt2img_checkpoints_cards .card:visible", state="detached")
    page.locator(search).first.fill("")
    page.wait_for_selector("#txt2img_checkpoints_cards .card:visible")


def test_a_setting_gives_the_webui_s_own_cards_back(page, webui, pictures):
    webui.set(lycopatch_gallery_on_page=False)
    page.reload()
    page.wait_for_selector(PROMPT_BOX)
    open_networks(page)
    refresh = page.locator("#txt2img_lora_extra_refresh:visible, #txt2img_extra_refresh:visible").first
    refresh.click()
    page.wait_for_selector('#txt2img_lora_cards .card[data-name="ink"]')
    page.fill(PROMPT_BOX, "a cat")
    page.locator('#txt2img_lora_cards .card[data-name="ink"]').click(position={"x": 20, "y": 60})
    page.wait_for_function(f"() => document.querySelector('{PROMPT_BOX}').value.includes('<lora:ink:0.7>')")
    assert page.locator('#txt2img_lora_cards .card[data-name="evil"]').count() == 1
    page.screenshot(path=pictures / "cards.png")
    webui.set(lycopatch_gallery_on_page=True)


def test_the_tab_has_the_library_and_inspects_a_file(page, pictures):
    page.locator("#tabs > .tab-nav button", has_text="LycoPatch").click()
    page.wait_for_selector("#lycopatch_library_html .lycopatch-tile[data-state=ready]")
    page.screenshot(path=pictures / "tab.png")
    page.locator("#lycopatch_tabs > .tab-nav button", has_text="Inspect").click()
    page.fill("#lycopatch_name textarea, #lycopatch_name input", "kron")
    page.locator("button#lycopatch_inspect, #lycopatch_inspect button").first.click()
    page.wait_for_function("() => /lokr/i.test(gradioApp().querySelector('#lycopatch_details')?.innerText ?? '')")
    page.screenshot(path=pictures / "inspected.png")


def test_the_settings_have_a_section_of_ours(page, pictures):
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="LycoPatch").first.click()
    page.locator("#setting_lycopatch_enabled").scroll_into_view_if_needed()
    page.screenshot(path=pictures / "settings.png")


def test_no_script_failed_and_nothing_was_reported(page, webui):
    assert [error for error in page.errors if "lycopatch" in error.lower()] == []
    assert not webui.errors_of_ours()


def open_networks(page: Any) -> None:
    """The page of networks is behind a tab since WebUI 1.6 or so, and behind a button before."""
    tab = page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Lora").first
    if not tab.is_visible():
        page.locator("button#txt2img_extra_networks").click()
    tab.click()


def tile(page: Any, title: str) -> Any:
    return page.locator(ON_PAGE).filter(has=page.get_by_text(title, exact=True)).first


def open_details(page: Any, title: str) -> None:
    tile(page, title).hover()
    tile(page, title).locator(".lycopatch-tile-info").click()
    page.wait_for_selector(f"{SHEET} textarea")


def close_details(page: Any) -> None:
    page.keyboard.press("Escape")
    page.wait_for_selector(SHEET, state="detached")


def wait_for_prompt(page: Any, prompt: str) -> None:
    page.wait_for_function(f"wanted => document.querySelector('{PROMPT_BOX}').value === wanted", arg=prompt)
