"""What a person does, from the drop to the file."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser


def test_from_drop_to_exported_file(page: Page, grey_photo: bytes):
    expect(page.get_by_role("heading", name="Colour a photo, click by click")).to_be_visible()
    steps.drop(page, grey_photo)
    steps.expect_shown(page, 0)
    first = steps.seen(page, 0.5, 0.5)

    expect(page.locator("#suggestion-swatches .swatch").first).to_be_visible()
    page.click("#pulse")
    steps.expect_shown(page, 1)

    page.click("#guide")
    steps.click(page, 0.5, 0.5)
    page.locator("#suggested .swatch").nth(1).click()
    steps.expect_shown(page, 2)
    page.click("#picker-close")
    assert steps.difference(steps.seen(page, 0.5, 0.5), first) > 8

    page.click("#export")
    picture = steps.as_picture(steps.downloaded(page, "#export-start"))
    assert (picture.size, picture.format) == ((300, 200), "PNG")
    pixels = np.asarray(picture.convert("RGB"), dtype=int)
    assert np.ptp(pixels, axis=-1).max() > 20  # not grey
    expect(page.locator("#export-dialog")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("Saved coffee-coloured.png")


def test_first_colors_come_without_any_click(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    assert len(set(steps.seen(page, 0.5, 0.5))) > 1  # its channels differ: no longer grey


@pytest.mark.parametrize("format", ["jpeg", "tiff"])
def test_export_in_other_formats(page: Page, grey_photo: bytes, format: str):
    steps.opened(page, grey_photo)
    page.keyboard.press("e")
    page.check(f"input[value={format}]")
    expect(page.locator("#quality-part")).to_be_visible(visible=format == "jpeg")
    content = io.BytesIO(steps.downloaded(page, "#export-start"))
    # Pillow reads no TIFF of 16 bits and three channels.
    pixels = tifffile.imread(content) if format == "tiff" else np.asarray(Image.open(content))
    assert pixels.shape == (200, 300, 3)
    assert pixels.dtype == (np.uint16 if format == "tiff" else np.uint8)


def test_sample_photos_open_with_one_click(page: Page):
    page.locator(".sample").first.click()
    steps.expect_shown(page, 0)
    expect(page.locator("#welcome")).to_be_hidden()


def test_pasted_photo_opens(page: Page, grey_photo: bytes):
    steps.paste(page, grey_photo, "image.jpg", "image/jpeg")
    steps.expect_shown(page, 0)


def test_undo_and_redo_follow_every_step(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.color(page, 0.7, 0.7, "#3030c0")
    steps.expect_shown(page, 2)
    steps.expect_blue(page, 0.7, 0.7)
    both = steps.seen(page, 0.7, 0.7)
    page.keyboard.press("Control+z")
    steps.expect_shown(page, 1)
    steps.expect_seen(page, 0.7, 0.7, both, differing=True)
    page.keyboard.press("Control+z")
    steps.expect_shown(page, 0)
    expect(page.locator("#undo")).to_be_disabled()
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+Shift+Z")
    steps.expect_shown(page, 2)
    steps.expect_seen(page, 0.7, 0.7, both)
    expect(page.locator("#redo")).to_be_disabled()


def test_everything_by_keyboard_alone(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    expect(page.locator("#surface")).to_be_focused()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#cursor")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#suggested .swatch").first).to_be_visible()
    expect(page.locator("#palette [role=option]").first).to_be_visible()
    expect(page.locator("#picker-title")).to_be_focused()
    page.locator("#palette").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    steps.expect_shown(page, 1)
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    expect(steps.marker(page, 1)).to_be_focused()
    assert "row 101, column 160" in (steps.marker(page, 1).get_attribute("aria-label") or "")
    page.keyboard.press("ArrowLeft")
    assert "column 159" in (steps.marker(page, 1).get_attribute("aria-label") or "")
    page.keyboard.press("Delete")
    steps.expect_shown(page, 0)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    page.keyboard.press("Escape")


def test_single_letters_can_be_switched_off(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    page.click("#help")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("#divider")).to_be_hidden()
    page.click("#compare")
    expect(page.locator("#divider")).to_be_visible()


def test_heat_map_lies_over_the_photo(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.remember_stage(page)
    page.click("#heat")
    expect(page.locator("#stage")).to_have_attribute("data-heat-clicks", "0")
    expect(page.locator("#heat")).to_have_attribute("aria-pressed", "true")
    steps.expect_change(page, by=30)


def test_divider_shows_grey_on_its_left(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    page.keyboard.press("c")
    divider = page.get_by_role("slider", name="Before and after")
    expect(divider).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "55")
    steps.expect_grey(page, 0.5, 0.3, grey=True)
    steps.expect_grey(page, 0.5, 0.8, grey=False)


def test_zoom_by_wheel_keeps_the_place_under_the_pointer(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    page.mouse.move(*steps.point(page, 0.25, 0.25))
    page.mouse.wheel(0, -600)
    expect(page.locator("#surface")).to_have_class("surface zoomed")
    x, y = steps.point(page, 0.25, 0.25)
    page.mouse.click(x, y)
    page.fill("#hex", "#c03030")
    page.press("#hex", "Enter")
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: red #c03030, row 50, column 75")
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    expect(page.locator("#surface")).to_have_class("surface")
