"""Concurrent requests computed together: a queue in front of one thread that runs the networks."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from evaluator.system.threads import UNAWAITED, Overloaded

Answer = TypeVar("Answer")


@dataclass(eq=False)
class _UnderWay(Generic[Answer]):
    task: asyncio.Task[Answer]
    waiting: int = 0


class Shared(Generic[Answer]):
    """Answers by key while they are computed; nothing is kept afterwards."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _UnderWay[Answer]] = {}

    async def run(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer of the work under way for `key`, which is started where there is none.

        The work is cancelled when the last request that waits for it is.

        Raises:
            Exception: whatever the work raised, for each request.
        """
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _UnderWay(asyncio.create_task(start()))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting:
                work.task.cancel()
            if work.task.done() or not work.waiting:
                self._forget(key, work)

    def _forget(self, key: Hashable, work: _UnderWay[Answer]) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]


Run = Callable[..., Any]
"""Takes the inputs' batches, the photos along the first dimension, and gives one output for each photo."""

_WHAT = "the network"
_RECENT = 0.2
"""Weight of the latest batch in the average time of a request."""
_CLOSE_SECONDS = 30.0
"""Longest wait for the batch that is being computed when the service is stopped."""
_log = logging.getLogger("chromaclick")


class Closed(Overloaded):
    """The service is being stopped."""

    def __init__(self) -> None:
        super().__init__(_WHAT, 1.0, "the service is being stopped")


@dataclass(frozen=True, eq=False)
class _Request:
    run: Run
    inputs: tuple[Tensor, ...]
    most_batch: int
    future: Future[Any]

    def goes_with(self, other: "_Request") -> bool:
        """Whether both can be computed in one call."""
        return self.run is other.run and [x.shape[1:] for x in self.inputs] == [x.shape[1:] for x in other.inputs]


class Batcher:
    """One thread; what waits while it works is computed together where it has the same network and size.

    The oldest request is always in the next batch, so that no size or network starves.
    """

    def __init__(
        self,
        most_batch: int = 8,
        most_waiting: int = 32,
        wait_seconds: float = 0.0,
        deadline_seconds: float = 10.0,
    ) -> None:
        """Make a batcher; its thread starts with the first request.

        Args:
            most_batch: requests in a call, of a `run` that does not want less.
            most_waiting: requests that wait at once, those that are being computed not counted.
            wait_seconds: how long an incomplete batch waits for more requests. On a CPU, where a batch takes as
                long as its photos one after the other, waiting gains nothing.
            deadline_seconds: how long a request waits for its turn.

        Raises:
            ValueError: a number that cannot work.
        """
        for name, value in (("most_batch", most_batch), ("most_waiting", most_waiting)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1 request")
        if not (wait_seconds >= 0 and deadline_seconds > 0):
            raise ValueError(
                f"wait_seconds is {wait_seconds} and deadline_seconds is {deadline_seconds}; neither is negative, "
                "and a deadline is above 0"
            )
        self.most_batch, self.most_waiting = most_batch, most_waiting
        self.wait_seconds, self.deadline_seconds = wait_seconds, deadline_seconds
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._seconds_each = 0.05  # a guess, until the first batch was measured

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    async def submit(
        self, run: Run, *inputs: Tensor, most_batch: int | None = None, deadline_seconds: float | None = None
    ) -> Tensor:
        """The outputs of `run` for one request, computed together with others.

        Args:
            run: called in the batcher's thread, without gradients; requests with the same one are batched.
            inputs: of one photo, (1, ...) each.
            most_batch: requests in a call of this `run`, where it wants less than the batcher allows.
            deadline_seconds: how long to wait for its turn; default: the batcher's.

        Raises:
            Overloaded: the queue is full, or the turn did not come before the deadline.
            Closed: the batcher is closed.
            Exception: whatever `run` raised, for every request of that batch.
        """
        most = self.most_batch if most_batch is None else min(most_batch, self.most_batch)
        return await self._wait_for(_Request(run, inputs, most, Future()), deadline_seconds)

    async def alone(self, work: Callable[[], Answer], deadline_seconds: float | None = None) -> Answer:
        """What `work` gives, done in the batcher's thread when its turn comes, together with nothing else.

        Args:
            work: called without gradients.
            deadline_seconds: see `submit`, and there the errors.
        """
        return await self._wait_for(_Request(work, (), 1, Future()), deadline_seconds)

    async def _wait_for(self, request: _Request, deadline_seconds: float | None) -> Any:
        self._enqueue(request)
        patience = self.deadline_seconds if deadline_seconds is None else deadline_seconds
        result = asyncio.wrap_future(request.future)
        try:
            await asyncio.wait([result], timeout=patience)
            if not result.done() and request.future.cancel():
                raise Overloaded(_WHAT, self._until_empty(), f"no turn within {patience:g} s")
            return await result
        finally:
            if request.future.cancel():  # also when the client went away
                self._forget(request)
            result.cancel()

    def _enqueue(self, request: _Request) -> None:
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self.most_waiting:
                why = f"{len(self._waiting)} requests wait for the networks"
                raise Overloaded(_WHAT, self._until_empty(), why)
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"{UNAWAITED}networks", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _forget(self, request: _Request) -> None:
        """Make room at once: a dropped request must not keep others out."""
        with self._changed, suppress(ValueError):
            self._waiting.remove(request)

    def _until_empty(self) -> float:
        return max(0.1, (len(self._waiting) + 1) * self._seconds_each)

    def close(self) -> None:
        """Answer those who wait with `Closed`, and wait for the batch that is being computed."""
        with self._changed:
            self._closed = True
            dropped, thread = list(self._waiting), self._thread
            self._waiting.clear()
            self._changed.notify_all()
        for request in dropped:
            with suppress(InvalidStateError):  # cancelled in the meantime
                request.future.set_exception(Closed())
        if thread is not None:
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                _log.warning("the networks still compute after %g s and are left alone", _CLOSE_SECONDS)

    @torch.no_grad()
    def _work(self) -> None:
        while batch := self._next():
            self._compute(batch)

    def _next(self) -> list[_Request]:
        """The next batch, once there is one; empty when the batcher is closed."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self.wait_seconds:
                    self._changed.wait_for(self._is_complete, timeout=self.wait_seconds)
                if self._waiting:  # they may have been cancelled
                    return self._take()
            return []

    def _is_complete(self) -> bool:
        return self._closed or len(self._waiting) >= self.most_batch

    def _take(self) -> list[_Request]:
        first = self._waiting[0]
        batch = [request for request in self._waiting if request.goes_with(first)]
        batch = batch[: first.most_batch]
        for request in batch:
            self._waiting.remove(request)
        return batch

    def _compute(self, batch: Iterable[_Request]) -> None:
        live = [request for request in batch if request.future.set_running_or_notify_cancel()]
        if not live:
            return
        started = time.perf_counter()
        try:
            outputs = _together(live)
            if len(outputs) != len(live):
                raise RuntimeError(f"the network gave {len(outputs)} outputs for {len(live)} photos")
        except Exception as error:
            for request in live:
                request.future.set_exception(error)
            return
        for request, output in zip(live, outputs, strict=True):
            request.future.set_result(output)
        each = (time.perf_counter() - started) / len(live)
        self._seconds_each += _RECENT * (each - self._seconds_each)


def _together(requests: Sequence[_Request]) -> list[Any]:
    """One call for all; each gets memory of its own, so that one which is kept does not keep the others'."""
    if len(requests) == 1:
        return [requests[0].run(*requests[0].inputs)]
    columns = zip(*(request.inputs for request in requests), strict=True)
    outputs = requests[0].run(*(torch.cat(column) for column in columns))
    return [output.clone() for output in outputs.split(1)]
