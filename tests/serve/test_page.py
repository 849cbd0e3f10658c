"""The page in a real browser at two sizes; skips without Playwright (the extra `page`) or a Chromium."""

import os
import shutil

import pytest

from serve.test_serve import PROMPTS, chat

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra page")
    if CHROMIUM is None:
        pytest.skip("needs chromium, or CHROMIUM with its path")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desk", "phone"])
def test_a_person_asks_and_sees_who_was_on_duty(browser, only_server, client, mixture, size, tmp_path):
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(only_server[0])
    page.wait_for_selector("#model option >> nth=2", state="attached")
    assert page.locator("#model option").all_inner_texts() == ["auto", "base", *mixture.roster.experts]
    page.fill("#prompt", PROMPTS[0])
    page.fill("#limit", "12")
    page.click("#ask")
    page.wait_for_selector("#heat span", timeout=120_000)
    for model, where in (("auto", "#answer"), ("base", "#base")):
        expected = chat(client, model, PROMPTS[0], max_tokens=12).choices[0].message.content
        assert page.locator(where).inner_text().strip() == expected.strip()
    assert "arrow-mbc" in page.locator("#reason").inner_text()
    assert page.locator("#duty .bar").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    page.screenshot(path=os.environ.get("ROSTER_SHOTS", str(tmp_path)) + f"/page-{size[0]}.png", full_page=True)
    page.select_option("#model", "base")
    page.click("#ask")
    page.wait_for_function("document.querySelector('#duty').innerText.includes('the base answered')", timeout=120_000)
    page.fill("#limit", "5000")
    page.click("#ask")
    page.wait_for_function("document.querySelector('#reason').innerText.includes('At most 24 tokens')", timeout=120_000)
    assert not faults
    page.close()
