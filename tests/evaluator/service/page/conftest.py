"""Chromium, a demo server, and a page whose every error counts."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from skimage import data

from tests.evaluator.service.page.running import Server

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MAX_MILLISECONDS = 60_000
"""Only a failure takes so long, or a machine with much else to do."""
MAX_SECONDS = 600.0
"""Of a test; there is something to wait for in each of its steps."""
expect.set_options(timeout=MAX_MILLISECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: while Playwright runs, no other test of this process could use asyncio."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package chromium has it")
    before = set(psutil.Process().children())
    with sync_playwright() as playwright:
        drivers = set(psutil.Process().children()) - before
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, headless=True)
        browser.drivers = drivers  # pyright: ignore[reportAttributeAccessIssue]
        yield browser
        with ended_after(drivers, MAX_MILLISECONDS / 1000):
            browser.close()
            playwright.stop()


@contextmanager
def ended_after(drivers: Iterable[psutil.Process], seconds: float) -> Iterator[None]:
    """Kill Playwright's driver when this lasts longer; every call that waits for it then fails.

    A page's `evaluate` and a browser's `close` have no limit of time of their own.
    """

    def kill() -> None:
        for driver in drivers:
            with suppress(psutil.NoSuchProcess):
                for process in (*driver.children(recursive=True), driver):
                    process.kill()

    late = threading.Timer(seconds, kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test with a browser waits for ever."""
    if "browser" not in request.fixturenames:
        yield
        return
    with ended_after(request.getfixturevalue("browser").drivers, MAX_SECONDS):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def blank(browser: Browser, server: Server) -> Iterator[Page]:
    """The page without a photo, whose modules a test takes one by one."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("body[data-ready]")).to_be_visible()
    page.wait_for_load_state("networkidle")
    yield page
    context.close()


class Watch:
    """What a page must not do: complain, break its own policy, or ask another machine."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of complaints that the test provokes, such as a refused upload."""

    def follow(self, page: Page) -> None:
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.server.url}/", "blob:", "data:")):
            self.foreign.append(request.url)

    def check(self) -> None:
        unexpected = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert not unexpected
        assert not self.foreign


@pytest.fixture
def watch(server: Server) -> Watch:
    return Watch(server)


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, watch: Watch) -> Iterator[OpenPage]:
    """`open_page(width=..., color_scheme=...)`: the page in a new, empty profile."""
    contexts = []

    def open_(width: int = 1100, height: int = 720, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)  # pyright: ignore[reportArgumentType]
        contexts.append(context)
        context.set_default_timeout(MAX_MILLISECONDS)
        page = context.new_page()
        watch.follow(page)
        page.goto(watch.server.url)
        expect(page.locator("body[data-ready]")).to_be_visible()
        return page

    yield open_
    for context in contexts:
        context.close()
    watch.check()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()


@pytest.fixture(scope="session")
def grey_photo() -> bytes:
    """A cup of coffee, 300 x 200, as a grey JPEG."""
    return encoded(Image.fromarray(data.coffee()).resize((300, 200)).convert("L"))


@pytest.fixture(scope="session")
def color_photo() -> bytes:
    """The same with its colors."""
    return encoded(Image.fromarray(data.coffee()).resize((300, 200)))


def encoded(picture: Image.Image, format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()
