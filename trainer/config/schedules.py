"""Schedules: pure functions of progress, a number in [0, 1] that says how far a phase has come."""

import math
from dataclasses import dataclass
from typing import Literal

ScheduleShape = Literal["constant", "exponential", "warmup_cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A temperature over one phase."""

    shape: ScheduleShape = "constant"
    """constant: `start` throughout. exponential: start * exp(-k t), reaching `end` at the end (section 3.3.2).
    warmup_cosine: linear from `end` to `start` during `warmup`, then a cosine down to `end` (section 5.1)."""
    start: float = 1.0
    """Value at the start of the phase (warmup_cosine: the peak), above 0."""
    end: float = 1.0
    """Value at the end of the phase, above 0; without effect where the shape is constant."""
    warmup: float = 0.1
    """Share of the phase that warmup_cosine warms up for, from 0 up to but not including 1."""

    def __post_init__(self) -> None:
        if self.start <= 0 or self.end <= 0:
            raise ValueError(f"start is {self.start} and end {self.end}; a temperature must be above 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; give a share of the phase from 0 to below 1")

    @property
    def is_flat(self) -> bool:
        """Whether the shape makes no difference."""
        return self.shape != "constant" and self.start == self.end

    def at(self, progress: float) -> float:
        """The value at `progress` in [0, 1]."""
        if self.shape == "constant":
            return self.start
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** progress
        if progress < self.warmup:
            return self.end + (self.start - self.end) * progress / self.warmup
        return self.end + (self.start - self.end) * _cosine((progress - self.warmup) / (1 - self.warmup))


def learning_rate(progress: float, peak: float, floor: float, until: float = 0.5) -> float:
    """Cosine from `peak` to `floor`, which it reaches at `until` of the phase and then keeps (section 3.5)."""
    return floor + (peak - floor) * _cosine(min(progress / until, 1.0))


def most_random_clicks(progress: float, first: int, last: int) -> int:
    """The largest number of random clicks per photo, growing linearly over the phase (section 3.2.1)."""
    return round(first + (last - first) * progress)


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
