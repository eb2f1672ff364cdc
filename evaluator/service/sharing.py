"""Work that several requests want at the same time, done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
