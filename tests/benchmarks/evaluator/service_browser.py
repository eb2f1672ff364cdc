"""The same person in Chromium, on the page: from the pointer to the picture that the browser has painted.

Playwright drives it: `pip install playwright`, and Debian's package chromium.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.benchmarks.harness import Refused

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Programs to look for."""
MAX_MILLISECONDS = 60_000
"""Only a failure takes so long."""
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_TIMES = """() => {
    const times = { gesture: null, asked: null, sent: null, done: [] };
    window.benchmarkTimes = times;
    addEventListener("pointerup", (event) => { times.gesture = event.timeStamp; }, { capture: true });
    const painted = () => new Promise((resolve) => requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = resolve;
        port2.postMessage(null);
    }));
    const { fetch, createImageBitmap } = window;
    window.fetch = (path, ...rest) => {
        if (path === "/v1/colorize") [times.asked, times.sent] = [times.gesture, performance.now()];
        return fetch(path, ...rest);
    };
    window.createImageBitmap = async (...given) => {
        const { asked, sent } = times;
        const picture = await createImageBitmap(...given);
        if (sent !== null) {
            const decoded = performance.now();
            times.asked = times.sent = null;
            void painted().then(() => times.done.push([performance.now() - asked, decoded - sent]));
        }
        return picture;
    };
}"""
"""Notes milliseconds from the pointer's release to the frame with the picture, and from the request to the decoded
picture, of each coloring. The page draws in the next frame, and a message posted in a frame comes after it."""


_CLICK = """() => {
    const pulse = document.querySelector("#pulse");
    pulse.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    pulse.click();
}"""
"""Lets a pointer go over the suggested place, wherever the page shows it: earlier clicks may lie over it."""


def chromium() -> str:
    """The browser's program.

    Raises:
        ValueError: it, or what drives it, is not installed.
    """
    if importlib.util.find_spec("playwright") is None:
        raise ValueError("--browser needs Playwright, which is not installed; pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise ValueError(f"--browser needs Chromium, but {', '.join(NAMES)} are not here; apt install chromium")
    return found


def click_times(url: str, photo: bytes, clicks: int, warmup: int = 3) -> tuple[list[float], list[float]]:
    """Play a person who clicks where the page suggests; seconds of each click.

    The page asks for the next place when a preview is there, and a click waits for the place.

    Args:
        url: of the service.
        photo: a JPEG.
        clicks: that count.
        warmup: clicks before them.

    Returns:
        From the pointer to the painted picture, and from the request to the decoded one.

    Raises:
        ValueError: see `chromium`.
        Refused: the page did not show a coloring in time.
    """
    with _page(url, photo) as page:
        for number in range(1, warmup + clicks + 1):
            page.wait_for_selector("#pulse:not(.stale)")
            page.evaluate(_CLICK)
            _wait_until_shown(page, number)
            page.wait_for_function(f"() => window.benchmarkTimes.done.length >= {number}")
        done = page.evaluate("() => window.benchmarkTimes.done")
    counted = done[-clicks:]
    if len(done) < warmup + clicks:
        raise Refused(f"{warmup + clicks} clicks made {len(done)} colorings; the page may have changed")
    return [gesture / 1000 for gesture, _ in counted], [sent / 1000 for _, sent in counted]


@contextmanager
def _page(url: str, photo: bytes) -> "Iterator[Page]":
    """The page with the photo's first colors."""
    program = chromium()
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS, headless=True)
        try:
            # So small that the page wants no sharper picture of 1024 pixels after a rest.
            page = browser.new_context(viewport={"width": 640, "height": 640}).new_page()
            page.set_default_timeout(MAX_MILLISECONDS)
            page.add_init_script(f"({_TIMES})()")
            page.goto(url)
            page.wait_for_selector("body[data-ready]")
            page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo})
            _wait_until_shown(page, 0)
            page.evaluate("() => { window.benchmarkTimes.done.length = 0; }")
            yield page
        except Error as error:
            raise Refused(f"in Chromium: {str(error).splitlines()[0]}") from error
        finally:
            browser.close()


def _wait_until_shown(page: "Page", clicks: int) -> None:
    page.wait_for_selector(f'#stage[data-shown-clicks="{clicks}"][aria-busy="false"]')
