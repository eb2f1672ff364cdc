"""For everybody: axe-core, keyboards, narrow screens, less motion."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser
SERIOUS = ("serious", "critical")


def serious(page: Page) -> list[str]:
    """Violations that shut somebody out, as axe-core rates them; all of its rules run."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


def visit(page: Page, photo: bytes) -> list[str]:
    """Every state of the page, and what axe-core says about each."""
    expect(page.locator(".sample").first).to_be_visible()
    found = serious(page)
    steps.opened(page, photo, suggestions=True)
    expect(page.locator("#suggestion-swatches .swatch").first).to_be_visible()
    page.keyboard.press("a")
    steps.expect_shown(page, 1)
    # Faded until then, as a button that is disabled.
    expect(page.locator("#suggestion:not(.stale) .swatch").first).to_be_visible()
    found += serious(page)
    page.keyboard.press("g")
    steps.marker(page, 1).click()
    expect(page.locator("#suggested .swatch").first).to_be_visible()
    expect(page.locator("#palette [role=option]").first).to_be_visible()
    page.locator("#palette").focus()
    page.click("summary")
    found += serious(page)
    page.keyboard.press("Escape")
    page.click("#compare")
    found += serious(page)
    for button, dialog in (("#help", "#help-dialog"), ("#export", "#export-dialog")):
        page.click(button)
        expect(page.locator(dialog)).to_be_visible()
        found += serious(page)
        page.keyboard.press("Escape")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_axe_finds_nothing_serious(open_page, grey_photo: bytes, scheme: str, width: int):
    page = open_page(width=width, color_scheme=scheme, reduced_motion="reduce")
    assert visit(page, grey_photo) == []


def test_axe_would_find_something(page: Page):
    """The check itself is alive."""
    page.evaluate("document.querySelector('#help').replaceChildren()")
    page.evaluate("document.querySelector('#help').removeAttribute('title')")
    assert any(text.startswith("button-name") for text in serious(page))


def test_error_banner_passes_axe(page: Page, watch):
    watch.expected = ("415", "422")
    steps.drop(page, b"no photo", "notes.txt", "text/plain")
    expect(page.locator("#alert")).to_be_visible()
    assert serious(page) == []


def test_nothing_is_wider_than_a_phone(open_page, grey_photo: bytes):
    page = open_page(width=360, height=740, has_touch=True, is_mobile=True)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 360
    steps.opened(page, grey_photo)
    assert page.evaluate(width) == 360
    steps.click(page, 0.5, 0.5)
    expect(page.locator("#palette [role=option]").first).to_be_visible()
    assert page.evaluate(width) == 360
    box = page.locator("#picker").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


def test_place_is_seen_above_the_colors_on_a_phone(open_page, grey_photo: bytes):
    page = open_page(width=360, height=740, has_touch=True, is_mobile=True)
    steps.opened(page, grey_photo)
    page.touchscreen.tap(*steps.point(page, 0.9, 0.5))
    expect(page.locator("#picker")).to_be_visible()
    picker, target = page.locator("#picker").bounding_box(), page.locator("#target").bounding_box()
    assert picker is not None
    assert target is not None
    assert target["y"] + target["height"] < picker["y"]


def test_two_fingers_zoom(open_page, grey_photo: bytes):
    page = open_page(width=360, height=740, has_touch=True, is_mobile=True)
    steps.opened(page, grey_photo)
    x, y = steps.point(page, 0.5, 0.5)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}] if apart else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 30)
    for apart in (45, 60, 90):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    expect(page.locator("#surface")).to_have_class("surface zoomed")
    expect(page.locator("#picker")).to_be_hidden()


def test_less_motion_stops_the_pulse(open_page, grey_photo: bytes):
    page = open_page(reduced_motion="reduce")
    steps.opened(page, grey_photo, suggestions=True)
    expect(page.locator("#pulse")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0


def test_pulse_moves_otherwise(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo, suggestions=True)
    expect(page.locator("#pulse")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") > 0


def test_errors_and_steps_are_announced(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    expect(page.locator("#status")).to_have_attribute("role", "status")
    steps.color(page, 0.3, 0.3, "#c03030")
    expect(page.locator("#status")).to_have_text("Coloured red.")


def test_focus_returns_to_the_photo_when_the_colors_close(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.click(page, 0.5, 0.5)
    expect(page.locator("#picker-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#surface")).to_be_focused()


def test_focus_is_not_lost_with_what_had_it(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    for share in (0.2, 0.5, 0.8):
        steps.color(page, share, share, "#c03030")
    page.get_by_role("button", name="Remove click 2").focus()
    for left in ("Remove click 2", "Remove click 1"):
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name=left)).to_be_focused()
    page.locator("#remove-all").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#surface")).to_be_focused()
    page.locator("#undo").focus()
    for _ in range(7):
        page.keyboard.press("Enter")
    expect(page.locator("#counter")).to_have_text("0 clicks")
    expect(page.locator("#undo")).to_be_disabled()
    expect(page.locator("#undo")).to_be_focused()


def test_page_has_no_inline_script_or_style(page: Page):
    markup = page.evaluate("fetch('/').then((answer) => answer.text())")
    assert " style=" not in markup
    assert "<style" not in markup
    assert "onclick" not in markup
    assert page.locator("script:not([src])").count() == 0
