"""The popover: where colors come from, and what becomes of a click."""

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser


def test_colors_tried_in_one_popover_are_one_step(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.click(page, 0.5, 0.5)
    for text in ("#c03030", "#30c030", "#3030c0"):
        page.fill("#hex", text)
        page.press("#hex", "Enter")
    steps.expect_shown(page, 1)
    page.keyboard.press("Escape")
    page.click("#undo")
    steps.expect_shown(page, 0)


def test_click_is_moved_recolored_locked_and_removed(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    page.mouse.move(*steps.point(page, 0.3, 0.3))
    page.mouse.down()
    page.mouse.move(*steps.point(page, 0.5, 0.5), steps=8)
    with page.expect_request(lambda request: _clicks(request)[0]["row"] in range(98, 103)):
        page.mouse.up()
    expect(page.locator("#picker")).to_be_hidden()
    moved = steps.marker(page, 1).get_attribute("aria-label") or ""
    page.mouse.down()
    page.mouse.move(*steps.point(page, 0.7, 0.7), steps=4)
    page.mouse.move(*steps.point(page, 0.5, 0.5), steps=4)
    page.mouse.up()
    expect(steps.marker(page, 1)).to_have_accessible_name(moved)
    page.click("#undo")  # one step: to where it began is no move
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: red #c03030, row 60, column 90")
    page.click("#redo")

    steps.marker(page, 1).click()
    page.fill("#hex", "#30a040")
    page.press("#hex", "Enter")
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: green #30a040, row 100, column 150")

    page.click("#picker-lock")
    page.keyboard.press("Escape")
    steps.marker(page, 1).focus()
    page.keyboard.press("Delete")
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: green #30a040, row 100, column 150, locked")
    page.keyboard.press("l")
    page.keyboard.press("Delete")
    steps.expect_shown(page, 0)


def _clicks(request) -> list[dict]:
    """Of a request; a click nowhere where it has none."""
    return (request.post_data_json or {}).get("clicks") or [{"row": -1}] if request.post_data else [{"row": -1}]


def test_colors_by_numbers_used_and_from_the_photo(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    red = steps.seen(page, 0.3, 0.3)

    steps.click(page, 0.7, 0.7)
    page.fill("#red", "300")
    expect(page.locator("#entry-error")).to_contain_text("0 to 255")
    page.fill("#hex", "#zzz")
    page.press("#hex", "Enter")
    expect(page.locator("#entry-error")).to_contain_text("#zzz")
    page.fill("#red", "10")
    page.fill("#green", "200")
    page.fill("#blue", "30")
    expect(page.locator("#hex")).to_have_value("#0ac81e")
    page.click("#used .swatch")
    expect(steps.marker(page, 2)).to_have_accessible_name("Click 2: red #c03030, row 140, column 210")

    page.click("#dropper")
    expect(page.locator("#picker")).to_have_class("picker aside")
    steps.click(page, 0.3, 0.3)
    expect(page.locator("#picker")).to_have_class("picker")
    text = page.input_value("#hex")
    taken = (int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16))
    assert steps.difference(taken, red) < 12
    steps.expect_shown(page, 2)


def test_eyedropper_takes_the_photos_own_colors(page: Page, color_photo: bytes):
    steps.opened(page, color_photo)
    steps.click(page, 0.5, 0.5)
    page.click("summary")
    page.click("#reference-own")
    expect(page.locator("#reference")).to_be_visible()
    page.locator("#reference").focus()
    page.keyboard.press("Enter")
    steps.expect_shown(page, 1)
    middle = np.asarray(steps.as_picture(color_photo))[99:102, 149:152].reshape(-1, 3).mean(axis=0)
    text = page.input_value("#hex")
    taken = (int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16))
    assert np.abs(np.subtract(taken, middle)).max() < 12


def test_eyedropper_takes_colors_of_another_picture(page: Page, grey_photo: bytes, color_photo: bytes):
    steps.opened(page, grey_photo)
    steps.click(page, 0.5, 0.5)
    page.click("summary")
    expect(page.locator("#reference-own")).to_be_hidden()
    page.set_input_files("#reference-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#reference-error")).to_contain_text("cannot show a.txt")
    page.set_input_files("#reference-file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": color_photo})
    page.click("#reference")
    steps.expect_shown(page, 1)
