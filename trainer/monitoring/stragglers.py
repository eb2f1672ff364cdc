"""Step times and waits of each rank, and detection of ranks that slow the others down.

Ranks wait for each other in every step, so all steps take equally long: what tells a slow rank is the time that it
does *not* wait. The wait is measured where the ranks agree on a step, after their forward passes. In the backward
pass gradients are exchanged while others are still computed, so a rank that is slow in it alone is not seen.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Mean seconds per step of one rank over some steps."""

    host: str
    step: float
    """The whole step."""
    reading: float
    """Of it, the wait for photos."""
    waiting: float
    """Of it, the wait for other ranks before the backward pass."""

    @property
    def own(self) -> float:
        """Seconds per step that this rank needs by itself, without waiting for others."""
        return self.step - self.waiting


class Meter:
    """Timer of the steps on one rank.

    Args:
        every: steps in a `Pace`.
        host: this machine.
        clock: seconds from anywhere, never going back.
    """

    def __init__(self, every: int, host: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._every, self._host, self._clock = every, host, clock
        self._began = 0.0
        self._start_over()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context of the wait for photos, with which a step begins."""
        self._began = self._clock()
        yield
        self._reading += self._clock() - self._began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of a wait for the other ranks."""
        began = self._clock()
        yield
        self._waiting += self._clock() - began

    def step(self) -> Pace | None:
        """End a step; returns the mean pace after every `every` steps, at the same steps on every rank."""
        self._seconds += self._clock() - self._began
        self._steps += 1
        if self._steps < self._every:
            return None
        pace = Pace(
            host=self._host,
            step=self._seconds / self._steps,
            reading=self._reading / self._steps,
            waiting=self._waiting / self._steps,
        )
        self._start_over()
        return pace

    def _start_over(self) -> None:
        self._steps = 0
        self._seconds = self._reading = self._waiting = 0.0


class Stragglers:
    """Detector of ranks that are repeatedly slower than the others.

    Args:
        factor: times the median of the other ranks from which a rank is slow.
        patience: times in a row that the same rank must be the slowest, and slow.
    """

    def __init__(self, factor: float = 1.3, patience: int = 3) -> None:
        self._factor, self._patience = factor, patience
        self._rank, self._in_row = -1, 0

    def update(self, paces: Sequence[Pace]) -> str:
        """Add every rank's pace, in rank order; returns warnings, one for each series of slow readings."""
        rank, factor = slowest(paces)
        if factor < self._factor:
            self._rank, self._in_row = -1, 0
            return ""
        self._in_row = self._in_row + 1 if rank == self._rank else 1
        self._rank = rank
        if self._in_row != self._patience:
            return ""
        pace = paces[rank]
        share = pace.reading / pace.own
        cause = f"it waits for photos in {share:.0%} of that" if share > 0.5 else "not for want of photos"
        return (
            f"rank {rank} on {pace.host} slows the others down: {pace.own:.3g} s a step by itself, {factor:.1f} "
            f"times the others' median; {cause}"
        )


def slowest(paces: Sequence[Pace]) -> tuple[int, float]:
    """Rank with the longest own time, and its ratio to the median of the others."""
    own = [pace.own for pace in paces]
    rank = max(range(len(own)), key=own.__getitem__)
    others = [seconds for other, seconds in enumerate(own) if other != rank]
    return rank, own[rank] / max(statistics.median(others), 1e-9) if others else 1.0
