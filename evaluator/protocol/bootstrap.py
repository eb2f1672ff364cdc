"""Bootstrap confidence intervals of a mean over photos, in float64."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

CONFIDENCE = 0.95
RESAMPLES = 4000


def mean_intervals(
    values: Float64[np.ndarray, "n k"], seed: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Percentile bootstrap 95 % interval of each column's mean (Efron and Tibshirani 1993, chapter 13).

    Photos (rows) are resampled with replacement, 4000 times, the same draws for every column; a paired
    difference is a column of differences. The same seed gives the same interval.

    Args:
        values: one row per photo, one column per quantity.
        seed: of the resampling.

    Returns:
        Lower and upper ends; NaN for fewer than two photos, which say nothing about spread.
    """
    photos, quantities = values.shape
    if photos < 2:
        nothing = np.full(quantities, np.nan)
        return nothing, nothing
    means = _counts(photos, seed).astype(np.float64) @ values / photos
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(means, [tail, 100.0 - tail], axis=0)
    return low, high


@lru_cache(maxsize=1)
def _counts(photos: int, seed: int) -> np.ndarray:
    """How often each photo is drawn in each resample: multinomial, so that all means are one matrix product.

    Drawing takes longer than all that is done with it, and every policy needs the same: the last one is kept.
    """
    draws = np.random.default_rng(seed).multinomial(photos, np.full(photos, 1.0 / photos), size=RESAMPLES)
    return draws.astype(np.uint16)  # a photo that is drawn more often than 65,535 times is out of the question


@dataclass(frozen=True, eq=False)
class Means:
    """Means over photos with their intervals, one entry per quantity."""

    mean: Float64[np.ndarray, " k"]
    """NaN where no photo has a value."""
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]
    photos: Int64[np.ndarray, " k"]
    """Photos that have a value."""


def defined_means(values: Float64[np.ndarray, "n k"], seed: int) -> Means:
    """Each column's mean over the photos for which it is defined (not NaN), with `mean_intervals` of those."""
    defined = ~np.isnan(values)
    masks, mask_of = np.unique(defined, axis=1, return_inverse=True)
    means, ends = np.full(values.shape[1], np.nan), np.full((2, values.shape[1]), np.nan)
    for number, mask in enumerate(masks.T):
        columns = np.flatnonzero(mask_of == number)
        if mask.any():
            part = values[mask][:, columns]
            means[columns], ends[:, columns] = part.mean(0), mean_intervals(part, seed)
    return Means(means, ends[0], ends[1], defined.sum(0))


def mean_of(values: Float64[np.ndarray, " n"]) -> float:
    """The mean over the photos for which a value is defined; NaN when there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
