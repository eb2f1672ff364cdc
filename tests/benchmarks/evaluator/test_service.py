"""The benchmark of the service: a run of each kind, a soak that is stopped, and memory as it is counted."""

import asyncio
import importlib.util
import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from tests.benchmarks.__main__ import main
from tests.benchmarks.evaluator import service, service_browser, service_users
from tests.benchmarks.evaluator.networks import make_networks
from tests.benchmarks.evaluator.service_browser import click_times
from tests.benchmarks.evaluator.service_process import Server, memory_of
from tests.benchmarks.evaluator.service_users import Measured, soak
from tests.evaluator.service.page import running
from tests.evaluator.service.page.conftest import CHROMIUM

QUICK = ["--clicks=2", "--new-photos=1", "--people=2", "--clicks-each=1", "--flood=8", "--threads=1"]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal; a process of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def networks(tmp_path: Path) -> list[str]:
    """Options that name a small colorizer and guide."""
    colorizer, guide = make_networks(tmp_path, (4, 6, 8), (4, 6, 8))
    return [f"--colorizer={colorizer}", f"--guide={guide}", "--runtimes", "torch"]


@pytest.mark.slow
def test_people_alone_and_together_are_timed(networks: list[str], report_of: Callable):
    content = report_of("service", *QUICK, *networks)
    assert [row["requests"] for row in content["rows"]] == [2, 1, 1, 2, 8]
    assert all(row["p50 ms"] > 0 < row["server MiB"] for row in content["rows"][:4])
    lost = [goal for goal in content["goals"] if "lost" in goal["name"]]
    assert [goal["met"] for goal in lost] == [True, True]


@pytest.mark.slow
def test_a_service_with_wrong_pictures_is_not_timed(
    networks: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = service_users.decode
    monkeypatch.setattr(service_users, "decode", lambda answer: ImageOps.invert(right(answer).convert("RGB")))
    assert main(["service", *QUICK, *networks]) == 1
    assert "the preview's lightness is off by" in capsys.readouterr().err


@pytest.fixture
def players(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """People who get one answer and then think forever; those who were sent away."""
    gone: list[int] = []

    async def keep_using(client: object, content: bytes, seed: int, ends: float, measured: Measured) -> None:
        measured.seconds.append(0.1)
        measured.statuses.append(200)
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(seed)

    monkeypatch.setattr(service_users, "keep_using", keep_using)
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
    """A soak of 0.12 s whose server grows by 10 MiB at each part, and is stopped by Ctrl-C at one."""
    return asyncio.run(soak(0.002, 2, Growing(stop_after), b""))


def test_a_soak_that_is_stopped_has_its_result_so_far(players: list[int], capsys: pytest.CaptureFixture[str]):
    rows, (goal,) = soaked(stop_after=3)
    assert [row["server MiB"] for row in rows] == [500] * 3
    assert [row["without files"] for row in rows] == [10, 20, 30]
    assert [row["requests"] for row in rows] == [2, 0, 0]
    assert rows[1]["p95 ms"] is None
    assert (goal.measured, goal.met) == (None, None)
    assert "stopped after 3 of 12 parts" in capsys.readouterr().out
    assert sorted(players) == [0, 1]


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
    assert main(["service", "--browser"]) == 2
    expected = "pip install playwright" if missing == "playwright" else "no-such-browser are not here; apt install"
    assert expected in capsys.readouterr().err


@pytest.mark.browser
def test_each_click_on_the_page_has_its_time_from_pointer_and_from_request(jpeg: Callable[..., bytes]):
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not here; Debian's package chromium has it")
    server = running.Server()
    server.start()
    try:
        gesture, request = click_times(server.url, jpeg(0, 300, 200), clicks=3, warmup=1)
    finally:
        server.kill()
    assert len(gesture) == len(request) == 3
    assert all(0 < sent <= whole for whole, sent in zip(gesture, request, strict=True))
