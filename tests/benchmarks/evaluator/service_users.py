"""People who use the service over HTTP, for a click or for hours, and what they measure."""

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from tests.benchmarks.evaluator.service_process import Server
from tests.benchmarks.harness import Goal, Refused, at_most

PREVIEW = 512
"""Pixels of a preview's long side."""
_MIB = 2**20
_PARTS = 12
"""Of a soak: rows of its table."""
Clicks = list[dict[str, Any]]


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
            raise Refused(f"{self.what}: no request was answered: {self.statuses}")
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
        """One more click, anywhere, of any color."""
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
        Refused: it says what is wrong.
    """
    person = Person(client, photo, seed=0)
    person.click()
    asked = {"photo": photo["id"], "clicks": person.clicks, "preview": PREVIEW, "format": "png"}
    answers = [await client.post("/v1/colorize", json=asked) for _ in range(2)]
    if [answer.status_code for answer in answers] != [200, 200] or answers[0].content != answers[1].content:
        raise Refused(f"the same request has two answers: {[answer.status_code for answer in answers]}")
    picture = decode(answers[0]).convert("RGB")
    with Image.open(io.BytesIO(content)) as original:
        expected = original.convert("RGB").resize(picture.size, Image.Resampling.BOX)
    if max(picture.size) != PREVIEW:
        raise Refused(f"the preview has {picture.size} pixels, not a long side of {PREVIEW}")
    found, wanted = (rgb2lab(np.asarray(one))[..., 0] for one in (picture, expected))
    if not abs(found - wanted).mean() < 4:  # colors outside of sRGB move the lightness a little
        raise Refused(f"the preview's lightness is off by {abs(found - wanted).mean():.1f} of 100")


async def lasting(measured: Measured, work: Awaitable[object]) -> None:
    """Add the time that some requests take, however many at once."""
    started = time.perf_counter()
    await work
    measured.lasted += time.perf_counter() - started


def client_of(server: Server) -> httpx.AsyncClient:
    """For so many people at once that the server has to say no."""
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)


async def soak(
    minutes: float, people: int, server: Server, content: bytes
) -> tuple[list[dict[str, object]], list[Goal]]:
    """People with pauses, new photos and exports; the server's memory over time, printed as it goes.

    Ctrl-C ends it, and what was measured until then is the result.
    """
    ends = time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    async with client_of(server) as client:
        measured = Measured("")
        players = [
            asyncio.create_task(keep_using(client, content, seed, ends, measured)) for seed in range(people)
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


async def keep_using(
    client: httpx.AsyncClient, content: bytes, seed: int, ends: float, measured: Measured
) -> None:
    """One person after the other: a photo of their own, some clicks, a file."""
    draw = random.Random(seed)
    while time.monotonic() < ends:
        photo = await _sent(client, _varied(content, draw.randrange(2**31)), measured)
        if photo is None:
            await asyncio.sleep(draw.uniform(0.1, 1.0))
            continue
        person = Person(client, photo, draw.randrange(2**31))
        for _ in range(draw.randrange(5, 25)):
            if time.monotonic() > ends:
                return
            person.click()
            await person.preview(measured)
            if draw.random() < 0.3:
                await person.suggestions(measured)
            await asyncio.sleep(draw.uniform(0.1, 1.0))
        await person.export(measured)


async def _sent(client: httpx.AsyncClient, content: bytes, measured: Measured) -> dict[str, Any] | None:
    """What the service knows of the photo; None where it did not take it, which is counted."""
    try:
        return await send(client, content)
    except httpx.HTTPStatusError as error:
        measured.statuses.append(error.response.status_code)
    except httpx.HTTPError:
        measured.statuses.append(0)
    return None


def _varied(content: bytes, seed: int) -> bytes:
    """Another photo of the same size: bytes after a JPEG's end make another file of the same picture."""
    return content + seed.to_bytes(4, "little")
