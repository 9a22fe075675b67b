"""Tables of the offline pages in a real browser: they sort, are saved as CSV, and fit a phone, all without a network."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadwise.pages.html import Page as HtmlPage

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if importlib.util.find_spec("playwright") is None:
    pytest.skip("not installed: playwright", allow_module_level=True)
if _CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.browser

ROWS = [
    {"class": "b", "auroc": "0.9", "with interval": "0.81 (0.79–0.83)", "n": 10},
    {"class": "a", "auroc": "–", "with interval": "−0.10 (−0.2–0.1)", "n": 9},
    {"class": "=cmd", "auroc": "0.85", "with interval": "", "n": 1200},
    {"class": 'say "x", y', "auroc": "0.7", "with interval": "0.05 (0.01–0.09)", "n": 100},
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    built = HtmlPage("Scores")
    built.table(ROWS, caption="By class")
    built.table([{f"a long column {n}": "a long text" for n in range(12)}])
    path = tmp_path / "page.html"
    built.write(path)
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM)
        opened = browser.new_page(viewport={"width": 360, "height": 700})
        opened.set_default_timeout(30_000)
        opened.on("console", lambda line: problems.append(line.text))
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        opened.goto(path.as_uri())
        yield opened
        browser.close()
    assert not problems


def column(page: Page, place: int) -> list[str]:
    return page.locator("table").first.locator(f"tbody tr td:nth-child({place})").all_inner_texts()


def test_columns_sort_by_number_or_text_with_empty_cells_last(page: Page) -> None:
    press = page.get_by_role("table").first.get_by_role("button")
    press.nth(0).click()
    assert [text for text in column(page, 1) if text != "=cmd"] == ["a", "b", 'say "x", y']
    press.nth(1).click()
    assert column(page, 2) == ["0.7", "0.85", "0.9", "–"]
    press.nth(1).click()
    assert column(page, 2) == ["0.9", "0.85", "0.7", "–"]
    expect(page.get_by_role("columnheader").nth(1)).to_have_attribute("aria-sort", "descending")
    press.nth(2).focus()
    page.keyboard.press("Enter")
    assert [text[:5] for text in column(page, 3)] == ["−0.10", "0.05 ", "0.81 ", ""]
    press.nth(3).click()
    assert column(page, 4) == ["9", "10", "100", "1200"]


def test_a_table_is_saved_as_csv_in_the_order_of_the_page(page: Page) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV: By class").click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["b", "a", "'=cmd", 'say "x", y']  # no cell that a spreadsheet would run
    assert [row["with interval"] for row in rows] == [row["with interval"] for row in ROWS]


def test_the_page_fits_a_phone_and_its_policy_names_its_script_only(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    html = page.content()
    script = re.search(r"<script>(.*?)</script>", html, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "<script" not in HtmlPage("no table").html()
