"""What was asked (`Protocol`) and what came out (`Results`): values per photo, and their means and intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import defined_means
from evaluator.protocol.simulated_user import EXACT, Robot

Row = dict[str, str | int | float | None]
"""A flat row: text, numbers that JSON can hold, or nothing."""

BASELINE = "random"
"""The policy that the others are compared with."""

RULER = "no network"
"""Stands among the policies for the baseline's clicks without a network: see `protocol.no_network`."""
RULER_WORDS = (
    f"{RULER}: the colors of the same {BASELINE} clicks, weighted by nearness in place and lightness. A colorizer "
    "that is not better has not learned to use clicks."
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How photos are clicked and measured; every published number states it.

    A click carries the mean true colour of its stamp (`hint_size` 1: of its pixel), as exactly as the robot is.
    """

    clicks: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Budgets at which metrics are taken, rising."""
    hint_size: int = 1
    """Side of a click's stamp in pixels."""
    robot: Robot = EXACT
    """The simulated user: exact unless told otherwise."""
    seed: int = 0
    """Of the noise of policies and robot, and of the bootstrap."""
    batch_size: int = 32
    """Photos at a time on a GPU (a CPU takes one per core); changes speed and memory, not results."""

    def __post_init__(self):
        if not self.clicks or self.clicks[0] < 0 or list(self.clicks) != sorted(set(self.clicks)):
            raise ValueError(f"clicks is {self.clicks}; give rising numbers of clicks, such as (0, 1, 5, 10, 20)")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        for name in ("hint_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one policy after a number of clicks, as the mean of per-photo values."""

    policy: str
    clicks: int
    metric: str
    mean: float
    """Over the photos for which the metric is defined; NaN where there are none."""
    photos: int
    """Photos for which the metric is defined."""
    exact: int
    """Photos that counted as the metric's ceiling (PSNR without error: 100 dB)."""
    gain: float | None = None
    """Mean over photos of this value minus the baseline's on the same photo; None for the baseline itself.
    Over the photos for which both are defined."""
    gain_low: float | None = None
    """Lower end of the gain's paired bootstrap 95 % interval; NaN for a single photo."""
    gain_high: float | None = None
    """Upper end."""

    @property
    def verdict(self) -> str:
        """'better', 'worse' or 'no different' than the baseline, judged by the interval.

        '' without an interval, or for a metric of which more is neither better nor worse.
        """
        higher_is_better = METRICS[self.metric].higher_is_better
        if higher_is_better is None:
            return ""
        if self.gain_low is None or self.gain_high is None or math.isnan(self.gain_low):
            return ""
        up, down = ("better", "worse") if higher_is_better else ("worse", "better")
        if self.gain_low > 0:
            return up
        return down if self.gain_high < 0 else "no different"


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Every value of every photo, so that any table can be recomputed."""

    protocol: Protocol
    size: tuple[int, int]
    """Height and width of the photos in pixels."""
    photos: Int64[np.ndarray, " n"]
    """Index of each photo in the whole set, rising."""
    values: dict[str, dict[str, Float64[np.ndarray, "n budgets"]]]
    """`values[policy][metric]`; exact photos have infinite PSNR here, undefined values are NaN."""
    positions: dict[str, Int64[np.ndarray, "n clicks"]]
    """`positions[policy]`: flat index row * width + col of each click, in the order in which they were placed:
    where the robot clicked, not where it was told to."""
    seconds_per_click: dict[str, Float64[np.ndarray, "n budgets"]]
    """`seconds_per_click[policy]`: wall time up to a budget for choosing, clicking and colouring, divided by
    clicks and photos of the batch (on a CPU: one photo on one core); NaN at 0 clicks. A policy that looks at no
    colours is coloured at the budgets only. The automatic colouring and the metrics do not count."""

    @classmethod
    def empty(
        cls,
        protocol: Protocol,
        shape: Sequence[int],
        first_index: int,
        policies: Iterable[str],
        metrics: Sequence[str],
    ) -> "Results":
        """Results for photos of shape (n, 3, height, width), to be filled in: NaN values, positions of -1."""
        count, height, width = shape[0], shape[2], shape[3]
        budgets = len(protocol.clicks)
        return cls(
            protocol=protocol,
            size=(height, width),
            photos=np.arange(first_index, first_index + count, dtype=np.int64),
            values={p: {m: np.full((count, budgets), np.nan) for m in metrics} for p in policies},
            positions={p: np.full((count, protocol.clicks[-1]), -1, dtype=np.int64) for p in policies},
            seconds_per_click={p: np.full((count, budgets), np.nan) for p in policies},
        )

    @classmethod
    def merge(cls, parts: Sequence["Results"]) -> "Results":
        """Join the results of parts of a data set, in any order.

        Raises:
            ValueError: no parts, parts measured differently, or a photo in two parts.
        """
        if not parts:
            raise ValueError("no results to merge; pass at least one part")
        first = parts[0]
        if any(part._settings() != first._settings() for part in parts):
            raise ValueError(
                "parts differ in protocol, photo size, policies or metrics; measure all of them alike"
            )
        photos = np.concatenate([part.photos for part in parts])
        if len(np.unique(photos)) < len(photos):
            raise ValueError("a photo is in two parts; give each part its own range by `first_index`")
        order = np.argsort(photos)

        def join(arrays: Iterable[np.ndarray]) -> np.ndarray:
            return np.concatenate(list(arrays))[order]

        return cls(
            protocol=first.protocol,
            size=first.size,
            photos=photos[order],
            values={
                policy: {m: join(p.values[policy][m] for p in parts) for m in metrics}
                for policy, metrics in first.values.items()
            },
            positions={p: join(x.positions[p] for x in parts) for p in first.policies},
            seconds_per_click={p: join(x.seconds_per_click[p] for x in parts) for p in first.policies},
        )

    def beside(self, other: "Results") -> "Results":
        """These policies, then the other's, measured on the same photos.

        Raises:
            ValueError: another protocol, other photos or metrics, or a policy that both have.
        """
        mine, theirs = ((part.protocol, part.size, part.metrics, part.photos.tolist()) for part in (self, other))
        for name, one, another in zip(("protocol", "photo size", "metrics", "photos"), mine, theirs, strict=True):
            if one != another:
                raise ValueError(f"the two differ in {name}: {one} and {another}; measure both alike")
        if both := [policy for policy in self.policies if policy in other.values]:
            raise ValueError(f"both have the policy {both[0]!r}; measure it once")
        return replace(
            self,
            values={**self.values, **other.values},
            positions={**self.positions, **other.positions},
            seconds_per_click={**self.seconds_per_click, **other.seconds_per_click},
        )

    @property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return list(self.values)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(next(iter(self.values.values())))

    def table(self, baseline: str = BASELINE) -> list[Summary]:
        """Means over photos, and paired differences to the baseline with bootstrap 95 % intervals.

        In the order of policies, clicks, metrics. Without the baseline among the policies there are no
        differences.

        Raises:
            ValueError: there are no photos.
        """
        if not len(self.photos):
            raise ValueError("results of no photos have no means; merge them with the other parts first")
        return [summary for policy in self.policies for summary in self._summaries(policy, baseline)]

    def rows(self, baseline: str = BASELINE) -> list[Row]:
        """One flat row per policy and budget, for a table, a JSON file or a tracker.

        Each metric has five columns: `ab_psnr` (mean), `ab_psnr_photos` (how many have a value), `ab_psnr_gain`,
        `ab_psnr_gain_low`, `ab_psnr_gain_high` (see `Summary`). None stands for what does not exist or is not a
        number.
        """
        rows: dict[tuple[str, int], Row] = {}
        for summary in self.table(baseline):
            row = rows.setdefault((summary.policy, summary.clicks), self._row_head(summary))
            row[summary.metric] = _json_number(summary.mean)
            row[f"{summary.metric}_photos"] = summary.photos
            for name in ("gain", "gain_low", "gain_high"):
                row[f"{summary.metric}_{name}"] = _json_number(getattr(summary, name))
        return list(rows.values())

    def _row_head(self, summary: Summary) -> Row:
        return {
            "policy": summary.policy,
            "clicks": summary.clicks,
            "photos": len(self.photos),
            "height": self.size[0],
            "width": self.size[1],
            "hint_size": self.protocol.hint_size,
            "robot_position_sigma": self.protocol.robot.position_sigma,
            "robot_colour_sigma": self.protocol.robot.colour_sigma,
            "seed": self.protocol.seed,
        }

    def _summaries(self, policy: str, baseline: str) -> list[Summary]:
        """All metrics of one policy at all budgets."""
        values = self._finite(policy)
        photos = (~np.isnan(values)).sum(0)
        means = np.divide(np.nansum(values, axis=0), photos, out=np.full(len(photos), np.nan), where=photos > 0)
        gains = self._gains(policy, baseline)
        return [
            Summary(
                policy=policy,
                clicks=clicks,
                metric=metric,
                mean=float(means[column]),
                photos=int(photos[column]),
                exact=int((self.values[policy][metric][:, budget] >= METRICS[metric].ceiling).sum()),
                **({name: float(gain[column]) for name, gain in gains.items()}),
            )
            for column, (budget, clicks, metric) in enumerate(self._columns())
        ]

    def _gains(self, policy: str, baseline: str) -> dict[str, np.ndarray]:
        """Paired difference to the baseline and its interval, one entry per column."""
        if policy == baseline or baseline not in self.values:
            return {}
        gains = defined_means(self._finite(policy) - self._finite(baseline), self.protocol.seed)
        return {"gain": gains.mean, "gain_low": gains.low, "gain_high": gains.high}

    def _columns(self) -> list[tuple[int, int, str]]:
        """(index of the budget, clicks, metric) of each number that a policy has per photo."""
        return [
            (budget, clicks, metric)
            for budget, clicks in enumerate(self.protocol.clicks)
            for metric in self.metrics
        ]

    def _finite(self, policy: str) -> np.ndarray:
        """Values fit for averaging (see `Metric.ceiling`), one row per photo, columns as in `_columns`."""
        values = self.values[policy]
        return np.stack(
            [np.minimum(values[metric][:, at], METRICS[metric].ceiling) for at, _, metric in self._columns()],
            axis=1,
        )

    def _settings(self) -> tuple[object, ...]:
        """What two parts of one measurement must have in common."""
        return self.protocol, self.size, self.policies, self.metrics


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
