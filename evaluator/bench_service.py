"""What a person waits for: click to new preview, alone, among 16 people, and when there are too many.

    python -m evaluator.bench_service [--colorizer URI --guide URI] [--browser] [--soak 30m] [--json FILE]

The server is its own process, as `python -m evaluator serve` starts it; this process plays the people, over HTTP.
A time runs from the request to the picture that Pillow decoded.
"""

import asyncio
import io
import random
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import skimage
import tyro
from PIL import Image
from skimage.color import rgb2lab

from evaluator.bench_browser import chromium, click_times
from evaluator.bench_networks import make_networks
from evaluator.bench_server import Server
from kernels.benchmarking import Goal, at_least, at_most, report

PREVIEW = 512
_MIB = 2**20
_PARTS = 12
"""Of a soak: rows of its table."""
_MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}
Clicks = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the service."""

    colorizer: str = ""
    """models:/ URI, model folder or .pt2 file; default: an untrained network of the `small` preset's size."""
    guide: str = ""
    """As --colorizer; give both or none."""
    photo: Path | None = None
    """Default: scikit-image's astronaut, 1536 x 1536 px."""
    clicks: int = 60
    """Of the person who is alone."""
    people: int = 16
    """At once."""
    clicks_each: int = 8
    """Of each of them, without any pause."""
    flood: int = 200
    """Requests at once, more than the service can hold."""
    browser: bool = False
    """Also play the person who is alone in Chromium, on the page, until the picture is decoded there."""
    soak: str = ""
    """Instead of all this, play people for so long (90s, 30m, 2h), and watch the memory."""
    soak_people: int = 4
    """How many people the soak plays."""
    threads: int = 0
    """CPU threads of the server's networks; 0: all cores."""
    runtimes: tuple[str, ...] = ()
    """As the server's, whose default it is: fewer start sooner, and may be slower."""
    json: Path | None = None
    """Also write the report to this file."""

    def __post_init__(self) -> None:
        if bool(self.colorizer) != bool(self.guide):
            raise ValueError("give both --colorizer and --guide, or none of them")
        if self.browser and self.soak:
            raise ValueError("--browser has no effect on a soak; give one of --browser and --soak")
        if self.soak and not re.fullmatch(r"\d+(\.\d+)?[smh]", self.soak):
            raise ValueError(f"--soak is {self.soak!r}; write a number and s, m or h, such as 30m")


@dataclass
class Measured:
    """The answers to one kind of request."""

    what: str
    seconds: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    lasted: float = 0.0

    def row(self, server: Server) -> dict[str, object]:
        """Times are of the requests that were answered with 200; None where there was none."""
        times = {
            f"p{level:g} ms": self.milliseconds(level) if self.seconds else None for level in (50.0, 95.0, 99.0)
        }
        refused = self.statuses.count(429)
        return {
            "what": self.what,
            "requests": len(self.statuses),
            "refused (429)": refused,
            "lost": len(self.statuses) - len(self.seconds) - refused,
            **times,
            "answers/s": len(self.seconds) / self.lasted if self.lasted else None,
            "server MiB": server.memory() / _MIB,
            "without files": server.own_memory() / _MIB,
        }

    def milliseconds(self, level: float) -> float:
        """A quantile, in percent, of the answered requests' times."""
        if not self.seconds:
            raise RuntimeError(f"{self.what}: no request was answered: {self.statuses}")
        return 1000 * float(np.quantile(self.seconds, level / 100))

    @property
    def lost(self) -> int:
        """Requests that were not answered with 200."""
        return len(self.statuses) - len(self.seconds)


class Person:
    """Somebody with a photo and more and more clicks."""

    def __init__(self, client: httpx.AsyncClient, photo: dict[str, Any], seed: int) -> None:
        self._client, self._photo, self._random = client, photo, random.Random(seed)
        self.clicks: Clicks = []

    def click(self) -> None:
        """One more click, anywhere, of any colour."""
        draw = self._random
        place = {"row": draw.randrange(self._photo["height"]), "col": draw.randrange(self._photo["width"])}
        self.clicks.append({**place, "colour": {"hex": f"#{draw.randrange(2**24):06x}"}})

    async def preview(self, measured: Measured) -> None:
        """Ask for the new preview, and time it until it is decoded."""
        asked = {"photo": self._photo["id"], "clicks": self.clicks, "preview": PREVIEW}
        await timed(measured, self._client.post("/v1/colorize", json=asked), decode)

    async def suggestions(self, measured: Measured) -> None:
        """Ask for the next places."""
        asked = {"photo": self._photo["id"], "clicks": self.clicks}
        await timed(measured, self._client.post("/v1/suggest", json=asked), lambda response: response.json())

    async def export(self, measured: Measured) -> None:
        """Ask for the file in full size."""
        asked = {"photo": self._photo["id"], "clicks": self.clicks, "format": "jpeg"}
        await timed(measured, self._client.post("/v1/export", json=asked), decode)


async def timed(
    measured: Measured, request: Awaitable[httpx.Response], decoded: Callable[[httpx.Response], object]
) -> None:
    """Count an answer, and its time until it is decoded."""
    started = time.perf_counter()
    try:
        response = await request
    except httpx.HTTPError:
        measured.statuses.append(0)
        return
    measured.statuses.append(response.status_code)
    if response.status_code == 200:
        decoded(response)
        measured.seconds.append(time.perf_counter() - started)


def decode(response: httpx.Response) -> Image.Image:
    """The picture of an answer, as a browser would decode it."""
    picture = Image.open(io.BytesIO(response.content))
    picture.load()
    return picture


async def send(client: httpx.AsyncClient, content: bytes) -> dict[str, Any]:
    """Send a photo; what the service knows of it."""
    answer = await client.post("/v1/photos", files={"file": ("photo.jpg", content)})
    answer.raise_for_status()
    return answer.json()


async def check(client: httpx.AsyncClient, content: bytes, photo: dict[str, Any]) -> None:
    """Refuse to time a service that answers wrong pictures.

    Raises:
        RuntimeError: says what is wrong.
    """
    person = Person(client, photo, seed=0)
    person.click()
    asked = {"photo": photo["id"], "clicks": person.clicks, "preview": PREVIEW, "format": "png"}
    answers = [await client.post("/v1/colorize", json=asked) for _ in range(2)]
    if [answer.status_code for answer in answers] != [200, 200] or answers[0].content != answers[1].content:
        raise RuntimeError(f"the same request has two answers: {[answer.status_code for answer in answers]}")
    picture = decode(answers[0]).convert("RGB")
    with Image.open(io.BytesIO(content)) as original:
        expected = original.convert("RGB").resize(picture.size, Image.Resampling.BOX)
    if max(picture.size) != PREVIEW:
        raise RuntimeError(f"the preview has {picture.size} pixels, not a long side of {PREVIEW}")
    found, wanted = (rgb2lab(np.asarray(one))[..., 0] for one in (picture, expected))
    if not abs(found - wanted).mean() < 4:  # colours outside of sRGB move the lightness a little
        raise RuntimeError(f"the preview's lightness is off by {abs(found - wanted).mean():.1f} of 100")


async def alone(client: httpx.AsyncClient, photo: dict[str, Any], clicks: int) -> list[Measured]:
    """One person: every click is followed by a preview; every tenth one asks for suggestions too."""
    previews, suggestions = Measured("one person: click to preview"), Measured("one person: suggestions")
    person = Person(client, photo, seed=1)
    for number in range(clicks):
        person.click()
        await _lasting(previews, person.preview(previews))
        if number % 10 == 0:
            await _lasting(suggestions, person.suggestions(suggestions))
    return [previews, suggestions]


async def together(client: httpx.AsyncClient, photo: dict[str, Any], people: int, clicks: int) -> Measured:
    """Many people, each of whom clicks again as soon as the preview is there."""
    previews = Measured(f"{people} people at once: click to preview")

    async def play(seed: int) -> None:
        person = Person(client, photo, seed)
        for _ in range(clicks):
            person.click()
            await person.preview(previews)

    await _lasting(previews, asyncio.gather(*[play(100 + number) for number in range(people)]))
    return previews


async def flood(client: httpx.AsyncClient, photo: dict[str, Any], requests: int) -> Measured:
    """More requests at the same moment than the service can hold."""
    previews = Measured(f"{requests} requests at once")
    people = [Person(client, photo, 10_000 + number) for number in range(requests)]
    for person in people:
        person.click()
    await _lasting(previews, asyncio.gather(*[person.preview(previews) for person in people]))
    return previews


async def _lasting(measured: Measured, work: Awaitable[object]) -> None:
    started = time.perf_counter()
    await work
    measured.lasted += time.perf_counter() - started


async def measure(
    arguments: Arguments, server: Server, content: bytes
) -> tuple[list[dict[str, object]], list[Goal]]:
    """Check, then all phases."""
    async with _client(server) as client:
        photo = await send(client, content)
        await check(client, content, photo)
        await alone(client, photo, 3)  # warm: connections, caches
        single, suggestions = await alone(client, photo, arguments.clicks)
        rows = [single.row(server), suggestions.row(server)]
        many = await together(client, photo, arguments.people, arguments.clicks_each)
        rows.append(many.row(server))
        flooded = await flood(client, photo, arguments.flood)
        rows.append(flooded.row(server))
    neither = float(len(flooded.statuses) - flooded.statuses.count(200) - flooded.statuses.count(429))
    goals = [
        at_most("one person, p50 ms, at most", 100, single.milliseconds(50)),
        at_most("one person, p95 ms, at most", 200, single.milliseconds(95)),
        at_most("one person, requests lost, at most", 0, float(single.lost)),
        at_most(f"{arguments.people} people, p95 ms, at most", 2000, many.milliseconds(95)),
        at_most(f"{arguments.people} people, requests lost, at most", 0, float(many.lost)),
        at_least("flood, requests refused with 429, at least", 1, float(flooded.statuses.count(429))),
        at_most("flood, other answers than 200 and 429, at most", 0, neither),
        at_most("flood, p99 ms of those answered, at most", 12_000, flooded.milliseconds(99)),
    ]
    return rows, goals


async def soak(arguments: Arguments, server: Server, content: bytes) -> tuple[list[dict[str, object]], list[Goal]]:
    """People with pauses, new photos and exports; the server's memory over time, printed as it goes.

    Ctrl-C ends it, and what was measured until then is the result.
    """
    minutes = float(arguments.soak[:-1]) * _MINUTES[arguments.soak[-1]]
    ends = time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    async with _client(server) as client:
        measured = Measured("")
        players = [
            asyncio.create_task(_use(client, content, seed, ends, measured))
            for seed in range(arguments.soak_people)
        ]
        try:
            for part in range(1, _PARTS + 1):
                await asyncio.sleep(60 * minutes / _PARTS)
                measured.what, measured.lasted = f"until {part * minutes / _PARTS:.1f} min", 60 * minutes / _PARTS
                rows.append(measured.row(server))
                print(_progress(rows[-1]), flush=True)
                measured.seconds.clear()
                measured.statuses.clear()
            await asyncio.gather(*players)
        except asyncio.CancelledError:  # Ctrl-C
            print(f"stopped after {len(rows)} of {_PARTS} parts", flush=True)
        finally:
            for player in players:
                player.cancel()
            await asyncio.gather(*players, return_exceptions=True)
    return rows, [at_most("growth of memory after the first third, MiB, at most", 50.0, _growth(rows))]


def _growth(rows: Sequence[dict[str, Any]]) -> float | None:
    """MiB after the first third, without files; None where there are too few parts to tell."""
    warm = [row["without files"] for row in rows[_PARTS // 3 :]]
    return float(np.mean(warm[-3:]) - np.mean(warm[:3])) if len(warm) >= 6 else None


def _progress(row: dict[str, Any]) -> str:
    p95 = "-" if row["p95 ms"] is None else f"{row['p95 ms']:.0f}"
    return (
        f"{row['what']}: {row['requests']} requests, {row['refused (429)']} refused, {row['lost']} lost, "
        f"p95 {p95} ms, {row['server MiB']:.0f} MiB, without files {row['without files']:.0f}"
    )


async def _use(client: httpx.AsyncClient, content: bytes, seed: int, ends: float, measured: Measured) -> None:
    """One person after the other: a photo of their own, some clicks, a file."""
    draw = random.Random(seed)
    while time.monotonic() < ends:
        person = Person(client, await send(client, _varied(content, draw.randrange(2**31))), draw.randrange(2**31))
        for _ in range(draw.randrange(5, 25)):
            if time.monotonic() > ends:
                return
            person.click()
            await person.preview(measured)
            if draw.random() < 0.3:
                await person.suggestions(measured)
            await asyncio.sleep(draw.uniform(0.1, 1.0))
        await person.export(measured)


def _varied(content: bytes, seed: int) -> bytes:
    """Another photo of the same size: bytes after a JPEG's end make another file of the same picture."""
    return content + seed.to_bytes(4, "little")


def _client(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)


def _photo(path: Path | None) -> bytes:
    if path is not None:
        return path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((1536, 1536)).save(file, "JPEG", quality=92)
    return file.getvalue()


def in_browser(server: Server, content: bytes, clicks: int) -> tuple[list[dict[str, object]], list[Goal]]:
    """One person on the page."""
    labels = (
        "in Chromium, one person: key to decoded preview",
        "in Chromium, one person: request to decoded preview",
    )
    started = time.perf_counter()
    times = click_times(server.url, content, clicks)
    lasted = time.perf_counter() - started
    both = [
        Measured(what, seconds, [200] * len(seconds), lasted) for what, seconds in zip(labels, times, strict=True)
    ]
    goals = [
        at_most("one person in Chromium, p50 ms, at most", 100, both[1].milliseconds(50)),
        at_most("one person in Chromium, p95 ms, at most", 200, both[1].milliseconds(95)),
    ]
    return [one.row(server) for one in both], goals


def _rows_and_goals(arguments: Arguments, server: Server) -> tuple[Sequence[dict[str, object]], list[Goal]]:
    content = _photo(arguments.photo)
    if arguments.soak:
        return asyncio.run(soak(arguments, server, content))
    rows, goals = asyncio.run(measure(arguments, server, content))
    if arguments.browser:
        shown, wanted = in_browser(server, content, arguments.clicks)
        rows, goals = [*rows, *shown], [*goals, *wanted]
    return rows, goals


def main(arguments: Arguments) -> int:
    """Start a server, play people, print; exit code 1 when its pictures are wrong, 2 without a browser."""
    if arguments.browser:
        try:
            chromium()  # before a minute of other things
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="bench-service-") as folder:
        colorizer, guide = arguments.colorizer, arguments.guide
        if not colorizer:
            colorizer, guide = map(str, make_networks(Path(folder)))
        flags = ["--colorizer", colorizer, "--guide", guide, "--threads", str(arguments.threads)]
        if arguments.runtimes:
            flags += ["--runtimes", *arguments.runtimes]
        try:
            with Server([*flags, "--store", f"{folder}/store", "--rate", "0"]) as server:
                rows, goals = _rows_and_goals(arguments, server)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not rows:
        print("error: stopped before anything was measured", file=sys.stderr)
        return 1
    name = arguments.colorizer or "an untrained colorizer of the small preset's size"
    report(f"the service with {name}, previews of {PREVIEW} px", rows, goals, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
