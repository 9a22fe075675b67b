"""Take the pictures of the local page for README and documentation, in Chromium, from simulated ECGs only.

    leadwise simulate -o ecgs --records 900 && leadwise prepare simulated ecgs -o cohort
    python tools/make_serve_images.py cohort [docs/images]

    serve_tracing.png      an ECG with calipers and measurements
    serve_findings.png     findings, and the parts of the tracing that the first one depends on
    serve_neighbours.png   the nearest recordings of the cohort
    serve_map.png          the map of the cohort with a lasso
    serve_compare.png      two ECGs of one simulated person
    serve_phone.png        a narrow window in the dark theme

It needs Playwright and Chromium (extra dev).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

TOKEN = "a-token-for-the-pictures"
MOST_BYTES = 250_000
WAIT_MS = 120_000


def start(cohort: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and return it with its address."""
    command = [sys.executable, "-m", "leadwise", "serve", "--cohort", str(cohort), "--port", "0", "--token", TOKEN]
    server = subprocess.Popen([*command, "--no-browser"], stdout=log.open("wb"), stderr=subprocess.STDOUT)
    while not (printed := re.search(r"http://127\.0\.0\.1:\d+/#\S+", log.read_text())):
        if server.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.2)
    return server, printed[0]


def open_page(browser: Browser, address: str, width: int, height: int, dark: bool = False) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        has_touch=dark,
        is_mobile=dark,
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    page.goto(address)
    expect(page.locator("body[data-ready]")).to_be_attached()
    return page


def open_example(page: Page, title: str) -> None:
    """Open an example and wait for its findings and its neighbours."""
    page.get_by_role("button", name=title, exact=True).click()
    expect(page.locator(".scores li").first).to_be_visible()
    expect(page.locator(".cards li")).to_have_count(6)


def store(page: Page, path: Path, selector: str | None = None) -> None:
    """Store the window, or one element of it, as a PNG with a palette."""
    page.wait_for_timeout(700)
    target = page.locator(selector).first if selector else page
    target.screenshot(path=path)
    Image.open(path).convert("RGB").save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        Image.open(path).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path} {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"{path} is larger than {MOST_BYTES:,} bytes; take it in a smaller window")


def take(browser: Browser, address: str, folder: Path) -> None:
    """Take the six pictures."""
    page = open_page(browser, address, 1360, 900)
    open_example(page, "Atrial fibrillation")
    box = page.get_by_role("application", name="ECG tracing").bounding_box()
    assert box is not None
    page.get_by_role("button", name="Calipers").click()
    page.mouse.move(
        box["x"] + 0.1615 * box["width"], box["y"] + 0.785 * box["height"]
    )  # between two wide beats of the strip
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4225 * box["width"], box["y"] + 0.91 * box["height"])
    page.mouse.up()
    store(page, folder / "serve_tracing.png")

    page = open_page(browser, address, 1360, 860)
    open_example(page, "Left bundle branch block")
    page.get_by_label("Your own words").fill("left bundle branch block")
    page.locator(".scores .score").first.click()
    expect(page.locator(".explained details")).to_be_visible()
    store(page, folder / "serve_findings.png")
    store(page, folder / "serve_neighbours.png", ".below-tracing")

    page.get_by_role("tab", name="Cohort map").click()
    stage = page.get_by_role("application", name="Cohort map")
    expect(stage.locator("canvas")).to_be_visible()
    lasso(page)
    store(page, folder / "serve_map.png")

    page = open_page(browser, address, 1360, 1100)
    page.get_by_role("tab", name="Compare two").click()
    page.get_by_role("button", name="Example: one simulated person, two ECGs").click()
    expect(page.locator(".beats")).to_be_visible()
    page.evaluate("scrollTo(0, document.querySelector('#view-compare .answer').offsetTop - 8)")
    store(page, folder / "serve_compare.png")

    page = open_page(browser, address, 390, 844, dark=True)
    open_example(page, "Left bundle branch block")
    store(page, folder / "serve_phone.png")


def lasso(page: Page) -> None:
    """Draw a lasso around recordings in the middle of the map, and point at one of them."""
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.get_by_role("button", name="Lasso").click()
    middle, radius = (box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5), box["height"] * 0.22
    turns = np.linspace(0, 2 * math.pi, 40)
    page.mouse.move(middle[0] + radius, middle[1])
    page.mouse.down()
    for turn in turns[1:]:
        page.mouse.move(middle[0] + radius * math.cos(turn), middle[1] + radius * math.sin(turn))
    page.mouse.up()
    tip = page.locator(".tip")
    for place in range(400):
        x, y = place % 20 / 20 - 0.5, place // 20 / 20 - 0.5
        page.mouse.move(middle[0] + x * radius, middle[1] + y * radius)
        if tip.is_visible():
            expect(tip.locator("canvas")).to_be_visible()
            return
    raise SystemExit("no recording is within the lasso; take the picture of another cohort")


def main(cohort: str, folder: str = "docs/images") -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    log = target / "serve.log"
    server, address = start(Path(cohort), log)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium)
            take(browser, address, target)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
        log.unlink()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
