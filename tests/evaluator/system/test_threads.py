"""Work in threads: bounded waiting, nothing is done for a request that went away, and no end that waits for it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from evaluator.system.threads import Overloaded, Workers, in_daemon_thread
from tests import ROOT


class Gate:
    """Work that lasts until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened, self.done = threading.Event(), threading.Event(), []

    def work(self, name: str) -> str:
        self.entered.set()
        assert self.opened.wait(10)
        self.done.append(name)
        return name


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


async def blocked(workers: Workers, gate: Gate) -> asyncio.Task[str]:
    """A request whose work has begun."""
    task = asyncio.create_task(workers.run(gate.work, "first"))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    return task


def test_results_and_errors_come_back():
    async def story() -> None:
        workers = Workers("the queue", 1, 1, 10.0)
        assert await workers.run(max, 3, 5) == 5
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 1, 0)
        assert await workers.run(max, 3, 5) == 5
        workers.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_one_too_many_is_told_to_come_back(gate: Gate):
    async def story() -> None:
        workers = Workers("the queue", 1, 1, 10.0)
        first = await blocked(workers, gate)
        second = asyncio.create_task(workers.run(gate.work, "second"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="the queue: as many requests wait as may") as refused:
            await workers.run(gate.work, "third")
        assert (refused.value.what, refused.value.retry_after) == ("the queue", 1.0)
        gate.opened.set()
        assert [await first, await second] == gate.done == ["first", "second"]
        workers.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_cancelled_request_is_not_worked_on_and_frees_its_place(gate: Gate):
    async def story() -> None:
        workers = Workers("the queue", 1, 1, 10.0)
        first = await blocked(workers, gate)
        second = asyncio.create_task(workers.run(gate.work, "second"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.create_task(workers.run(gate.work, "third"))
        await asyncio.sleep(0)
        gate.opened.set()
        assert [await first, await third] == gate.done == ["first", "third"]
        workers.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_who_waits_longer_than_the_deadline_is_told_to_come_back(gate: Gate):
    async def story() -> None:
        workers = Workers("the queue", 1, 1, 60.0)
        first = await blocked(workers, gate)
        workers._deadline = 0.01  # of the second alone: the first one's thread may come late
        with pytest.raises(Overloaded, match=r"the queue: no turn within 0\.01 s"):
            await workers.run(gate.work, "second")
        gate.opened.set()
        assert await first == "first"  # what has begun is not cut off
        workers.close()
        assert gate.done == ["first"]

    asyncio.run(asyncio.wait_for(story(), 120))


@pytest.mark.usefixtures("two_threads")
def test_quick_work_has_one_core_and_everything_else_keeps_its_threads():
    async def test() -> list[int]:
        workers = Workers("the queue", 2, 8, 60.0, one_core=True)
        found = await asyncio.gather(*[workers.run(torch.get_num_threads) for _ in range(8)])
        workers.close()
        return found

    assert asyncio.run(test()) == 8 * [1]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


def test_what_a_daemon_thread_finds_comes_back():
    async def story() -> None:
        assert await in_daemon_thread(divmod, 7, 4) == (1, 3)
        with pytest.raises(ZeroDivisionError):
            await in_daemon_thread(divmod, 1, 0)

    asyncio.run(asyncio.wait_for(story(), 120))


def test_neither_a_loop_nor_a_process_waits_for_a_daemon_thread():
    """The work never ends; nor would a process that waited for it."""
    program = """
import asyncio, sys, threading
from evaluator.system.threads import end_without_unawaited, in_daemon_thread

async def story():
    begun = threading.Event()

    def work():
        begun.set()
        threading.Event().wait()

    task = asyncio.create_task(in_daemon_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()

asyncio.run(story())
print("the loop has ended")
end_without_unawaited(5)
print("there was no such thread")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (5, "the loop has ended\n"), done.stderr
