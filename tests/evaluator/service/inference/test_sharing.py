"""Work for several requests: done once, for all of them, and for nobody who went away."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from evaluator.service.inference.batcher import Shared


class Work:
    """Lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


def run(test: Callable[[Shared[int], Work], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        await asyncio.wait_for(test(Shared(), Work()), 60)

    asyncio.run(all_of_it())


async def asked(shared: Shared[int], work: Work, *keys: str) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(shared.run(key, work)) for key in keys]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_equal_questions_are_computed_once_and_others_by_themselves():
    async def test(shared: Shared[int], work: Work) -> None:
        tasks = await asked(shared, work, "same", "same", "other")
        work.gate.set()
        assert await asyncio.gather(*tasks) == [1, 1, 2]
        assert await shared.run("same", work) == 3  # nothing is kept

    run(test)


def test_who_goes_away_takes_nothing_from_the_others():
    async def test(shared: Shared[int], work: Work) -> None:
        first, second = await asked(shared, work, "same", "same")
        first.cancel()
        work.gate.set()
        assert await second == 1
        assert first.cancelled()
        assert work.cancelled == 0

    run(test)


def test_work_that_nobody_waits_for_is_cancelled_and_begun_anew():
    async def test(shared: Shared[int], work: Work) -> None:
        gone = await asked(shared, work, "same", "same")
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        (later,) = await asked(shared, work, "same")
        assert (work.begun, work.cancelled) == (2, 1)
        work.gate.set()
        assert await later == 2

    run(test)


def test_an_error_comes_to_all():
    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def test(shared: Shared[int], work: Work) -> None:
        tasks = [asyncio.create_task(shared.run("same", fail)) for _ in range(2)]
        for task in tasks:
            with pytest.raises(ValueError, match="no"):
                await task

    run(test)
