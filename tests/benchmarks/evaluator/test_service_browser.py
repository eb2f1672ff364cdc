"""The benchmark that plays a person in Chromium."""

import pytest

from tests.benchmarks.evaluator import service_browser
from tests.benchmarks.evaluator.service_browser import click_times
from tests.evaluator.service.page.conftest import CHROMIUM
from tests.evaluator.service.page.running import Server

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def needs_chromium() -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package chromium has it")


def test_each_click_has_its_time_from_key_and_from_request(server: Server, grey_photo: bytes):
    gesture, request = click_times(server.url, grey_photo, clicks=3, warmup=1)
    assert len(gesture) == len(request) == 3
    assert all(0 < sent <= whole for whole, sent in zip(gesture, request, strict=True))


def test_a_page_that_does_not_answer_is_told(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service_browser, "MOST_MILLISECONDS", 300)
    with pytest.raises(RuntimeError, match=r"in Chromium: .*300ms"):
        click_times(f"{server.url}/nothing", b"", clicks=1)
