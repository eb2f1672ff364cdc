"""Hours of simulated use: whether the service's memory stays flat. Run by `service --soak`."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from tests.benchmarks.evaluator.service_process import Server
from tests.benchmarks.evaluator.service_users import Measured, Person, client_of, send
from tests.benchmarks.harness import Goal, at_most

_PARTS = 12
"""Of a soak: rows of its table."""


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
        players = [asyncio.create_task(_use(client, content, seed, ends, measured)) for seed in range(people)]
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
