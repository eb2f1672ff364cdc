"""People who use the service over HTTP, and what they measure: played by `tests.benchmarks.evaluator.service`."""

import io
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from tests.benchmarks.evaluator.service_process import Server

PREVIEW = 512
"""Pixels of a preview's long side."""
_MIB = 2**20
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


async def lasting(measured: Measured, work: Awaitable[object]) -> None:
    """Add the time that some requests take, however many at once."""
    started = time.perf_counter()
    await work
    measured.lasted += time.perf_counter() - started


def client_of(server: Server) -> httpx.AsyncClient:
    """For so many people at once that the server has to say no."""
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)
