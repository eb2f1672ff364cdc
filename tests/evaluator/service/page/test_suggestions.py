"""The suggested place: other colors, other places."""

import pytest
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser


def test_next_color_another_place_and_skip(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo, suggestions=True)
    swatches = page.locator("#suggestion-swatches .swatch")
    expect(swatches.first).to_be_visible()
    pulse = page.locator("#pulse")
    page.keyboard.press("n")
    expect(swatches.nth(1)).to_have_class("swatch chosen")
    colour = swatches.nth(1).get_attribute("data-hex")

    first = pulse.get_attribute("aria-label")
    page.keyboard.press("p")
    expect(page.locator("#suggestion-place")).to_contain_text("place 2 of")
    assert pulse.get_attribute("aria-label") != first

    page.click("#another-place")
    page.click("#another-place")
    page.keyboard.press("n")
    with page.expect_request("**/v1/colorize") as request:
        page.keyboard.press("a")
    assert (request.value.post_data_json or {})["clicks"][0]["colour"]["hex"] == colour
    steps.expect_shown(page, 1)


def test_skipped_place_is_not_suggested_again_until_asked_for(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo, suggestions=True)
    pulse = page.locator("#pulse")
    expect(pulse).to_be_visible()
    label = pulse.get_attribute("aria-label") or ""
    place = label[label.index("row") :]
    page.keyboard.press("s")
    expect(pulse).not_to_have_attribute("aria-label", label)
    seen = {label}
    for _ in range(12):  # more than an answer has
        before = pulse.get_attribute("aria-label") or ""
        assert place not in before
        assert before not in seen
        seen.add(before)
        with page.expect_response("**/v1/suggest"):
            page.click("#skip-place")
        expect(page.locator(".pulse.stale")).to_have_count(0)
        expect(pulse).not_to_have_attribute("aria-label", before)
    page.route("**/v1/suggest", lambda route: route.fulfill(json={"guide": "", "colorizer": "", "places": []}))
    page.click("#skip-place")
    expect(page.locator("#suggestion-none")).to_be_visible()
    page.unroute("**/v1/suggest")
    page.click("#show-skipped")
    expect(pulse).to_be_visible()


def test_the_next_place_is_asked_for_when_the_coloring_is_there(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo, suggestions=True)
    expect(page.locator("#pulse:not(.stale)")).to_be_visible()
    order: list[str] = []
    page.on("request", lambda request: order.append(request.url.rpartition("/")[2]))
    page.on("requestfinished", lambda request: order.append(request.url.rpartition("/")[2] + " answered"))
    page.keyboard.press("a")
    steps.expect_shown(page, 1)
    expect(page.locator("#pulse:not(.stale)")).to_be_visible()
    first = [one for one in order if one.startswith(("colorize", "suggest"))][:3]
    assert first == ["colorize", "colorize answered", "suggest"]


def test_a_coloring_that_fails_does_not_take_the_next_place_with_it(page: Page, grey_photo: bytes, watch):
    steps.opened(page, grey_photo, suggestions=True)
    expect(page.locator("#pulse:not(.stale)")).to_be_visible()
    watch.expected = ("500",)
    problem = {"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": "of this test"}
    page.route("**/v1/colorize", lambda route: route.fulfill(status=500, json=problem), times=1)
    with page.expect_request("**/v1/suggest") as request:
        page.keyboard.press("a")
    assert len((request.value.post_data_json or {})["clicks"]) == 1
    expect(page.locator("#pulse:not(.stale)")).to_be_visible()
