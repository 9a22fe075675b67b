"""The page of `leadwise serve` in a real browser (Chromium by Playwright), against a real server with the shipped weights."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.acquisition import Device, write_wfdb
from leadwise.data.sources import simulated

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_MISSING = [name for name in ("playwright", "starlette", "uvicorn") if importlib.util.find_spec(name) is None]
if _MISSING:
    pytest.skip(f"not installed: {', '.join(_MISSING)}", allow_module_level=True)
if _CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

from playwright.sync_api import Browser, Locator, Page, Request, Route, expect, sync_playwright  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOKEN = "a-token-of-the-browser-tests"
N_RECORDS = 60
WAIT_MS = 60_000  # the model answers beside other tests
BEAT_S = 0.8
NAMED_ROLES = {
    *("application", "button", "checkbox", "combobox", "dialog", "image", "img", "region", "spinbutton"),
    *("tab", "tabpanel", "table", "textbox", "group"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a small simulated cohort, in a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    simulated.simulate(folder / "ecgs", N_RECORDS, 0)
    write(simulated.read_source(folder / "ecgs"), folder / "cohort")
    command = [sys.executable, "-m", "leadwise", "serve", "--cohort", str(folder / "cohort"), "--port", "0"]
    command += ["--token", TOKEN, "--no-browser"]
    log = folder / "log"
    with log.open("w") as target:
        server = subprocess.Popen(
            command, stdout=target, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"}
        )
        try:
            end = time.monotonic() + 120
            while not (printed := re.search(r"http://127\.0\.0\.1:\d+/#\S*", log.read_text())):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, "the server did not start within two minutes"
                time.sleep(0.1)
            yield printed[0]
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM)
        yield chromium
        chromium.close()


class Visit:
    """Pages of one test: on leaving, no error was in the console and no request left the machine."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        self.address = address
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.expected = re.compile(r"(?!)")  # console errors that the test provokes

    def open(self, width: int = 1440, height: int = 900, **options: Any) -> Page:
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        page.on("console", lambda line: line.type in ("error", "warning") and self.errors.append(line.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._check)
        page.goto(self.address)
        expect(page.locator("body[data-ready]")).to_be_attached()
        return page

    def _check(self, request: Request) -> None:
        if not request.url.startswith((self.address.split("#")[0], "data:", "blob:")):
            self.outside.append(request.url)

    def close(self) -> None:
        for context in self.browser.contexts:
            context.close()
        assert not [text for text in self.errors if not self.expected.search(text)]
        assert not self.outside


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    visited = Visit(browser, address)
    yield visited
    visited.close()


def open_example(page: Page, title: str) -> None:
    """Press the example on the first screen and wait for its tracing."""
    page.get_by_role("button", name=title, exact=True).click()
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator("#tracing[data-drawn]")).to_be_attached()


def findings(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Findings").get_by_role("list")


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Drop files on the page as a file manager does."""
    contents = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    page.evaluate(
        """(contents) => {
          const transfer = new DataTransfer();
          for (const [name, text] of contents)
            transfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        contents,
    )


def wfdb_files(folder: Path, name: str) -> dict[str, bytes]:
    """A header and a signal file: beats of 1 mV every BEAT_S; V3 is flat."""
    time_s = np.arange(5000) / 500
    wave = np.exp(-(((time_s[:, None] - np.arange(0.4, 10, BEAT_S)) / 0.02) ** 2)).sum(axis=1)
    gains = np.array([0.6, 1.0, 0.4, -0.8, 0.1, 0.7, -0.4, 0.3, 0.0, 0.9, 1.0, 0.8])
    digital = np.rint(wave[:, None] * gains * 1000).astype(np.int16)
    write_wfdb(folder / name, digital, Device(500, 1.0, 0, "mV", LEADS, tuple(range(12))))
    return {f"{name}{suffix}": (folder / f"{name}{suffix}").read_bytes() for suffix in (".hea", ".dat")}


def share_of_ink(page: Page, selector: str) -> float:
    """The share of dark pixels of a canvas: its trace, if the paper is light."""
    return page.eval_on_selector(
        selector,
        """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let dark = 0;
          for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0 && data[i] + data[i + 1] + data[i + 2] < 250) dark += 1;
          return dark / (data.length / 4);
        }""",
    )


def downloaded_rows(page: Page, press: Locator) -> list[dict[str, str]]:
    with page.expect_download() as download:
        press.click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_dropped_files_are_drawn_with_their_quality_and_scored(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    assert "token" not in page.url  # the token is not left in the address
    assert TOKEN not in page.url
    drop(page, {**wfdb_files(tmp_path, "r1"), **wfdb_files(tmp_path, "r2")})

    expect(page.get_by_role("heading", name="r1")).to_be_visible()
    expect(page.get_by_text("wfdb · 10.0 s · 500 Hz")).to_be_visible()
    assert 0.002 < share_of_ink(page, "#tracing canvas") < 0.2
    rate = page.get_by_label("Measurements", exact=True).locator("dd").first.inner_text()
    assert abs(int(rate.split()[0]) - 60 / BEAT_S) <= 1
    chip = page.get_by_role("list", name="Leads").get_by_role("listitem").nth(LEADS.index("V3"))
    expect(chip).to_have_text("V3bad signal")
    expect(page.get_by_text("V3: flat")).to_be_visible()
    expect(findings(page).get_by_role("listitem").first).to_be_visible()

    page.get_by_role("group", name="Open files").get_by_role("button", name="r2").click()
    expect(page.get_by_role("heading", name="r2")).to_be_visible()


def test_layouts_zoom_and_calipers(visit: Visit) -> None:
    page = visit.open()
    open_example(page, "Normal rhythm")
    viewport, tracing = page.get_by_role("application", name="ECG tracing"), page.locator("#tracing")
    heights = {}
    for layout in ("12x1", "one", "6x2", "3x4"):
        page.get_by_label("Layout").select_option(layout)
        heights[layout] = viewport.bounding_box()["height"]  # type: ignore[index]
    assert heights["12x1"] > heights["6x2"] > heights["3x4"] > heights["one"]

    # the same width of paper is 250 mm at 25 mm/s and 500 mm at 50 mm/s
    assert not page.evaluate(
        "document.querySelector('.viewport').scrollWidth > document.querySelector('.viewport').clientWidth"
    )
    page.get_by_label("Speed").select_option("50")
    assert page.evaluate(
        "document.querySelector('.viewport').scrollWidth / document.querySelector('.viewport').clientWidth > 1.8"
    )
    page.get_by_label("Speed").select_option("25")

    # 20 mm of paper are 800 ms at first; four steps of a quarter of a millimetre are 40 ms more
    viewport.focus()
    page.keyboard.press("c")
    expect(tracing.locator(".readout")).to_contain_text("800 ms75 bpm1.00 mV")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    expect(tracing.locator(".readout")).to_contain_text("840 ms71 bpm1.10 mV")
    expect(page.locator("#live")).to_contain_text("840 ms")
    page.get_by_label("Speed").select_option("50")
    page.keyboard.press("Escape")

    # the wheel with Ctrl, and a caliper drawn with the pointer over 100 px
    page.get_by_label("Speed").select_option("25")
    box = viewport.bounding_box()
    assert box is not None
    page.get_by_role("button", name="Calipers").click()
    page.mouse.move(box["x"] + 300, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 60)
    page.mouse.up()
    text = tracing.locator(".readout").inner_text()
    pixels_per_mm = box["width"] / 262
    assert abs(int(text.split()[1]) - 100 / pixels_per_mm / 25 * 1000) < 8, text
    page.keyboard.press("+")
    assert page.evaluate(
        "document.querySelector('.viewport').scrollWidth / document.querySelector('.viewport').clientWidth > 1.2"
    )


def test_findings_own_words_and_occlusion(visit: Visit) -> None:
    page = visit.open()
    open_example(page, "Left bundle branch block")
    first = findings(page).get_by_role("button").first
    expect(first).to_contain_text("conduction disturbance")  # calibrated on PTB-XL
    expect(first.locator(".value")).to_have_text(re.compile(r"^\d+ %$"))
    page.get_by_label("Task").select_option("findings")  # of the cohort, without a calibration
    expect(first).to_contain_text("left bundle branch block")
    expect(first).to_contain_text("percentile")

    page.get_by_label("Your own words").fill("left bundle branch block\nzebra rhythm")
    page.get_by_label("Your own words").press("Enter")
    own = page.get_by_role("list", name="Your words")
    expect(own.get_by_role("listitem")).to_have_count(2)
    expect(own.get_by_text("These words are unknown to the model: “zebra”")).to_be_visible()

    # the map is drawn on the tracing, and a second press removes it
    before = page.eval_on_selector("#tracing canvas", "(canvas) => canvas.toDataURL()")
    press = own.get_by_role("button").first
    press.click()
    expect(page.locator(".explained").get_by_text("The score depends most on")).to_be_visible()
    expect(press).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#tracing .legend")).to_contain_text("the score falls")
    page.wait_for_timeout(100)
    assert page.eval_on_selector("#tracing canvas", "(canvas) => canvas.toDataURL()") != before
    press.click()
    expect(page.locator("#tracing .legend")).to_be_empty()
    page.wait_for_timeout(100)
    assert page.eval_on_selector("#tracing canvas", "(canvas) => canvas.toDataURL()") == before

    # the table sorts, and its CSV has every class
    page.locator(".findings .answer").first.get_by_text("As a table").click()
    table = page.locator(".findings .answer").first.get_by_role("table")
    table.get_by_role("button", name="Agreement").click()
    expect(table.get_by_role("columnheader", name="Agreement")).to_have_attribute("aria-sort", "ascending")
    column = table.get_by_role("columnheader").all_inner_texts()
    place = next(i for i, text in enumerate(column) if text.startswith("Agreement"))
    cells = table.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
    values = [float(text.replace("−", "-")) for text in cells]
    assert values == sorted(values)
    rows = downloaded_rows(page, page.get_by_role("button", name=re.compile("Download CSV: findings", re.I)))
    assert len(rows) > len(values) > 0
    assert {"Class", "Percentile", "Agreement"} <= set(rows[0])


def test_nothing_is_answered_about_an_ecg_that_cannot_be_interpreted_and_doubts_come_first(visit: Visit) -> None:
    page = visit.open()
    open_example(page, "Electrodes off: not interpretable")
    refused = page.get_by_role("complementary", name="Findings").locator(".refused")
    expect(refused).to_contain_text("Not interpretable")
    expect(refused).to_contain_text("flat")
    expect(findings(page)).to_have_count(0)
    page.get_by_label("Open a simulated example").select_option("unit-doubt")
    doubt = page.locator(".doubts .note.warn")
    expect(doubt).to_contain_text("Unit in doubt")
    expect(doubt).to_contain_text("What to do:")


def test_a_refused_file_gives_one_sentence(visit: Visit) -> None:
    visit.expected = re.compile("422")
    page = visit.open()
    drop(page, {"notes.txt": b"no ECG at all"})
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text(re.compile(r"\w"))
    text = problem.locator("p").inner_text()
    assert text.startswith("notes.txt: ")
    assert "\n" not in text
    assert len(text) < 400
    assert "Traceback" not in text
    page.get_by_role("button", name="Dismiss").click()
    expect(problem).to_be_empty()
    open_example(page, "Normal rhythm")
    drop(page, {"notes.txt": b"no ECG at all"})  # the ECG before stays under its own name
    expect(problem.locator("p")).to_be_visible()
    expect(page.get_by_role("heading", name="Normal rhythm")).to_be_visible()


def test_neighbours_are_drawn_and_opened(visit: Visit) -> None:
    page = visit.open()
    open_example(page, "Atrial fibrillation")
    near = page.get_by_role("region", name="Nearest recordings")
    cards = near.locator(".cards li")
    expect(cards).to_have_count(6)
    expect(cards.first.locator(".chip").first).to_be_visible()
    assert share_of_ink(page, ".cards li:first-child canvas") > 0.01
    expect(near.get_by_text("Report")).to_have_count(0)  # only with --show-reports
    cards.first.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".tracing[data-drawn]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_map_lasso_table_and_csv(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("tab", name="Cohort map").click()
    stage = page.get_by_role("application", name="Cohort map")
    expect(stage.locator("canvas")).to_be_visible()
    expect(page.get_by_text("Hover: tracing. Wheel: zoom.")).to_be_visible()

    # by keyboard: a class, then its table
    keys = page.get_by_role("list", name=re.compile("press to hide or show")).get_by_role("button")
    page.get_by_label("Colour by").select_option("split")
    count = {key.inner_text().split()[0]: int(key.inner_text().split()[-1]) for key in keys.all()}
    assert sum(count.values()) == N_RECORDS
    page.get_by_role("button", name="Select class").focus()
    page.keyboard.press("Enter")
    chosen = page.get_by_role("region", name="Selected recordings", exact=True)
    largest = max(count, key=lambda name: count[name])
    expect(chosen.get_by_role("heading")).to_have_text(f"{count[largest]} selected recordings")

    # the legend hides a class, and then a lasso around everything does not select it
    page.get_by_role("button", name="None", exact=True).click()
    other = min(count, key=lambda name: count[name])
    keys.filter(has_text=other).click()
    page.get_by_role("button", name="Lasso").click()
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    expect(chosen.get_by_role("heading")).to_have_text(f"{count[other]} selected recordings")
    rows = downloaded_rows(page, chosen.get_by_role("button", name=re.compile("Download CSV")))
    assert len(rows) == count[other]
    assert {row["Split"] for row in rows} == {other}


def test_map_of_20000_points_stays_fluent_and_shows_the_tracing_under_the_pointer(visit: Visit) -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    turn = rng.uniform(0, 2 * math.pi, n)

    def text(values: np.ndarray, kind: str) -> str:
        return base64.b64encode(values.astype(kind).tobytes()).decode()

    label = rng.integers(0, 10, n)
    columns = {
        "label": {"kind": "category", "names": list("abcdefghij"), "grouped": 0, "codes": text(label, "u1")},
        "age": {"kind": "number", "values": text(rng.uniform(20, 90, n), "<f4")},
    }
    x, y = np.cos(turn) * rng.uniform(0.2, 1, n), np.sin(turn)
    answer = {"n": n, "x": text(x, "<f4"), "y": text(y, "<f4"), "rows": text(np.arange(n) % N_RECORDS, "<i4")}
    page = visit.open()
    body = json.dumps({**answer, "columns": columns, "method": "PCA", "remark": ""})
    page.route("**/api/map", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.get_by_role("tab", name="Cohort map").click()
    stage = page.get_by_role("application", name="Cohort map")
    expect(stage.locator("canvas")).to_be_visible()
    stage.focus()
    seconds = page.evaluate(
        """() => new Promise((done) => {
          const stage = document.querySelector(".stage");
          const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          const times = [];
          let before = performance.now();
          const frame = (now) => {
            times.push(now - before);
            before = now;
            if (times.length > 12) return done(times.slice(2).sort((a, b) => a - b)[5] / 1000);
            press("ArrowRight");
            requestAnimationFrame(frame);
          };
          requestAnimationFrame(frame);
        })"""
    )
    assert seconds < 0.15, f"a frame of 20,000 points takes {seconds:.3f} s"

    # eight of ten labels have colours, and which is chosen
    legend = page.get_by_role("complementary", name="Legend and selection")
    grey = sorted(np.bincount(label, minlength=10).tolist())[:2]
    sentence = f"8 of 10 values have a colour of their own; the other 2 ({sum(grey)} recordings) are grey."
    expect(legend.get_by_text(sentence)).to_be_visible()
    swatches = "document.querySelectorAll('.keys .swatch')"
    colours = page.evaluate(f"[...{swatches}].map((swatch) => swatch.style.background)")
    assert len(set(colours[:8])) == 8
    assert colours[8] == colours[9] not in colours[:8]
    legend.get_by_text("Choose the coloured values").click()
    boxes = legend.get_by_role("group", name="Values with a colour").get_by_role("checkbox")
    assert [box.is_checked() for box in boxes.all()] == [True] * 8 + [False] * 2
    expect(boxes.nth(9)).to_be_disabled()
    boxes.nth(0).uncheck()
    boxes.nth(9).check()
    expect(boxes.nth(8)).to_be_disabled()
    changed = page.evaluate(f"[...{swatches}].map((swatch) => swatch.style.background)")
    assert set(changed[:8]) == set(colours[:8])
    assert changed[7] == colours[0]  # the rarest has the colour that became free
    expect(legend.get_by_text("8 of 10 values have a colour of their own; the other 2")).to_be_visible()

    stage.press("0")
    box = stage.bounding_box()
    assert box is not None
    tip = page.locator(".tip")
    for step in range(60):
        page.mouse.move(box["x"] + box["width"] / 2 + step * 4, box["y"] + box["height"] / 2)
        if tip.is_visible():
            break
    expect(tip.locator("canvas")).to_be_visible()
    expect(tip).to_contain_text("Age")


def touch(page: Page, *steps: list[tuple[float, float]]) -> None:
    """Touch the page with fingers that are at the places of each step, one after the other, and lift them."""
    session = page.context.new_cdp_session(page)
    for kind, places in zip(["touchStart"] + ["touchMove"] * len(steps), steps):
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def pinch(page: Page, element: Locator, factor: float) -> None:
    """Move two fingers on an element apart, until their distance has grown by a factor."""
    box = element.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + min(box["height"] / 2, 200)
    half = 30 if factor > 1 else 30 / factor
    spreads = np.linspace(half, half * factor, 6)
    touch(page, *([(x - spread, y), (x + spread, y)] for spread in spreads.tolist()))


def test_two_fingers_zoom_the_tracing_and_the_map(visit: Visit) -> None:
    page = visit.open(390, 844, has_touch=True, is_mobile=True)
    open_example(page, "Normal rhythm")
    expect(page.get_by_text("Zoom: two fingers.")).to_be_visible()
    viewport = page.get_by_role("application", name="ECG tracing")
    width = "document.querySelector('.viewport .space').clientWidth"
    before = page.evaluate(width)
    pinch(page, viewport, 2.0)
    page.wait_for_timeout(100)
    assert abs(page.evaluate(width) / before - 2.0) < 0.1
    pinch(page, viewport, 0.5)
    page.wait_for_timeout(100)
    assert abs(page.evaluate(width) / before - 1.0) < 0.1

    # a finger draws calipers: 80 px are so many millimetres of paper
    page.get_by_role("button", name="Calipers").tap()
    box = viewport.bounding_box()
    assert box is not None
    x, y = box["x"] + 60, box["y"] + 60
    touch(page, [(x, y)], [(x + 40, y)], [(x + 80, y)])
    ms = int(page.locator("#tracing .readout strong").first.inner_text().split()[0])
    mm = page.evaluate("document.querySelector('#tracing .viewport .space').clientWidth") / 262
    assert abs(ms - 80 / mm / 25 * 1000) < 15

    # the map: fewer points are in view after the pinch, and a touched point keeps its tracing after the touch
    page.get_by_role("tab", name="Cohort map").tap()
    stage = page.get_by_role("application", name="Cohort map")
    expect(stage.locator("canvas")).to_be_visible()
    expect(page.get_by_text("Tap: tracing. Pinch: zoom.")).to_be_visible()
    in_view = page.get_by_role("button", name="Select what is in view")
    heading = page.get_by_role("region", name="Selected recordings", exact=True).get_by_role("heading")
    in_view.tap()
    expect(heading).to_have_text(f"{N_RECORDS} selected recordings")
    stage.scroll_into_view_if_needed()
    pinch(page, stage, 2.5)
    in_view.tap()
    expect(heading).not_to_have_text(f"{N_RECORDS} selected recordings")
    page.get_by_role("button", name="Show all points").tap()
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    tip = page.locator(".tip")
    for place in range(400):
        touch(
            page, [(box["x"] + 10 + place % 20 * box["width"] / 21, box["y"] + 10 + place // 20 * box["height"] / 21)]
        )
        if tip.is_visible():
            break
    page.wait_for_timeout(300)
    expect(tip.locator("canvas")).to_be_visible()


def test_a_dot_beside_its_line_is_explained(visit: Visit) -> None:
    page = visit.open()

    def narrow(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        for row, side in zip(body["rows"], (0.3, -0.3, 0.0)):
            row.update(low=row["cosine"] - 0.1 - side, high=row["cosine"] + 0.1 - side)
        route.fulfill(response=response, json=body)

    page.route("**/api/zeroshot**", narrow)
    open_example(page, "Normal rhythm")
    rows = findings(page).get_by_role("listitem")
    expect(rows.nth(0)).to_contain_text("the dot is above that line: it is the agreement with the mean of all wordings")
    expect(rows.nth(1)).to_contain_text("the dot is below that line")
    expect(rows.nth(2)).to_contain_text("single wordings:")
    expect(rows.nth(2)).not_to_contain_text("the dot")


def test_two_ecgs_are_compared(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("tab", name="Compare two").click()
    page.get_by_role("button", name="Example: one simulated person, two ECGs").click()
    differences = page.get_by_role("region", name="Differences")
    expect(differences.locator(".verdict")).to_contain_text("heart rate")
    expect(differences.locator("tr.marked").first).to_contain_text("Heart rate")
    expect(page.get_by_role("application", name=re.compile("First|Second"))).to_have_count(2)
    beats = page.get_by_role("region", name="Median beats").get_by_role("figure")
    expect(beats).to_have_count(12)
    assert page.eval_on_selector(".beat canvas", "(canvas) => canvas.width > 50 && canvas.height > 20")
    assert "nan" not in page.get_by_role("region", name="Median beats").inner_text().lower()


def test_keyboard_alone_opens_an_ecg_and_changes_the_view(visit: Visit) -> None:
    page = visit.open()
    labels = []
    for _ in range(40):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.textContent.trim()")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", label  # the focus is visible
        labels.append(label)
        if label == "Normal rhythm":
            break
    assert labels[:2] == ["Skip to the ECG", "ECG"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Normal rhythm")).to_be_visible()
    expect(page.locator("#live")).to_contain_text(re.compile("ECG of 10|nearest|:"))
    page.get_by_role("tab", name="ECG").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Cohort map")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Cohort map")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Cohort map")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="Compare two")).to_be_visible()


def unnamed(page: Page) -> list[str]:
    """Roles of controls and pictures that have no name for a screen reader, by Chromium's own accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    visible = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in NAMED_ROLES]
    assert visible
    without = [node for node in visible if not node.get("name", {}).get("value", "").strip()]
    return [node["role"]["value"] for node in without if node["role"]["value"] not in ("group", "table")]


def test_every_control_and_picture_has_a_name(visit: Visit) -> None:
    page = visit.open()
    assert not unnamed(page)
    open_example(page, "Left bundle branch block")
    expect(page.locator(".cards li")).to_have_count(6)
    expect(findings(page).get_by_role("listitem").first).to_be_visible()
    for summary in page.locator(".reading details:not(.more) > summary").all():
        summary.click()
    for sheet in page.locator(".reading details.more > summary").all():
        sheet.click()
        assert not unnamed(page)
        page.keyboard.press("Escape")
    name = page.locator("#tracing canvas").get_attribute("aria-label")
    assert name is not None
    assert name.startswith("ECG of 10.0 s at 500 Hz; heart rate")
    page.get_by_role("tab", name="Cohort map").click()
    expect(page.get_by_role("application", name="Cohort map").locator("canvas")).to_be_visible()
    assert not unnamed(page)


@pytest.mark.parametrize("width", [360, 1440])
def test_no_view_scrolls_sideways(visit: Visit, width: int) -> None:
    page = visit.open(width, 800, has_touch=width < 600)

    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    assert_fits()
    open_example(page, "Left bundle branch block")
    expect(page.locator(".cards li")).to_have_count(6)
    expect(findings(page).get_by_role("listitem").first).to_be_visible()
    for summary in page.locator(".reading details:not(.more) > summary").all():
        summary.click()
    for sheet in page.locator(".reading details.more > summary").all():
        sheet.click()
        assert_fits()
        page.keyboard.press("Escape")
        expect(sheet).to_be_focused()
    page.get_by_role("tab", name="Cohort map").click()
    expect(page.get_by_role("application", name="Cohort map").locator("canvas")).to_be_visible()
    page.get_by_role("button", name="Select what is in view").click()
    expect(page.get_by_role("region", name="Selected recordings", exact=True)).to_be_visible()
    assert_fits()
    page.get_by_role("tab", name="Compare two").click()
    page.get_by_role("button", name="Example: one simulated person, two ECGs").click()
    expect(page.locator(".beats")).to_be_visible()
    assert_fits()


def luminance(colour: str) -> float:
    """The relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast_in_both_themes(visit: Visit, scheme: Any) -> None:
    page = visit.open(color_scheme=scheme)
    open_example(page, "Electrodes off: not interpretable")
    expect(page.locator(".refused")).to_be_visible()
    ground = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert (luminance(ground) < 0.05) == (scheme == "dark")
    for selector in ("#ecg-title", ".facts", ".measures dt", "summary", ".refused p", ".lead.bad span"):
        ink = page.evaluate("(s) => getComputedStyle(document.querySelector(s)).color", selector)
        behind = page.evaluate(
            """(selector) => {
              for (let node = document.querySelector(selector); node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (colour !== "rgba(0, 0, 0, 0)") return colour;
              }
            }""",
            selector,
        )
        low, high = sorted([luminance(ink), luminance(behind)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    page.locator("#theme").select_option("dark" if scheme == "light" else "light")
    changed = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert (luminance(changed) < 0.05) != (scheme == "dark")


def test_a_file_without_rate_and_names_is_read_with_the_settings_of_the_page(visit: Visit) -> None:
    visit.expected = re.compile("422")
    page = visit.open()
    values = np.round(np.sin(2 * np.pi * 1.2 * np.arange(5000) / 500) ** 15, 4)
    drop(page, {"bare.csv": "\n".join(f"{value},{value / 2:.4f}" for value in values).encode()})
    expect(page.get_by_role("alert").locator("p")).to_be_visible()
    page.get_by_label("Sampling rate in Hz").fill("500")
    page.get_by_label("Leads, in order").fill("I,II")
    page.get_by_label("Unit").fill("mV")
    page.get_by_role("button", name="Read again").click()
    expect(page.get_by_role("heading", name="bare.csv")).to_be_visible()
    expect(page.get_by_text("10.0 s · 500 Hz")).to_be_visible()
    expect(page.get_by_text("V1, V2, V3, V4, V5 and V6 are missing")).to_be_visible()


def test_a_page_without_its_token_says_so(visit: Visit) -> None:
    page = visit.browser.new_context().new_page()
    page.goto(visit.address.split("#")[0])
    expect(page.get_by_role("alert")).to_contain_text("no token")
