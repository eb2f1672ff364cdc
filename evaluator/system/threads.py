"""How many CPU threads a process takes, and how photos are shared out among them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch

from evaluator.system.environment import usable_cores

T = TypeVar("T")
Done = TypeVar("Done")


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
    wait for each other some hundred times per colouring.

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
    """
    others = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, name, initializer=_compute_on_one_core)
    started = Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(others)
    return pool


def _compute_on_one_core() -> None:
    torch.get_num_threads()  # a thread takes the common number when it first asks, which would undo the next line
    torch.set_num_threads(1)
