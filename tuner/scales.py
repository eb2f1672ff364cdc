"""Where a value lies on an axis from 0 to 1: of a searched setting as the search sees it, or of a metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner.record import Measure, Trial
from tuner.space import EXTRA_SHARE, Domain

NOWHERE = -0.14
"""Of a setting without effect in a trial, or a metric that was not measured: below the axis."""
Tick = tuple[float, str]


@dataclass(frozen=True)
class SettingScale:
    """A domain: choices evenly; a range by its logarithm where it is searched so, extra values below it."""

    domain: Domain

    @property
    def ticks(self) -> list[Tick]:
        """Places and texts, from the bottom."""
        domain = self.domain
        if domain.kind == "choice":
            return [(self.place(value), written(value)) for value in domain.values]
        low, high = domain.limits
        between = _decades(low, high) if domain.kind == "log_uniform" else []
        values = [*sorted(domain.extra), low, *between, high]
        return [(self.place(value), written(value)) for value in values]

    def place(self, value: Any) -> float:
        """In [0, 1]; `NOWHERE` for None."""
        domain = self.domain
        if value is None:
            return NOWHERE
        if domain.kind == "choice":
            values = [_plain(one) for one in domain.values]
            return values.index(_plain(value)) / (len(values) - 1) if len(values) > 1 else 0.5
        below = EXTRA_SHARE if domain.extra else 0.0
        if value in domain.extra:
            return below * (sorted(domain.extra).index(value) + 0.5) / len(domain.extra)
        low, high = domain.limits
        if domain.kind == "log_uniform":
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return below + (1 - below) * min(max(share, 0.0), 1.0)

    def thirds(self) -> list[tuple[float, float]]:
        """Lower and upper ends of three parts of the range that are searched equally often."""
        low, high = self.domain.limits
        if self.domain.kind == "log_uniform":
            ends = [low * (high / low) ** (part / 3) for part in range(4)]
        else:
            ends = [low + (high - low) * part / 3 for part in range(4)]
        return [(ends[part], ends[part + 1]) for part in range(3)]


@dataclass(frozen=True)
class MetricScale:
    """A metric from its worst value at the bottom to its best at the top."""

    measure: Measure
    worst: float
    best: float

    @classmethod
    def of(cls, measure: Measure, trials: Sequence[Trial]) -> "MetricScale":
        """From what these trials measured at the end."""
        values = [value for trial in trials if (value := trial.value(measure.name)) is not None] or [0.0]
        low, high = min(values), max(values)
        return cls(measure, low, high) if measure.direction == "max" else cls(measure, high, low)

    @property
    def ticks(self) -> list[Tick]:
        """Places and texts, from the bottom."""
        if self.worst == self.best:
            return [(0.5, written(self.best))]
        return [(share, written(self.worst + share * (self.best - self.worst))) for share in (0.0, 0.5, 1.0)]

    def place(self, value: float | None) -> float:
        """In [0, 1]; `NOWHERE` for None."""
        if value is None:
            return NOWHERE
        return 0.5 if self.worst == self.best else (value - self.worst) / (self.best - self.worst)


def written(value: Any) -> str:
    """A setting's or a metric's value for people; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return " ".join(map(written, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten inside a range, not too near to its ends."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers if low * 1.5 < 10.0**power < high / 1.5]


def _plain(value: Any) -> Any:
    """Lists are tuples elsewhere."""
    return tuple(value) if isinstance(value, list) else value
