"""What trials and Ray Tune tell each other: names in a trial's config and in its results."""

import math
from collections.abc import Mapping
from typing import Any

from tuner.record import Measure

POINT = "point"
PARENT = "parent"
"""Beside the point: id of the trial whose weights were copied last."""
LEGS = "legs"
"""Beside the point: see `tuner.record.Trial.legs`, with complete values; a copy inherits those of the copied."""
ERROR = "error"
"""Result of a trial that failed by its own fault: the first line of what went wrong."""


def measured(result: Mapping[str, Any], measure: Measure) -> float | None:
    """The metric in a report, where it is a finite number."""
    value = result.get(measure.name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None
