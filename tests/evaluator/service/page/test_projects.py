"""Projects: saved, reopened, and what happens to the work before."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps

pytestmark = pytest.mark.browser


def test_project_is_saved_and_reopened(page: Page, open_page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.color(page, 0.6, 0.6, "#3030c0")
    steps.expect_shown(page, 2)
    page.get_by_role("button", name="Lock click 2").click()
    content = steps.downloaded(page, "#save")
    project = json.loads(content)
    assert project["format"] == "chromaclick-project"
    assert project["clicks"][0] | {"size": 0} == {"row": 60, "col": 90, "colour": {"hex": "#c03030"}, "size": 0}
    assert project["clicks"][1]["locked"] is True
    assert project["colorizer"]

    other = open_page()
    steps.choose(other, content, "coffee.chromaclick.json", "application/json")
    steps.expect_shown(other, 2)
    expect(steps.marker(other, 2)).to_have_accessible_name("Click 2: blue #3030c0, row 120, column 180, locked")


def test_project_asks_for_its_photo_where_the_server_has_it_no_more(page: Page, watch, grey_photo: bytes):
    watch.expected = ("404",)
    project = {
        "format": "chromaclick-project",
        "version": 1,
        "photo": {"id": "ab" * 32, "name": "lost.jpg", "width": 300, "height": 200},
        "clicks": [],
    }
    steps.choose(page, json.dumps(project).encode(), "lost.json", "application/json")
    expect(page.get_by_role("alert")).to_contain_text("choose the project's photo: lost.jpg (300 × 200)")
    steps.choose(page, grey_photo)
    steps.expect_shown(page, 0)
    expect(page.locator("#status")).to_contain_text("not the project's photo")


def test_work_is_not_replaced_unasked(page: Page, grey_photo: bytes, color_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    steps.drop(page, color_photo, "other.jpg")
    page.get_by_role("dialog", name="Open something else?").get_by_role("button", name="Cancel").click()
    steps.expect_shown(page, 1)
    steps.drop(page, color_photo, "other.jpg")
    page.get_by_role("button", name="Open without saving").click()
    steps.expect_shown(page, 0)
    expect(page.locator("#photo-name")).to_contain_text("other.jpg")
