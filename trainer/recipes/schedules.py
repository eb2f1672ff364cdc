"""Schedules: pure functions of progress, a number in [0, 1] that says how far a phase has come."""

import math
from dataclasses import dataclass
from typing import Literal

ScheduleShape = Literal["constant", "exponential", "warmup_cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A temperature over one stage."""

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


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A learning rate over one phase, or over all stages of its span."""

    shape: Literal["cosine", "constant", "linear"] = "cosine"
    """cosine: from the peak down to the floor (section 3.5). constant: the peak. linear: the peak, from `hold` on
    a straight line down to the floor."""
    floor: float = 0.05
    """Smallest learning rate, as a share of the peak."""
    until: float = 0.5
    """Share of the phase at which the floor is reached; it is kept from then on."""
    hold: float = 0.5
    """Share of the phase during which `linear` keeps the peak, below `until`."""
    over: Literal["stage", "span"] = "stage"
    """What the shares are of."""

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it is a share, from 0 to 1")
        if not 0 < self.until <= 1:
            raise ValueError(f"until is {self.until}; give a share of the phase above 0, up to 1")
        if self.shape == "linear" and not 0 <= self.hold < self.until:
            raise ValueError(f"hold is {self.hold} and until {self.until}; the first must be below the second")

    def at(self, peak: float, progress: float) -> float:
        """The learning rate when a stage, or its span, has come so far."""
        if self.shape == "constant":
            return peak
        floor = peak * self.floor
        if self.shape == "cosine":
            return floor + (peak - floor) * _cosine(min(progress / self.until, 1.0))
        left = (self.until - progress) / (self.until - self.hold)
        return floor + (peak - floor) * min(max(left, 0.0), 1.0)


def most_random_clicks(progress: float, first: int, last: int) -> int:
    """The largest number of random clicks per photo, growing linearly over the phase (section 3.2.1)."""
    return round(first + (last - first) * progress)


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
