"""What a person waits for: click to new preview, alone, among 16 people, and when there are too many.

    python -m tests.benchmarks service [--colorizer NAME --guide NAME] [--browser] [--soak 30m] [--json FILE]

Goals are those of a split colorizer where it is one, else a U-Net's.
The server is its own process, as `python -m evaluator serve` starts it; this process plays the people, over HTTP.
A time runs from the request to the picture that Pillow decoded.
"""

import asyncio
import io
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import skimage
import tyro
from PIL import Image

from evaluator import weights
from tests.benchmarks.evaluator.networks import make_networks
from tests.benchmarks.evaluator.service_browser import chromium, click_times
from tests.benchmarks.evaluator.service_process import Server
from tests.benchmarks.evaluator.service_users import (
    PREVIEW,
    Measured,
    Person,
    check,
    client_of,
    lasting,
    send,
    soak,
)
from tests.benchmarks.harness import Goal, Refused, at_least, at_most, report


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Milliseconds that a person may wait at 256 px, the preview's whole way over HTTP."""

    p50: float
    p95: float
    first: float
    """Of a new photo's first preview."""
    people: float
    """p95 of many people at once."""
    browser_p50: float
    browser_p95: float


_SPLIT = _Limits(p50=40.0, p95=80.0, first=150.0, people=500.0, browser_p50=90.0, browser_p95=200.0)
_WHOLE = _Limits(p50=100.0, p95=200.0, first=200.0, people=2000.0, browser_p50=100.0, browser_p95=200.0)
_MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the service."""

    colorizer: str = ""
    """What `evaluator.registry.mlflow_registry.load` takes: shipped, a models:/ URI, a folder; default: shipped
    where the package has networks, else an untrained U-Net of the `small` preset's size."""
    guide: str = ""
    """As --colorizer; give both or none."""
    photo: Path | None = None
    """Default: scikit-image's astronaut, 1536 x 1536 px."""
    clicks: int = 60
    """Of the person who is alone."""
    new_photos: int = 9
    """Photos whose first coloring is timed."""
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
    """As the server's, whose default it is. With both, the measurement begins once the networks have settled."""
    json: Path | None = None
    """Also write the report to this file."""

    def __post_init__(self) -> None:
        if bool(self.colorizer) != bool(self.guide):
            raise ValueError("give both --colorizer and --guide, or none of them")
        if self.browser and self.soak:
            raise ValueError("--browser has no effect on a soak; give one of --browser and --soak")
        if self.soak and not re.fullmatch(r"\d+(\.\d+)?[smh]", self.soak):
            raise ValueError(f"--soak is {self.soak!r}; write a number and s, m or h, such as 30m")

    @property
    def soak_minutes(self) -> float:
        """What --soak says."""
        return float(self.soak[:-1]) * _MINUTES[self.soak[-1]]


async def alone(client: httpx.AsyncClient, photo: dict[str, Any], clicks: int) -> list[Measured]:
    """One person: every click is followed by a preview; every tenth one asks for suggestions too."""
    previews, suggestions = Measured("one person: click to preview"), Measured("one person: suggestions")
    person = Person(client, photo, seed=1)
    for number in range(clicks):
        person.click()
        await lasting(previews, person.preview(previews))
        if number % 10 == 0:
            await lasting(suggestions, person.suggestions(suggestions))
    return [previews, suggestions]


async def first_colorings(client: httpx.AsyncClient, content: bytes, photos: int) -> Measured:
    """The first preview of photos that the service has not colored yet."""
    previews = Measured("a new photo: first preview")
    for number in range(photos):
        person = Person(client, await send(client, _variant(content, number)), seed=number)
        await lasting(previews, person.preview(previews))
    return previews


def _variant(content: bytes, number: int) -> bytes:
    """Another photo of the same size: turned, and a little darker."""
    with Image.open(io.BytesIO(content)) as image:
        turned = image.convert("RGB").rotate(90 * (number % 4))
    file = io.BytesIO()
    darker = [value * (100 - number) // 100 for value in range(256)]
    turned.point(3 * darker).save(file, "JPEG", quality=92)
    return file.getvalue()


async def together(client: httpx.AsyncClient, photo: dict[str, Any], people: int, clicks: int) -> Measured:
    """Many people, each of whom clicks again as soon as the preview is there."""
    previews = Measured(f"{people} people at once: click to preview")

    async def play(seed: int) -> None:
        person = Person(client, photo, seed)
        for _ in range(clicks):
            person.click()
            await person.preview(previews)

    await lasting(previews, asyncio.gather(*[play(100 + number) for number in range(people)]))
    return previews


async def flood(client: httpx.AsyncClient, photo: dict[str, Any], requests: int) -> Measured:
    """More requests at the same moment than the service can hold."""
    previews = Measured(f"{requests} requests at once")
    people = [Person(client, photo, 10_000 + number) for number in range(requests)]
    for person in people:
        person.click()
    await lasting(previews, asyncio.gather(*[person.preview(previews) for person in people]))
    return previews


async def settled(client: httpx.AsyncClient, seconds: float = 900.0) -> None:
    """Wait until ONNX Runtime has taken over, or cannot.

    Raises:
        RuntimeError: it did not within so many seconds.
    """
    late = time.monotonic() + seconds
    while time.monotonic() < late:
        models = (await client.get("/v1/models")).json().values()
        if all(about["runtime"] == "onnxruntime" or about["skipped"] for about in models):
            return
        await asyncio.sleep(0.5)
    raise RuntimeError(f"ONNX Runtime did not take over within {seconds:g} s")


async def measure(
    arguments: Arguments, server: Server, content: bytes
) -> tuple[list[dict[str, object]], list[Goal]]:
    """Check, then all phases."""
    async with client_of(server) as client:
        if set(arguments.runtimes) != {"torch"}:
            await settled(client)
        photo = await send(client, content)
        await check(client, content, photo)
        await alone(client, photo, 3)  # warm: connections, caches
        single, suggestions = await alone(client, photo, arguments.clicks)
        first = await first_colorings(client, content, arguments.new_photos)
        is_split = bool((await client.get("/v1/models")).json()["colorizer"].get("split"))
        rows = [single.row(server), suggestions.row(server), first.row(server)]
        many = await together(client, photo, arguments.people, arguments.clicks_each)
        rows.append(many.row(server))
        flooded = await flood(client, photo, arguments.flood)
        rows.append(flooded.row(server))
    neither = float(len(flooded.statuses) - flooded.statuses.count(200) - flooded.statuses.count(429))
    limits = _SPLIT if is_split else _WHOLE
    goals = [
        at_most("one person, p50 ms, at most", limits.p50, single.milliseconds(50)),
        at_most("one person, p95 ms, at most", limits.p95, single.milliseconds(95)),
        at_most("a new photo, p50 ms, at most", limits.first, first.milliseconds(50)),
        at_most("one person, requests lost, at most", 0, float(single.lost)),
        at_most(f"{arguments.people} people, p95 ms, at most", limits.people, many.milliseconds(95)),
        at_most(f"{arguments.people} people, requests lost, at most", 0, float(many.lost)),
        at_least("flood, requests refused with 429, at least", 1, float(flooded.statuses.count(429))),
        at_most("flood, other answers than 200 and 429, at most", 0, neither),
        at_most("flood, p99 ms of those answered, at most", 12_000, flooded.milliseconds(99)),
    ]
    return rows, goals


def _photo(path: Path | None) -> bytes:
    if path is not None:
        return path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((1536, 1536)).save(file, "JPEG", quality=92)
    return file.getvalue()


def in_browser(server: Server, content: bytes, clicks: int) -> tuple[list[dict[str, object]], list[Goal]]:
    """One person on the page."""
    labels = (
        "in Chromium, one person: pointer to painted preview",
        "in Chromium, one person: request to decoded preview",
    )
    started = time.perf_counter()
    times = click_times(server.url, content, clicks)
    lasted = time.perf_counter() - started
    both = [
        Measured(what, seconds, [200] * len(seconds), lasted) for what, seconds in zip(labels, times, strict=True)
    ]
    is_split = bool(httpx.get(f"{server.url}/v1/models").json()["colorizer"].get("split"))
    limits = _SPLIT if is_split else _WHOLE
    goals = [
        at_most("one person in Chromium, p50 ms, at most", limits.browser_p50, both[0].milliseconds(50)),
        at_most("one person in Chromium, p95 ms, at most", limits.browser_p95, both[0].milliseconds(95)),
    ]
    return [one.row(server) for one in both], goals


def _rows_and_goals(arguments: Arguments, server: Server) -> tuple[Sequence[dict[str, object]], list[Goal]]:
    content = _photo(arguments.photo)
    if arguments.soak:
        return asyncio.run(soak(arguments.soak_minutes, arguments.soak_people, server, content))
    rows, goals = asyncio.run(measure(arguments, server, content))
    if arguments.browser:
        shown, wanted = in_browser(server, content, arguments.clicks)
        rows, goals = [*rows, *shown], [*goals, *wanted]
    return rows, goals


def main(args: Sequence[str]) -> int:
    """Start a server, play people, print."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks service", args=args)
    if arguments.browser:
        chromium()  # before a minute of other things
    with tempfile.TemporaryDirectory(prefix="bench-service-") as folder:
        colorizer, guide = arguments.colorizer, arguments.guide
        if not colorizer and weights.available():
            colorizer = guide = weights.SHIPPED
        name = colorizer or "an untrained colorizer of the small preset's size"
        if not colorizer:
            colorizer, guide = map(str, make_networks(Path(folder)))
        flags = ["--colorizer", colorizer, "--guide", guide, "--threads", str(arguments.threads)]
        if arguments.runtimes:
            flags += ["--runtimes", *arguments.runtimes]
        with Server([*flags, "--store", f"{folder}/store", "--rate", "0"]) as server:
            rows, goals = _rows_and_goals(arguments, server)
    if not rows:
        raise Refused("stopped before anything was measured")
    load = os.getloadavg()[0]
    title = f"the service with {name}, previews of {PREVIEW} px, load of the last minute {load:.1f}"
    report(title, rows, goals, arguments.json)
    return 0
