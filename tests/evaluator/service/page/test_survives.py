"""What must not be lost: through reloads, a dying server, a full one, and answers in the wrong order."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect

from tests.evaluator.service.page import steps
from tests.evaluator.service.page.running import Server

pytestmark = pytest.mark.browser

PROBLEM = "application/problem+json"


@pytest.fixture
def mortal(watch, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, with a photo store that the test may empty."""
    server = Server("--store", str(tmp_path / "store"))
    server.start()
    watch.server = server
    watch.expected = ("Failed to load resource",)
    yield server
    server.stop()


def test_reload_keeps_photo_clicks_and_undo(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.color(page, 0.7, 0.7, "#3030c0")
    steps.expect_shown(page, 2)
    expect(page.locator("#saved")).to_have_text("Saved in this browser")
    colour = steps.seen(page, 0.3, 0.3)
    page.reload()
    steps.expect_shown(page, 2)
    assert steps.difference(steps.seen(page, 0.3, 0.3), colour) <= 1
    expect(steps.marker(page, 1)).to_have_accessible_name("Click 1: red #c03030, row 60, column 90")
    page.keyboard.press("Control+z")
    steps.expect_shown(page, 1)


def test_server_killed_and_restarted_in_the_middle(mortal: Server, page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    mortal.kill()
    steps.color(page, 0.7, 0.7, "#3030c0")
    expect(page.locator("#connection")).to_contain_text("The server does not answer")
    steps.color(page, 0.3, 0.7, "#30a040")
    expect(page.locator("#counter")).to_have_text("3 clicks")
    mortal.start()
    steps.expect_shown(page, 3)
    expect(page.locator("#connection")).to_be_hidden()
    assert steps.seen(page, 0.7, 0.7)[2] > steps.seen(page, 0.7, 0.7)[0]  # blue has come


def test_photo_is_sent_again_to_a_server_that_lost_it(
    mortal: Server, page: Page, tmp_path: Path, grey_photo: bytes
):
    steps.opened(page, grey_photo)
    mortal.stop()
    for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    mortal.start()
    with page.expect_request(lambda request: request.url.endswith("/v1/photos")):
        steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    expect(page.get_by_role("alert").first).to_be_hidden()


def test_upload_to_a_dead_server_waits_for_it(mortal: Server, page: Page, grey_photo: bytes):
    mortal.kill()
    steps.choose(page, grey_photo)
    expect(page.locator("#connection")).to_contain_text("does not answer")
    expect(page.locator("#progress")).to_contain_text("Reading coffee.jpg")
    mortal.start()
    steps.expect_shown(page, 0)
    expect(page.locator("#progress")).to_be_hidden()


def test_of_twenty_quick_clicks_the_last_one_wins(page: Page, server: Server, grey_photo: bytes):
    steps.opened(page, grey_photo)
    for number in range(20):
        steps.color(page, 0.1 + 0.04 * number, 0.15 + 0.7 * (number * 0.618 % 1), f"#{(40 + 9 * number):02x}40a0")
    steps.expect_shown(page, 20)
    project = json.loads(steps.downloaded(page, "#save"))
    assert len(project["clicks"]) == 20
    asked = {"photo": project["photo"]["id"], "clicks": project["clicks"], "format": "png"}
    answer = httpx.post(f"{server.url}/v1/colorize", json=asked)
    alone = Image.open(io.BytesIO(answer.raise_for_status().content)).convert("RGB")
    for down, right in ((0.86, 0.37), (0.5, 0.5), (0.2, 0.8)):
        pixel = alone.getpixel((int(right * alone.width), int(down * alone.height)))
        assert isinstance(pixel, tuple)
        assert steps.difference(steps.seen(page, down, right), (pixel[0], pixel[1], pixel[2])) < 16


def test_stale_answer_never_overwrites_a_newer_one(page: Page, grey_photo: bytes):
    steps.opened(page, grey_photo)
    held: list[Route] = []

    def hold_the_first(route: Route, request: Request) -> None:
        if len((request.post_data_json or {})["clicks"]) == 1 and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/colorize", hold_the_first)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/colorize")) as failed:
        steps.color(page, 0.3, 0.3, "#c03030")
        steps.color(page, 0.7, 0.7, "#3030c0")
    assert failed.value == held[0].request  # taken back as soon as there was a newer question
    steps.expect_shown(page, 2)


def test_answer_that_comes_after_a_newer_one_is_dropped(page: Page):
    """`Newest` alone, with questions that do not heed their abort signal."""
    shown = page.evaluate(
        """async () => {
            const { Newest } = await import('/static/newest.js');
            const newest = new Newest(), answers = [], shown = [];
            const question = () => new Promise((done) => answers.push(done));
            const ask = () => newest.ask(question, (one) => shown.push(one), () => {});
            const asked = [ask(), ask(), ask()];
            answers[2]('third'); answers[0]('first'); answers[1]('second');
            await Promise.all(asked);
            return shown;
        }"""
    )
    assert shown == ["third"]


def test_dragging_shows_pictures_on_the_way_and_ends_with_the_last(page: Page):
    shown = page.evaluate(
        """async () => {
            const { Newest } = await import('/static/newest.js');
            const newest = new Newest(), answers = [], shown = [];
            const drag = (name) => newest.askWhenIdle(
                () => new Promise((done) => answers.push(() => done(name))), (one) => shown.push(one), () => {});
            drag('a'); drag('b'); drag('c');
            while (answers.length) { answers.shift()(); await new Promise((done) => requestAnimationFrame(done)); }
            return shown;
        }"""
    )
    assert shown == ["a", "c"]


def test_full_server_is_waited_for_as_long_as_it_asks(page: Page, watch, grey_photo: bytes):
    watch.expected = ("429",)
    steps.opened(page, grey_photo)
    refused = []

    def refuse_once(route: Route) -> None:
        if refused:
            return route.continue_()
        refused.append(route)
        return route.fulfill(status=429, headers={"Retry-After": "2"}, content_type=PROBLEM, body="{}")

    page.route("**/v1/colorize", refuse_once)
    steps.color(page, 0.3, 0.3, "#c03030")
    expect(page.locator("#connection")).to_contain_text("Trying again in 2 s")
    steps.expect_shown(page, 1)
    expect(page.locator("#connection")).to_be_hidden()


def test_export_to_a_full_server_waits_inside_its_dialog(page: Page, watch, grey_photo: bytes):
    watch.expected = ("429",)
    steps.opened(page, grey_photo)
    full = {"status": 429, "headers": {"Retry-After": "30"}, "content_type": PROBLEM, "body": "{}"}
    page.route("**/v1/export", lambda route: route.fulfill(**full))
    page.click("#export")
    page.click("#export-start")
    expect(page.locator("#export-progress")).to_contain_text("Trying again in 30 s")
    expect(page.locator("#connection")).to_be_hidden()
    page.keyboard.press("Escape")


def test_request_that_died_with_its_replica_is_sent_again(page: Page, watch, grey_photo: bytes):
    watch.expected = ("500",)
    steps.opened(page, grey_photo)
    died = []

    def die_once(route: Route) -> None:
        if died:
            return route.continue_()
        died.append(route)
        return route.fulfill(status=500, content_type="text/plain", body="Internal Server Error")

    page.route("**/v1/colorize", die_once)
    steps.color(page, 0.3, 0.3, "#c03030")
    steps.expect_shown(page, 1)
    assert len(died) == 1


def test_problem_is_said_where_the_eye_is(page: Page, watch, grey_photo: bytes):
    watch.expected = ("500",)
    steps.opened(page, grey_photo)
    body = json.dumps({"type": "https://chromaclick.invalid/problems/broken", "detail": "the network is ill"})
    page.route("**/v1/colorize", lambda route: route.fulfill(status=500, content_type=PROBLEM, body=body))
    steps.color(page, 0.3, 0.3, "#c03030")
    expect(page.locator("#alert")).to_contain_text("the network is ill")
    page.get_by_role("button", name="Close this message").click()
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator("#counter")).to_have_text("1 click")
