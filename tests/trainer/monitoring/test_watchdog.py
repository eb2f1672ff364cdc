"""A job whose rank stops answering ends with that rank's name instead of hanging. With gloo: NCCL needs GPUs."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from trainer.monitoring.watchdog import EXIT_CODE, Report, Watchdog, judge

pytestmark = pytest.mark.launch

PROGRAM = Path(__file__).parents[1] / "small_training.py"


def report(*, tick: int = 9, marks: int = 4, where: str = "computing gradients", idle: float = 99.0) -> Report:
    return Report(host="node7", pid=42, tick=tick, marks=marks, where=where, idle=idle)


EARLIER = {rank: report(tick=1) for rank in range(3)}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        pytest.param(
            {0: report(), 1: report(tick=1, where="reading photos"), 2: report()},
            "rank 1 (process 42 on node7) does not answer any more, last heard of while reading photos; "
            "the other ranks wait",
            id="stopped or dead",
        ),
        pytest.param(
            {0: report(), 1: report(), 2: report(marks=3, where="reading photos")},
            "rank 2 (process 42 on node7) has for 60 s been reading photos; the other ranks wait",
            id="behind",
        ),
        pytest.param({0: report(), 1: report(), 2: report(marks=3, idle=5.0)}, "", id="slow, but it gets on"),
        pytest.param(
            {0: report(), 1: report()}, "rank 2 has not begun to train; the other ranks wait", id="never came"
        ),
        pytest.param(
            {0: report(), 1: report(), 2: report()},
            "no rank has got on for 60 s, and none is behind the others: all are computing gradients; "
            "the network between them may be down",
            id="all alike",
        ),
    ],
)
def test_it_names_who_keeps_the_job_waiting(now: dict[int, Report], said: str):
    assert judge(EARLIER, now, world_size=3, timeout=60.0) == said


def test_a_screen_is_enough_for_a_thousand_ranks():
    first = {rank: report(tick=1) for rank in range(1000)}
    now = first | {0: report()}
    said = judge(first, now, world_size=1000, timeout=60.0)
    assert said.count("rank ") == 8
    assert "991 more" in said


class SecondOfTwo:
    """A rank of a job; the other one is only pretended."""

    rank, world_size = 1, 2

    def share(self, value: str) -> str:
        return "job"


@pytest.fixture
def store_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the job's store until its input ends."""
    code = (
        "import sys\n"
        "from torch.distributed import TCPStore\n"
        "store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\n"
        "print(store.port, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", process.stdout.readline().strip())
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[int]:
    """Exit codes with which the watchdog would have ended this process."""
    codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(os, "_exit", codes.put)
    return codes


def test_a_rank_0_that_is_stopped_and_holds_the_store_is_named(
    store_process: subprocess.Popen[str], exits: queue.Queue[int], capfd: pytest.CaptureFixture[str]
):
    """torch waits for its store for ever, whatever its timeout."""
    port, patience = int(os.environ["MASTER_PORT"]), timedelta(seconds=60)
    store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=patience)
    with Watchdog(SecondOfTwo(), timeout=2.0) as dog:
        while not store.check(["watchdog/job/1"]):
            dog.beat()
        dog.beat()
        store_process.send_signal(signal.SIGSTOP)
        assert exits.get(timeout=30) == EXIT_CODE
    who = "error: rank 0 (127.0.0.1), which holds the store, does not answer any more (no answer within 3 s)"
    assert who in capfd.readouterr().err


def test_what_may_compile_gets_longer(
    exits: queue.Queue[int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The dog cannot reach its store, which ends a job after the timeout, and not before."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr("trainer.monitoring.watchdog.COMPILING_S", 2.0)
    dog = Watchdog(SecondOfTwo(), timeout=1.0)
    dog.compiling(True)
    with dog:
        assert exits.get(timeout=30) == EXIT_CODE
    assert "nor has training got on for 3 s" in capfd.readouterr().err


def test_no_error_ends_the_watching(
    exits: queue.Queue[int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MASTER_ADDR", raising=False)  # a KeyError
    with Watchdog(SecondOfTwo(), timeout=1.0):
        assert exits.get(timeout=30) == EXIT_CODE
    assert "which holds the store, does not answer any more ('MASTER_ADDR')" in capfd.readouterr().err


class Suspended(threading.Event):
    """An event that a process waits for on a machine that is suspended for an hour meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._now, self.waits = 0.0, 0
        monkeypatch.setattr(
            "trainer.monitoring.watchdog.time", SimpleNamespace(monotonic=lambda: self._now, sleep=print)
        )

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        self._now += 3600.0 if self.waits == 2 else timeout or 0.0
        return self.waits > 4


def test_a_job_whose_machines_were_suspended_goes_on(
    exits: queue.Queue[int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Slurm's suspend, Ctrl-Z, a frozen virtual machine: nobody stood still."""
    monkeypatch.setattr("trainer.monitoring.watchdog.within", lambda _, ask: ask())
    hour = Suspended(monkeypatch)
    dog = Watchdog(SecondOfTwo(), timeout=60.0)
    both = HashStore()
    both.set("0", json.dumps(asdict(report())))
    monkeypatch.setattr(dog, "_connect", lambda: both)
    monkeypatch.setattr(dog, "_closing", hour)
    dog._work()
    assert hour.waits == 5
    assert exits.empty(), capfd.readouterr().err


@pytest.mark.launch
@pytest.mark.parametrize(
    ("stopped", "said"),
    [
        pytest.param(1, "does not answer any more, last heard of while ", id="stopped by SIGSTOP"),
        pytest.param(0, "has for 8 s been reading photos; the other ranks wait", id="stuck in its loader"),
    ],
)
def test_a_job_ends_with_the_name_of_the_rank_that_hangs(tmp_path: Path, stopped: int, said: str):
    """Without a launcher, which would take 30 s to kill the stopped process."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    common = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    settings = ("engine.timeout=8", f"hang=[1, 2, {stopped}]")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), "0", *settings],
            env={**os.environ, **common, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        _, errors = ranks[0].communicate(timeout=300)
        assert ranks[0].returncode == EXIT_CODE, errors
        if not stopped:
            errors += ranks[1].communicate(timeout=60)[1]
            assert ranks[1].returncode == EXIT_CODE
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    who = f"error: rank 1 (process {ranks[1].pid} on {socket.gethostname()}) {said}"
    assert errors.count(who) == 1, errors
    assert "raise engine.timeout, now 8 s" in errors
    assert errors.count("\n") < 12
