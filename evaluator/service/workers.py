"""Threads for work that would hold up the event loop, with a bounded number of requests that wait for them."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from evaluator.service.errors import overloaded
from evaluator.system.threads import one_core_pool

Given = ParamSpec("Given")
Result = TypeVar("Result")


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

    async def run(self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Do `work` in a thread. If its request is cancelled before it began, it is never done.

        Raises:
            Problem: 429, as many wait as may, or the deadline went by before it began.
        """
        if not self._slots.acquire(blocking=False):
            raise overloaded(1.0, self._name)
        future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._slots.release())
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait([result], timeout=self._deadline)
            if not result.done() and future.cancel():
                raise overloaded(self._deadline, self._name)
            return await result
        finally:
            future.cancel()

    def close(self) -> None:
        """Drop what did not begin; wait for what did."""
        self._pool.shutdown(wait=True, cancel_futures=True)
