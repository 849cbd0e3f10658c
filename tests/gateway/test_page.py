"""The page of spending in a real browser at two sizes; skips without Playwright (the extra `page`) or a Chromium."""

import os
import shutil

import pytest

from gateway.test_failures import ASK

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
LONG = "a-rather-long-name-of-a-policy-for-support-tickets"
ADMIN = "admin-secret-0123456789"


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_cut_off(start, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra page")
    if CHROMIUM is None:
        pytest.skip("needs chromium, or CHROMIUM with its path")
    policies = {name: {"kind": "fixed", "models": ["small", "large"]} for name in ("auto", LONG)}
    client, _ = start(admin={"key": ADMIN}, policies=policies)
    for name in policies:
        client.chat.completions.create(model=name, messages=ASK)
    url = str(client.base_url).removesuffix("/v1/")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, height in ((1280, 900), (390, 844)):
            known = {"viewport": {"width": width, "height": height}}
            page = browser.new_context(http_credentials={"username": "x", "password": ADMIN}, **known).new_page()
            page.goto(f"{url}/admin")
            page.screenshot(path=os.environ.get("ROSTER_SHOTS", str(tmp_path)) + f"/spend-{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
            cells = page.locator("table tr:has-text('support-tickets') td")
            assert (cells.first.inner_text(), cells.count()) == (LONG, 6)
            shown = [cells.nth(at).bounding_box() for at in range(2 if width < 600 else 6)]
            assert all(box["x"] + box["width"] <= width for box in shown), "the first figures are seen at once"
        browser.close()
