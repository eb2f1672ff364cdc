"""The page in Chromium: its policy lets its own script run, brushing leaves trials out, everybody can read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.tuner.made_up_sweep import made_up_sweep
from tuner.records import read_trials
from tuner.report.figures import HEIGHT, MARGIN, STEP, TOP
from tuner.report.page import write_report

CHROMIUM = Path("/usr/bin/chromium")
MAX_MILLISECONDS = 60_000
"""Only a failure takes so long, or a machine with much else to do."""
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up_sweep(tmp_path_factory.mktemp("sweep"), 24)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package chromium has it")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, headless=True)
        yield browser
        browser.close()


def opened(browser: Browser, folder: Path, *, scripts: bool = True) -> Page:
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.set_default_timeout(MAX_MILLISECONDS)
    page.goto((folder / "sweep.html").as_uri())
    return page


def drag(page: Page, axis: int, start: float, end: float) -> None:
    """Along an axis, between two shares of it from the bottom."""
    drawing = page.locator("#coordinates")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box
    x = box["x"] + MARGIN + STEP * axis
    first, last = (box["y"] + TOP + HEIGHT * (1 - share) for share in (start, end))
    page.mouse.move(x, first)
    page.mouse.down()
    page.mouse.move(x, last, steps=3)
    page.mouse.up()


def test_brushing_an_axis_leaves_out_the_other_trials_until_it_is_released(browser: Browser, folder: Path):
    page = opened(browser, folder)
    expect(page.locator("#brush-help")).to_be_visible()
    drag(page, 0, 1.02, 0.75)  # the last of three estimators
    trials = read_trials(folder)
    kept = [one for one in trials if one.values["recipe.choice.estimator"] == "gumbel_softmax_soft"]
    assert 0 < len(kept) < len(trials)
    state = page.locator("#brush-state")
    expect(state).to_have_text(f"{len(kept)} of {len(trials)} trials are within the marked ranges.")
    expect(page.locator("#coordinates path.out")).to_have_count(len(trials) - len(kept))
    expect(page.locator("#trials tr.out")).to_have_count(len(trials) - len(kept))
    drag(page, 0, 0.5, 0.5)
    expect(state).to_have_text("")
    expect(page.locator("#coordinates path.out")).to_have_count(0)
    page.context.close()


def test_pointing_at_a_row_marks_its_line(browser: Browser, folder: Path):
    page = opened(browser, folder)
    row = page.locator("#trials tbody tr").first
    number = row.locator("th").inner_text()
    row.hover()
    expect(page.locator("#coordinates path.pointed")).to_have_attribute("data-trial", number)
    page.context.close()


def test_without_scripts_the_page_shows_everything_and_promises_nothing(browser: Browser, folder: Path):
    page = opened(browser, folder, scripts=False)
    expect(page.locator("#brush-help")).to_be_hidden()
    expect(page.locator("#coordinates path")).to_have_count(len(read_trials(folder)))
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken_and_nothing_is_blocked(
    browser: Browser, folder: Path, scheme: Literal["light", "dark"]
):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "sweep.html").as_uri())
    assert complaints == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 23, 23)"}[scheme]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()
