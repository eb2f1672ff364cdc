"""Files of all kinds: huge, broken, no photo at all, with a token."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.evaluator.service.page import steps
from tests.evaluator.service.page.conftest import encoded
from tests.evaluator.service.page.running import Server

pytestmark = pytest.mark.browser
TOKEN = "sixteen letters or more"


def test_photo_of_24_megapixels(page: Page):
    ramp = np.add.outer(np.arange(4000) % 200, np.arange(6000) % 56).astype(np.uint8)
    steps.choose(page, encoded(Image.fromarray(ramp)), "huge.jpg")
    steps.expect_shown(page, 0)
    expect(page.locator("#photo-name")).to_contain_text("6000 × 4000")
    steps.color(page, 0.5, 0.5, "#c03030")
    steps.expect_shown(page, 1)
    page.keyboard.press("e")
    page.check("input[value=jpeg]")
    picture = steps.as_picture(steps.downloaded(page, "#export-start"))
    assert picture.size == (6000, 4000)


def test_broken_photo_is_refused_in_words_and_the_work_stays(page: Page, watch, grey_photo: bytes):
    watch.expected = ("415", "422")
    steps.opened(page, grey_photo)
    steps.choose(page, grey_photo[: len(grey_photo) // 3], "broken.jpg")
    expect(page.locator("#alert-text")).not_to_be_empty()
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator("#photo-name")).to_contain_text("coffee.jpg")
    steps.choose(page, grey_photo)
    expect(page.locator("#alert")).to_be_hidden()


def test_text_file_is_refused_on_the_first_screen(page: Page, watch):
    watch.expected = ("415", "422")
    steps.drop(page, b"no photo", "notes.txt", "text/plain")
    expect(page.locator("#alert")).to_be_visible()
    expect(page.locator("#welcome")).to_be_visible()


def test_file_above_the_limit_is_refused_in_words(page: Page, watch):
    watch.expected = ("Failed to load resource",)
    page.evaluate(
        """([megabytes]) => {
            const transfer = new DataTransfer();
            const bytes = new Uint8Array(megabytes * 2 ** 20);
            transfer.items.add(new File([bytes], 'giant.tif', { type: 'image/tiff' }));
            dispatchEvent(new DragEvent('drop', { dataTransfer: transfer }));
        }""",
        [80],
    )
    expect(page.locator("#alert")).to_be_visible(timeout=60_000)
    expect(page.locator("#progress")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b'{"format": "other"}', "not a chromaclick project"),
        (b'{"format": "chromaclick-project", "version": 9}', "version is 9"),
        (b'{"format": "chromaclick-project", "version": 1, "photo": {"id": "../etc"}}', "which photo"),
    ],
)
def test_damaged_project_says_what_is_wrong(page: Page, content: bytes, said: str):
    steps.choose(page, content, "work.json", "application/json")
    expect(page.locator("#alert")).to_contain_text(said)


def test_photo_and_project_dropped_together(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    project = steps.downloaded(page, "#save")
    page.keyboard.press("Control+z")
    steps.expect_shown(page, 0)
    files = [
        {"name": "work.json", "mimeType": "application/json", "buffer": project},
        {"name": "coffee.jpg", "mimeType": "image/jpeg", "buffer": grey_photo},
    ]
    page.set_input_files("#file", files)  # pyright: ignore[reportArgumentType]
    steps.expect_shown(page, 1)


def test_sixteen_bit_tiff_opens(page: Page):
    ramp = np.linspace(0, 65535, 120 * 80).reshape(80, 120).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "TIFF")
    steps.choose(page, file.getvalue(), "scan.tif", "image/tiff")
    steps.expect_shown(page, 0)
    expect(page.locator("#photo-name")).to_contain_text("120 × 80")


@pytest.fixture
def guarded(watch) -> Iterator[Server]:
    server = Server("--token", TOKEN)
    server.start()
    watch.server = server
    watch.expected = ("401",)
    yield server
    server.stop()


def test_server_with_a_token_asks_for_it_once(guarded: Server, page: Page, grey_photo: bytes):
    page.fill("#token", "not this one, my friend")
    page.press("#token", "Enter")
    expect(page.locator("#token-error")).to_contain_text("wrong")
    page.keyboard.press("Escape")
    expect(page.locator("#token-dialog")).to_be_hidden()
    expect(page.locator("#alert")).to_contain_text("Reload the page")
    page.reload()
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    expect(page.locator(".sample").first).to_be_visible()
    steps.opened(page, grey_photo)
