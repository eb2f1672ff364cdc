"""The batcher: the same numbers as one by one, bounded waiting, and no request without an answer."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluator.service.inference.batcher import Batcher, Closed
from evaluator.system.threads import Overloaded

PATIENCE = 60.0
"""Seconds after which a test that hangs fails."""


class Gate:
    """A network that waits to be let on, and notes what it computed."""

    def __init__(self) -> None:
        self.busy, self.open = threading.Event(), threading.Event()
        self.seen: list[list[float]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.flatten(1)[:, 0].tolist())
        self.busy.set()
        assert self.open.wait(PATIENCE)
        return 2 * x


def number(value: float, width: int = 2) -> Tensor:
    return torch.full((1, 1, 1, width), value)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))


async def occupied(batcher: Batcher, gate: Gate) -> asyncio.Task[Tensor]:
    """A request, number 0, that is being computed until the gate opens."""
    first = asyncio.create_task(batcher.submit(gate, number(0)))
    assert await asyncio.to_thread(gate.busy.wait, PATIENCE)
    return first


async def waiting(batcher: Batcher, network: Callable[..., Tensor], *values: float) -> list[asyncio.Task[Tensor]]:
    """Requests that wait."""
    before = batcher.waiting
    tasks = [asyncio.create_task(batcher.submit(network, number(value))) for value in values]
    while batcher.waiting < before + len(values):
        await asyncio.sleep(0)
    return tasks


def test_results_equal_those_without_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    sizes = [(12, 20), (20, 12), (16, 16)]
    inputs = [torch.rand(1, 3, *sizes[index % 3]) for index in range(60)]
    batches: list[int] = []

    def noted(x: Tensor) -> Tensor:
        batches.append(len(x))
        return network(x)

    async def test() -> None:
        batcher = Batcher(most_batch=8, most_waiting=60)
        found = await asyncio.gather(*(batcher.submit(noted, x) for x in inputs))
        batcher.close()
        for x, y in zip(inputs, found, strict=True):
            assert not y.requires_grad
            assert (y - network(x)).abs().max() <= 1e-6

    run(test)
    assert sum(batches) == 60
    assert max(batches) > 1


def test_what_waits_is_computed_together_oldest_first_up_to_the_limit():
    async def test() -> None:
        gate, batcher = Gate(), Batcher(most_batch=3)
        tasks = [await occupied(batcher, gate), *await waiting(batcher, gate, 1, 2, 3, 4)]
        gate.open.set()
        assert [float(y[0, 0, 0, 0]) for y in await asyncio.gather(*tasks)] == [0, 2, 4, 6, 8]
        assert gate.seen == [[0], [1, 2, 3], [4]]
        batcher.close()

    run(test)


def test_other_networks_and_sizes_are_not_mixed_and_wait_their_turn():
    async def test() -> None:
        gate, other, batcher = Gate(), Gate(), Batcher()
        other.open.set()
        first = await occupied(batcher, gate)
        wide = asyncio.create_task(batcher.submit(gate, number(1, width=5)))
        tasks = [first, wide, *await waiting(batcher, other, 2), *await waiting(batcher, gate, 3)]
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.seen == [[0], [1], [3]]
        assert other.seen == [[2]]
        batcher.close()

    run(test)


def test_a_network_that_gains_nothing_by_batches_gets_one_request_at_a_time():
    async def test() -> None:
        gate, batcher = Gate(), Batcher()
        first = await occupied(batcher, gate)
        tasks = [asyncio.create_task(batcher.submit(gate, number(value), most_batch=1)) for value in (1, 2)]
        while batcher.waiting < 2:
            await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *tasks)
        assert gate.seen == [[0], [1], [2]]
        batcher.close()

    run(test)


def test_an_incomplete_batch_waits_for_more_where_it_is_told_to():
    async def test() -> None:
        gate, batcher = Gate(), Batcher(most_batch=2, wait_seconds=PATIENCE)
        gate.open.set()
        await asyncio.gather(batcher.submit(gate, number(1)), batcher.submit(gate, number(2)))
        assert gate.seen == [[1, 2]]
        batcher.close()

    run(test)


def test_a_full_queue_tells_to_come_back_and_takes_requests_again_later():
    async def test() -> None:
        gate, batcher = Gate(), Batcher(most_waiting=2)
        tasks = [await occupied(batcher, gate), *await waiting(batcher, gate, 1, 2)]
        with pytest.raises(Overloaded, match=r"2 requests wait for the networks; try again in [\d.]+ s") as error:
            await batcher.submit(gate, number(3))
        assert error.value.retry_after > 0
        gate.open.set()
        await asyncio.gather(*tasks)
        assert (await batcher.submit(gate, number(4))).max() == 8
        batcher.close()

    run(test)


def test_a_request_whose_client_went_away_is_never_computed_and_makes_room():
    async def test() -> None:
        gate, batcher = Gate(), Batcher(most_waiting=2)
        first = await occupied(batcher, gate)
        gone, stays = await waiting(batcher, gate, 1, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.waiting == 1
        (late,) = await waiting(batcher, gate, 3)
        gate.open.set()
        await asyncio.gather(first, stays, late)
        assert gate.seen == [[0], [2, 3]]
        batcher.close()

    run(test)


def test_a_request_that_is_cancelled_while_it_is_computed_harms_nobody():
    async def test() -> None:
        gate, batcher = Gate(), Batcher()
        first = await occupied(batcher, gate)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        assert (await batcher.submit(gate, number(1))).max() == 2
        batcher.close()

    run(test)


def test_a_request_whose_turn_does_not_come_in_time_is_told_so_and_dropped():
    async def test() -> None:
        gate, batcher = Gate(), Batcher(deadline_seconds=1e-3)
        first = asyncio.create_task(batcher.submit(gate, number(0), deadline_seconds=PATIENCE))
        assert await asyncio.to_thread(gate.busy.wait, PATIENCE)
        with pytest.raises(Overloaded, match=r"no turn within 0\.001 s"):
            await batcher.submit(gate, number(1))
        assert batcher.waiting == 0
        gate.open.set()
        await first
        batcher.close()
        assert gate.seen == [[0]]

    run(test)


def test_a_request_that_is_being_computed_is_answered_after_its_deadline_too():
    async def test() -> None:
        gate, batcher = Gate(), Batcher()
        first = asyncio.create_task(batcher.submit(gate, number(1), deadline_seconds=0.5))
        assert await asyncio.to_thread(gate.busy.wait, PATIENCE)
        asyncio.get_running_loop().call_later(0.6, gate.open.set)
        assert (await first).max() == 2
        batcher.close()

    run(test)


def test_an_error_reaches_every_request_of_its_batch_and_no_other():
    def broken(x: Tensor) -> Tensor:
        raise ValueError(f"a batch of {len(x)}")

    async def test() -> None:
        gate, batcher = Gate(), Batcher()
        first = await occupied(batcher, gate)
        tasks = await waiting(batcher, broken, 1, 2)
        gate.open.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in errors] == ["a batch of 2"] * 2
        assert (await first).max() == 0
        assert (await batcher.submit(gate, number(3))).max() == 6
        batcher.close()

    run(test)


def test_a_network_that_gives_too_few_outputs_is_an_error_and_the_next_one_works():
    async def test() -> None:
        batcher, gate = Batcher(), Gate()
        first = asyncio.create_task(batcher.submit(gate, number(0.0)))
        await asyncio.to_thread(gate.busy.wait, PATIENCE)
        short = lambda x: x[:1]  # noqa: E731
        both = [asyncio.create_task(batcher.submit(short, number(value))) for value in (1.0, 2.0)]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        for outcome in await asyncio.gather(*both, return_exceptions=True):
            assert "1 outputs for 2 photos" in str(outcome)
        assert float((await batcher.submit(lambda x: 3 * x, number(1.0))).max()) == 3.0
        batcher.close()

    run(test)


def test_closing_answers_those_who_wait_and_finishes_what_is_being_computed():
    async def test() -> None:
        gate, batcher = Gate(), Batcher()
        first = await occupied(batcher, gate)
        tasks = await waiting(batcher, gate, 1, 2)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, Closed)
        gate.open.set()
        assert (await first).max() == 0
        await closing
        assert gate.seen == [[0]]
        with pytest.raises(Closed, match="being stopped"):
            await batcher.submit(gate, number(3))

    run(test)


def test_under_stress_every_request_has_its_own_answer_or_an_error():
    draw = random.Random(0)
    answered = []

    async def one(batcher: Batcher, value: int) -> None:
        task = asyncio.create_task(batcher.submit(torch.neg, number(value, width=draw.choice((2, 3)))))
        for _ in range(draw.randrange(20)):
            await asyncio.sleep(0)
        if draw.random() < 0.3:
            task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            answered.append("cancelled")
        except Overloaded:
            answered.append("overloaded")
        else:
            assert (result == -value).all()
            answered.append("computed")

    async def test() -> None:
        batcher = Batcher(most_batch=4, most_waiting=16)
        for start in range(0, 2000, 40):
            await asyncio.gather(*(one(batcher, value) for value in range(start, start + 40)))
        assert batcher.waiting == 0
        batcher.close()

    run(test)
    assert len(answered) == 2000
    assert set(answered) == {"computed", "cancelled", "overloaded"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"most_batch": 0}, "most_batch is 0"),
        ({"most_waiting": 0}, "most_waiting is 0"),
        ({"wait_seconds": -1.0}, "wait_seconds is -1"),
        ({"deadline_seconds": 0.0}, "deadline_seconds is 0"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds is nan"),
    ],
)
def test_numbers_that_cannot_work_are_refused(option: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Batcher(**option)  # pyright: ignore[reportArgumentType]
