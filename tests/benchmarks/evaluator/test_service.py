"""The benchmark of the service: a soak that is watched and stopped, and what it needs for the page."""

import asyncio
import importlib.util
import itertools
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.benchmarks.evaluator import service, service_browser, service_soak
from tests.benchmarks.evaluator.service import Arguments, main
from tests.benchmarks.evaluator.service_process import Server, memory_of
from tests.benchmarks.evaluator.service_soak import soak
from tests.benchmarks.evaluator.service_users import Measured


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal; a process of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def players(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """People who get one answer and then think forever; those who were sent away."""
    gone: list[int] = []

    async def use(client: object, content: bytes, seed: int, ends: float, measured: Measured) -> None:
        measured.seconds.append(0.1)
        measured.statuses.append(200)
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(seed)

    monkeypatch.setattr(service_soak, "_use", use)
    return gone


class Growing(Server):
    def __init__(self, stop_after: int) -> None:
        super().__init__([])
        self.parts, self.stop_after = itertools.count(1), stop_after

    def memory(self) -> int:
        return 500 * 2**20

    def own_memory(self) -> int:
        part = next(self.parts)
        if part == self.stop_after:
            signal.raise_signal(signal.SIGINT)
        return part * 10 * 2**20


def soaked(stop_after: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """A soak whose server grows by 10 MiB at each part, and is stopped by Ctrl-C at one."""
    return asyncio.run(soak(Arguments(soak="0.12s").soak_minutes, 2, Growing(stop_after), b""))


def test_a_soak_that_is_stopped_has_its_result_so_far(players: list[int], capsys: pytest.CaptureFixture[str]):
    rows, (goal,) = soaked(stop_after=3)
    assert [row["server MiB"] for row in rows] == [500] * 3
    assert [row["without files"] for row in rows] == [10, 20, 30]
    assert [row["requests"] for row in rows] == [2, 0, 0]
    assert rows[1]["p95 ms"] is None
    assert (goal.measured, goal.met) == (None, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "until 0.0 min: 2 requests, 0 refused, 0 lost, p95 100 ms, 500 MiB, without files 10"
    assert lines[-1] == "stopped after 3 of 12 parts"
    assert len(lines) == 4
    assert sorted(players) == [0, 1]


def test_a_photo_that_is_not_taken_costs_a_person_and_not_the_soak():
    class Enough(Exception):
        pass

    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) == 1:
            return httpx.Response(429)
        if len(asked) == 2:
            raise httpx.ReadTimeout("late")
        if request.url.path == "/v1/photos":
            return httpx.Response(200, json={"id": "a", "height": 2, "width": 2})
        raise Enough

    async def story() -> Measured:
        measured = Measured("")
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service") as client:
            with pytest.raises(Enough):
                await service_soak._use(client, b"", 0, math.inf, measured)
        return measured

    assert asyncio.run(story()).statuses == [429, 0]
    assert asked == 3 * ["/v1/photos"] + ["/v1/colorize"]


def test_growth_is_told_once_there_are_parts_enough(players: list[int]):
    rows, (goal,) = soaked(stop_after=10)
    assert len(rows) == 10
    assert (goal.measured, goal.met) == (30, True)  # mean of 80, 90, 100 less that of 50, 60, 70


MAPS_THEN_MAKES = """
import mmap, sys
path, size = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    def step(done):
        print(done, flush=True)
        sys.stdin.readline()
    step("ready")
    mapped[::mmap.PAGESIZE].count(b"x")
    step("mapped")
    made = bytearray(b"y") * size
    step("made")
"""


def test_memory_without_files_leaves_out_what_is_mapped_and_counts_what_is_made(tmp_path: Path):
    # A process of its own: this one may have memory to spare from other tests, and make 64 MiB out of that.
    size = 64 * 2**20
    file = tmp_path / "library"
    file.write_bytes(b"x" * size)
    command = [sys.executable, "-c", MAPS_THEN_MAKES, str(file), str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asked, told = process.stdin, process.stdout
        assert asked
        assert told

        def after(step: str) -> tuple[int, int]:
            assert told.readline() == f"{step}\n"
            # Where /tmp is in memory, its files are Pss_Shmem.
            measured = memory_of(process.pid), memory_of(process.pid, ("Pss_Anon",))
            asked.write("\n")
            asked.flush()
            return measured

        ready, mapped, made = after("ready"), after("mapped"), after("made")
    assert mapped[0] - ready[0] > 0.9 * size
    assert mapped[1] - ready[1] < 0.2 * size
    assert made[1] - mapped[1] > 0.9 * size


@pytest.mark.parametrize("missing", ["playwright", "chromium"])
def test_a_missing_browser_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
):
    there = object() if missing == "chromium" else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    monkeypatch.setattr(service_browser, "NAMES", ("no-such-browser",))
    monkeypatch.setattr(service, "Server", None)
    assert main(Arguments(browser=True)) == 2
    expected = "pip install playwright" if missing == "playwright" else "no-such-browser are not here; apt install"
    assert expected in capsys.readouterr().err


def test_a_soak_has_no_browser():
    with pytest.raises(ValueError, match="one of --browser and --soak"):
        Arguments(browser=True, soak="30m")
