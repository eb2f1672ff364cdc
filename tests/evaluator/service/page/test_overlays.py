"""A split colorizer's uncertainty over the photo, and a marker that is dragged."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Request, expect

from tests.evaluator.service.page import steps
from tests.evaluator.service.page.running import Server

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--split")
    server.start()
    yield server
    server.stop()


def test_uncertainty_lies_over_the_photo_and_follows_the_clicks(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    stage, button = page.locator("#stage"), page.locator("#unsure")
    steps.remember_stage(page)
    button.click()
    expect(stage).to_have_attribute("data-unsure-clicks", "0")
    expect(button).to_have_attribute("aria-pressed", "true")
    steps.expect_change(page, by=20)
    steps.color(page, 0.4, 0.4, "#c03030")
    expect(stage).to_have_attribute("data-unsure-clicks", "1")
    page.keyboard.press("u")
    expect(stage).to_have_attribute("data-unsure-clicks", "")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_suggestions_come_with_the_colors_of_the_palette(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo, suggestions=True)
    swatch = page.locator("#suggestion-swatches .swatch").first
    expect(swatch).to_have_attribute("aria-label", re.compile(r", \d+ %$"))
    page.keyboard.press("a")
    steps.expect_shown(page, 1)


def test_a_dragged_marker_recolors_with_one_request_at_a_time(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    under_way, at_once, rows = set[Request](), [0], list[int]()

    def asked(request: Request) -> None:
        if request.url.endswith("/v1/colorize"):
            under_way.add(request)
            at_once.append(len(under_way))
            rows.append((request.post_data_json or {})["clicks"][0]["row"])

    page.on("request", asked)
    page.on("requestfinished", lambda request: under_way.discard(request))
    page.mouse.move(*steps.point(page, 0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*steps.point(page, 0.7, 0.7), steps=30)
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
    assert 1 <= len(rows) <= 30
    assert max(at_once) == 1
    assert rows[-1] in range(138, 143)
    page.mouse.up()
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: red #c03030, row 140, column 210")
