"""Watchdog that ends a hanging job and names the rank that the others wait for.

A rank that is stopped, or stuck while it reads photos, leaves all others in a collective, with gloo and NCCL
alike; torch's own timeouts end them without saying who is missing. So each process has a thread that tells the
store of the process group, a few times per timeout, where the training is. A process that has not got on for the
whole timeout asks the store about the others, says who is missing, and ends; the launcher ends the rest.

Each rank passes the same marks in the same order, one before its own work and one before it waits for the others:
who has passed the fewest is the one that the others wait for, and who has stopped telling does not run at all.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from trainer.monitoring.metric_queue import brief, within

EXIT_CODE = 1
COMPILING_S = 1200.0
"""Seconds that are given beyond the timeout where networks are compiled; torch's own timeout is longer still."""
_MAX_NAMED = 8
_SECONDS_FOR_LAST_WORDS = 10.0

T = TypeVar("T")


@runtime_checkable
class Group(Protocol):
    """Collective operations that the watchdog needs of `trainer.engines.Cluster`."""

    rank: int
    world_size: int

    def share(self, value: str) -> str:
        """The main process's value, on every rank (broadcast)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """Heartbeat of a rank."""

    host: str
    pid: int
    tick: int
    """Goes up with every report: one that does not comes from a process that does not run."""
    marks: int
    """Marks passed."""
    where: str
    """The latest one, as in "has been reading photos"."""
    idle: float
    """Seconds since the last sign of progress."""


class Watchdog:
    """Watchdog thread, active while entered; without effect in a job of one process.

    Args:
        group: the job's processes; all of them make a watchdog at the same time.
        timeout: seconds without progress after which the job ends.
    """

    def __init__(self, group: Group, timeout: float) -> None:
        self.last_words: Callable[[], str] = str
        """Called before the end, with 10 s to do so; what it returns is printed."""
        self._rank, self._world_size, self._timeout = group.rank, group.world_size, timeout
        self._token = group.share(uuid.uuid4().hex) if group.world_size > 1 else ""
        self._interval = min(5.0, timeout / 20)
        self._store_patience = max(3.0, 2 * self._interval)
        self._where, self._marks, self._ticks = "starting", 0, 0
        self._compiling = False
        self._moved = time.monotonic()
        self._begun, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def mark(self, where: str) -> None:
        """Mark the start of an activity; every rank passes the same marks."""
        self._where, self._marks = where, self._marks + 1
        self.beat()

    def beat(self) -> None:
        """Report progress within the current activity."""
        self._moved = time.monotonic()

    def compiling(self, begins: bool) -> None:
        """Allow `COMPILING_S` more without progress while something may compile; or end that allowance."""
        self.beat()  # first: what it took must not be held against the shorter time
        self._compiling = begins

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self._world_size > 1:
            self._begun.clear()
            self._closing.clear()
            self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)
            self._thread.start()
            self._begun.wait(self._store_patience)  # who stops in the first step has been heard of
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        if self._thread:
            self._thread.join(self._store_patience)  # it may wait for a store that is gone
            self._thread = None

    def _work(self) -> None:
        store: Store | None = None
        first: dict[int, Report] = {}  # of each rank, since this one has not got on for half of the timeout
        while not self._is_over():
            timeout = self._timeout + (COMPILING_S if self._compiling else 0.0)  # read before the idle time
            idle = time.monotonic() - self._moved
            try:
                store = self._answered(partial(self._tell, store, idle))
                if idle < timeout / 2:
                    first.clear()
                    continue
                reports = self._answered(partial(self._read, store))
                looked_before = bool(first)
                first = {**reports, **first}
                is_late = idle >= timeout and looked_before
                verdict = judge(first, reports, self._world_size, timeout) if is_late else ""
                says_it = bool(verdict) and self._answered(partial(self._is_first_to_say, store))
            except Exception as error:  # whatever it is, the watching goes on
                store, says_it = None, True
                idle = time.monotonic() - self._moved
                verdict = f"{_no_answer(error)} for {timeout:g} s" if idle >= timeout else ""
            finally:
                self._begun.set()
            if verdict and not self._closing.is_set():
                self._end(verdict, says_it=says_it)

    def _is_over(self) -> bool:
        """Sleep until the next check; the time for which the process was suspended does not count as hanging."""
        begun = time.monotonic()
        is_over = self._closing.wait(self._interval if self._begun.is_set() else 0)
        if time.monotonic() - begun > self._timeout / 2:
            self.beat()
        return is_over

    def _answered(self, ask: Callable[[], T]) -> T:
        """Value from the store, with a timeout: torch waits forever on a store whose process is stopped.

        Raises:
            TimeoutError: it does not answer.
        """
        return within(self._store_patience, ask)

    def _tell(self, store: Store | None, idle: float) -> Store:
        """Publish this rank's report, connecting first where necessary."""
        store = store or self._connect()
        store.set(str(self._rank), json.dumps(asdict(self._report(idle))))
        return store

    def _is_first_to_say(self, store: Store) -> bool:
        """Whether this rank is the first to report why the job ends."""
        return store.compare_set("sayer", "", str(self._rank)) == str(self._rank).encode()

    def _connect(self) -> Store:
        """Separate connection to the store: the process group's own may be blocked."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=self._store_patience)
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=patience)
        return PrefixStore(f"watchdog/{self._token}", store)

    def _report(self, idle: float) -> Report:
        self._ticks += 1
        return Report(
            host=socket.gethostname(),
            pid=os.getpid(),
            tick=self._ticks,
            marks=self._marks,
            where=self._where,
            idle=idle,
        )

    def _read(self, store: Store) -> dict[int, Report]:
        keys = [str(rank) for rank in range(self._world_size)]
        there = [key for key in keys if store.check([key])]
        return {
            int(key): Report(**json.loads(text)) for key, text in zip(there, store.multi_get(there), strict=True)
        }

    def _end(self, verdict: str, *, says_it: bool) -> None:
        """Kill this process at once: its main thread is blocked in a collective and cannot be interrupted."""
        with suppress(Exception):  # nothing may keep it from ending
            if says_it:
                print(
                    f"error: {verdict}; so the job ends.\n"
                    f"Look at that machine (its log, its memory, the storage that the photos come from), or raise "
                    f"engine.timeout, now {self._timeout:g} s.",
                    file=sys.stderr,
                    flush=True,
                )
        with suppress(Exception):
            if said := within(_SECONDS_FOR_LAST_WORDS, self.last_words):
                print(said, file=sys.stderr, flush=True)
        if says_it:  # this process may hold the store, in which the others see that all is said
            time.sleep(2 * self._interval)
        os._exit(EXIT_CODE)


def judge(first: Mapping[int, Report], now: Mapping[int, Report], world_size: int, timeout: float) -> str:
    """Diagnosis of a hanging job, naming ranks; empty while any of them may still make progress.

    Args:
        first: reports of some while ago, by rank.
        now: the latest ones.
        world_size: ranks in the job.
        timeout: seconds without progress after which a rank is stuck.
    """
    absent = [rank for rank in range(world_size) if rank not in now]
    if absent:
        return _waits("; ".join(f"rank {rank} has not begun to train" for rank in absent[:_MAX_NAMED]))
    silent = {rank: report for rank, report in now.items() if report.tick == first[rank].tick}
    if silent:
        return _waits(_named(silent, "does not answer any more, last heard of while"))
    fewest = min(report.marks for report in now.values())
    behind = {rank: report for rank, report in now.items() if report.marks == fewest}
    if any(report.idle < timeout for report in behind.values()):
        return ""
    if len(behind) < world_size:
        return _waits(_named(behind, f"has for {timeout:g} s been"))
    return (
        f"no rank has got on for {timeout:g} s, and none is behind the others: all are {now[0].where}; "
        "the network between them may be down"
    )


def _named(reports: Mapping[int, Report], how: str) -> str:
    named = [
        f"rank {rank} (process {report.pid} on {report.host}) {how} {report.where}"
        for rank, report in reports.items()
    ]
    more = [f"{len(named) - _MAX_NAMED} more"] if len(named) > _MAX_NAMED else []
    return "; ".join([*named[:_MAX_NAMED], *more])


def _waits(who: str) -> str:
    return f"{who}; the other ranks wait"


def _no_answer(error: Exception) -> str:
    """Diagnosis where the store does not answer; its process may also have ended with a message of its own."""
    launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    who = f"{'the launcher of rank 0' if launcher else 'rank 0'} ({os.environ.get('MASTER_ADDR')})"
    why = brief(error) or type(error).__name__
    return f"{who}, which holds the store, does not answer any more ({why}), nor has training got on"
