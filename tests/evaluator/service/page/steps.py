"""What a person does on the page, in the tests' words."""

import base64
import io

from PIL import Image
from playwright.sync_api import JSHandle, Page, expect

Color = tuple[int, int, int]


def run(page: Page, module: str, body: str, argument: object = None) -> object:
    """The value of JavaScript that finds the module's names in `m`."""
    code = f"async (argument) => {{ const m = await import('/static/{module}.js'); {body} }}"
    return page.evaluate(code, argument)


def choose(page: Page, content: bytes, name: str = "coffee.jpg", kind: str = "image/jpeg") -> None:
    """By the file dialog's input."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})


def transfer(page: Page, content: bytes, name: str, kind: str) -> JSHandle:
    """What a drop or a paste brings."""
    return page.evaluate_handle(
        """([base64, name, type]) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def drop(page: Page, content: bytes, name: str = "coffee.jpg", kind: str = "image/jpeg") -> None:
    page.dispatch_event("body", "drop", {"dataTransfer": transfer(page, content, name, kind)})


def paste(page: Page, content: bytes, name: str = "image.png", kind: str = "image/png") -> None:
    handle = transfer(page, content, name, kind)
    page.evaluate("(data) => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", handle)


def expect_shown(page: Page, clicks: int) -> None:
    """The picture on the stage is the answer to this many clicks."""
    stage = page.locator("#stage")
    expect(stage).to_have_attribute("data-shown-clicks", str(clicks))
    expect(stage).to_have_attribute("aria-busy", "false")
    expect(page.locator("#counter")).to_have_text("1 click" if clicks == 1 else f"{clicks} clicks")


def opened(page: Page, content: bytes, suggestions: bool = False) -> None:
    """The page with a photo and its first colors; suggestions could lie where the test clicks."""
    choose(page, content)
    expect_shown(page, 0)
    if not suggestions:
        page.keyboard.press("g")
        expect(page.locator("#suggestion")).to_be_hidden()


def point(page: Page, down: float, right: float) -> tuple[float, float]:
    """Of the window: the middle of a pixel at these shares of the photo's height and width, shown as a whole."""
    left, top, scale, width, height = page.evaluate(
        """async () => {
            const text = document.querySelector('#photo-name').textContent;
            const [, w, h] = text.match(/(\\d+) × (\\d+)$/).map(Number);
            const box = document.querySelector('#surface').getBoundingClientRect();
            const { fit } = await import('/static/transform.js');
            const { scale, x, y } = fit({ width: box.width, height: box.height }, { width: w, height: h });
            return [box.left + x, box.top + y, scale, w, h];
        }"""
    )
    return left + (int(right * width + 1e-6) + 0.5) * scale, top + (int(down * height + 1e-6) + 0.5) * scale


def click(page: Page, down: float, right: float) -> None:
    page.mouse.click(*point(page, down, right))


def color(page: Page, down: float, right: float, text: str) -> None:
    """Click a place and type its color: nothing here waits for the server."""
    click(page, down, right)
    page.fill("#hex", text)
    page.press("#hex", "Enter")
    page.keyboard.press("Escape")


_SEEN = """([x, y]) => {
    const canvas = document.querySelector('#canvas');
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, Math.round((box.left - x) * scale), Math.round((box.top - y) * scale));
    return [...copy.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""


def seen(page: Page, down: float, right: float) -> Color:
    """The color on the stage."""
    red, green, blue = page.evaluate(_SEEN, list(point(page, down, right)))
    return red, green, blue


def expect_grey(page: Page, down: float, right: float, *, grey: bool) -> None:
    """Wait until the stage shows a grey there, or a color."""
    wanted = "<= 1" if grey else "> 1"
    body = f"(place) => {{ const c = ({_SEEN})(place); return Math.max(...c) - Math.min(...c) {wanted}; }}"
    page.wait_for_function(body, arg=list(point(page, down, right)))


def expect_blue(page: Page, down: float, right: float) -> None:
    """Wait until the stage is bluer there than red: a color that was typed is shown after the click itself."""
    body = f"(place) => {{ const [red, , blue] = ({_SEEN})(place); return blue > red + 8; }}"
    page.wait_for_function(body, arg=list(point(page, down, right)))


def expect_seen(page: Page, down: float, right: float, colour: Color, *, differing: bool = False) -> None:
    """Wait until the stage shows this colour there, or another one: a sharper preview may still come."""
    body = (
        f"([place, wanted]) => {{ const seen = ({_SEEN})(place); "
        "const most = Math.max(...seen.map((value, i) => Math.abs(value - wanted[i]))); "
        f"return {'most > 8' if differing else 'most <= 1'}; }}"
    )
    page.wait_for_function(body, arg=[list(point(page, down, right)), list(colour)])


_PIXELS = """() => {
    const canvas = document.querySelector('#canvas');
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return copy.getImageData(0, 0, canvas.width, canvas.height).data;
}"""


def remember_stage(page: Page) -> None:
    """Keep what the stage shows, for `expect_change`."""
    page.evaluate(f"() => {{ window.remembered = ({_PIXELS})(); }}")


def expect_change(page: Page, by: int) -> None:
    """Wait until some pixel of the stage differs from what is remembered, in one channel by more than so much."""
    page.wait_for_function(
        f"(by) => ({_PIXELS})().some((value, index) => Math.abs(value - window.remembered[index]) > by)", arg=by
    )


def difference(one: Color, other: Color) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def marker(page: Page, number: int):
    return page.get_by_role("button", name=f"Click {number}:")


def downloaded(page: Page, button: str) -> bytes:
    """The file that pressing a button gives."""
    with page.expect_download(timeout=120_000) as download:
        page.click(button)
    return download.value.path().read_bytes()


def as_picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))
