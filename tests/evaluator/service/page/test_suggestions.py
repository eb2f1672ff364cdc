"""The suggested place: other colours, other places."""

import pytest
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser


def test_next_colour_another_place_and_skip(page: Page, grey_photo: bytes):
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
