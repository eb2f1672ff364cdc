"""Threads: how many a process takes, how photos are shared out among them, and work off an event loop."""

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from evaluator.system.environment import usable_cores

T = TypeVar("T")
Done = TypeVar("Done")
Given = ParamSpec("Given")
UNAWAITED = "unawaited "
"""What the names of threads begin with that nobody waits for; see `end_without_unawaited`."""
_START_SECONDS = 60.0
"""For a pool's threads to begin."""


def use_threads(threads: int) -> int:
    """Set this process's CPU threads; 0 takes the cores divided by the processes on this machine.

    `accelerate launch` sets OMP_NUM_THREADS=1 for CPU processes, which would leave the other cores idle.
    """
    if threads == 0:
        threads = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    return threads


def each_on_one_core(work: Callable[[T], Done], items: Iterable[T]) -> list[Done]:
    """Call `work` for every item, each on one core, and on all of this process's cores at the same time.

    Numbers that are computed so do not depend on the number of threads: libraries split sums and choose algorithms
    by it, and by the batch. Photo by photo it is also quicker than threads inside every operation, which have to
    wait for each other some hundred times per coloring.

    Args:
        work: called in several threads, without gradients.
        items: what for.

    Returns:
        The results in the items' order. The first exception is raised, and the items that wait are dropped.
    """
    threads = torch.get_num_threads()
    alone = torch.no_grad()(work)
    if threads == 1:
        return [alone(item) for item in items]
    pool = ThreadPoolExecutor(threads, "one-core", initializer=partial(torch.set_num_threads, 1))
    try:
        return list(pool.map(alone, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # MKL has one number for all threads


def one_core_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Threads that compute on one core each, while every other thread of this process keeps its number.

    All of them exist when this returns: torch gives a new thread the number that was set last, by any thread.

    Args:
        threads: how many.
        name: what their names begin with.

    Raises:
        BrokenBarrierError: they did not all begin within a minute.
    """
    others = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, name, initializer=_compute_on_one_core)
    started = threading.Barrier(threads + 1, timeout=_START_SECONDS)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(others)
    return pool


def _compute_on_one_core() -> None:
    torch.get_num_threads()  # a thread takes the common number when it first asks, which would undo the next line
    torch.set_num_threads(1)


async def in_daemon_thread(work: Callable[Given, Done], *args: Given.args, **kwargs: Given.kwargs) -> Done:
    """The result of `work` in a thread that neither the loop's end nor the process's end waits for.

    For `asyncio.to_thread` both wait, without bound. A call that is cancelled leaves its thread alone; a
    program that may end then calls `end_without_unawaited`.
    """
    future: Future[Done] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            found = work(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    name = f"{UNAWAITED}{getattr(work, '__name__', 'work')}"
    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


def end_without_unawaited(code: int) -> None:
    """End this process at once if an unawaited thread still works; else do nothing.

    Python's own end stops such a thread wherever it is, which in the middle of torch's C++ aborts the process.
    """
    if not any(thread.name.startswith(UNAWAITED) for thread in threading.enumerate()):
        return
    atexit._run_exitfuncs()  # temporary folders go, and logs are written
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


class Overloaded(Exception):
    """As many requests wait as may, or one waited too long."""

    def __init__(self, what: str, retry_after: float, why: str) -> None:
        super().__init__(f"{what}: {why}; try again in {retry_after:.1f} s")
        self.what = what
        """What the requests wait for."""
        self.retry_after = retry_after
        """Seconds until it is worth trying again."""


class Workers:
    """A few threads; a request that finds too many before it, or waits too long, is told to come back."""

    def __init__(
        self, name: str, threads: int, most_waiting: int, deadline: float, one_core: bool = False
    ) -> None:
        """Make the threads.

        Args:
            name: for answers to those who have to come back.
            threads: how many.
            most_waiting: requests that wait for them.
            deadline: seconds that one waits at most.
            one_core: whether each computes on one core, as work of a few milliseconds should: several of torch's
                threads would wait for each other longer than that, where they share the cores with the networks.
        """
        self._name, self._deadline = name, deadline
        self._pool = one_core_pool(threads, name) if one_core else ThreadPoolExecutor(threads, name)
        self._slots = threading.BoundedSemaphore(threads + most_waiting)

    async def run(self, work: Callable[Given, Done], *args: Given.args, **kwargs: Given.kwargs) -> Done:
        """Do `work` in a thread. If its request is cancelled before it began, it is never done.

        Raises:
            Overloaded: as many wait as may, or the deadline went by before it began.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded(self._name, 1.0, "as many requests wait as may")
        future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._slots.release())
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait([result], timeout=self._deadline)
            if not result.done() and future.cancel():
                raise Overloaded(self._name, self._deadline, f"no turn within {self._deadline:g} s")
            return await result
        finally:
            future.cancel()

    def close(self) -> None:
        """Drop what did not begin; wait for what did."""
        self._pool.shutdown(wait=True, cancel_futures=True)
