"""A real browser at a real WebUI: the cards, and the tab. Needs playwright and a Chromium; skipped without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from webui.process import WebUI

pytestmark = pytest.mark.webui

TIMEOUT = 120_000.0


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


def test_a_click_on_a_card_puts_the_tag_into_the_prompt(page, pictures):
    open_cards(page)
    page.screenshot(path=pictures / "cards.png")
    prompt = page.locator("#txt2img_prompt textarea")
    page.locator('#txt2img_lora_cards .card[data-name="ink"]').click(position={"x": 20, "y": 60})
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_prompt textarea').value.includes('<lora:ink:')")
    assert "<lora:ink:0.7>" in prompt.input_value()
    assert "inkwash style" in prompt.input_value()
    page.screenshot(path=pictures / "clicked.png")


def test_hostile_names_and_metadata_run_nothing_in_the_page(page):
    page.evaluate("() => { window.alert = () => { window.hacked = true } }")
    assert page.locator('#txt2img_lora_cards .card[data-name="evil"]').count() == 1
    assert page.locator('img[src="x"]').count() == 0
    assert page.evaluate("() => window.hacked") is None


def test_the_tab_lists_the_networks_and_inspects_one(page, pictures):
    page.locator("#tabs > .tab-nav button", has_text="LycoPatch").click()
    page.wait_for_selector("button.lycopatch-pick")
    page.screenshot(path=pictures / "tab.png")
    page.locator("button.lycopatch-pick", has_text="kron").first.click()
    page.wait_for_function("() => /lokr/i.test(gradioApp().querySelector('#lycopatch_file_pane')?.innerText ?? '')")
    page.screenshot(path=pictures / "inspected.png")


def test_the_settings_have_a_section_of_ours(page, pictures):
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="LycoPatch").first.click()
    page.locator("#setting_lycopatch_enabled").scroll_into_view_if_needed()
    page.screenshot(path=pictures / "settings.png")


def test_no_script_failed_and_nothing_was_reported(page, webui):
    assert [error for error in page.errors if "lycopatch" in error.lower()] == []
    assert not webui.errors_of_ours()


def open_cards(page: Any) -> None:
    """Cards are behind a tab since WebUI 1.6 or so, and behind a button before."""
    tab = page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Lora").first
    if not tab.is_visible():
        page.locator("button#txt2img_extra_networks").click()
    tab.click()
    page.wait_for_selector("#txt2img_lora_cards .card")
