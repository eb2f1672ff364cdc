"""What was asked (`Protocol`) and what came out (`Results`): a table of every photo, and its means as records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float64, Int64

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import defined_means
from evaluator.protocol.simulated_user import EXACT, SimulatedUser

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

KEYS = ["index", "policy", "clicks"]
"""Columns that tell the rows of `Results.frame` apart, in the order in which the rows are sorted."""
CLICK_LISTS = ["click_rows", "click_cols"]
"""Columns with where the clicks went: a list of as many numbers as there are clicks."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How photos are clicked and measured; every published number states it.

    A click carries the mean true color of its patch (`hint_size` 1: of its pixel), as exactly as the simulated
    user is.
    """

    clicks: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Budgets at which metrics are taken, rising."""
    hint_size: int = 1
    """Side of a click's patch in pixels."""
    robot: SimulatedUser = EXACT
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
class Record:
    """One number: the mean of a metric over photos, for a policy after a number of clicks."""

    metric: str
    policy: str
    clicks: int
    value: float
    """Over the photos for which the metric is defined; NaN where there are none."""
    low: float = math.nan
    """Lower end of the value's bootstrap 95 % interval; NaN for fewer than two photos."""
    high: float = math.nan
    """Upper end."""
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
    """Every value of every photo in one table, so that any mean can be recomputed."""

    protocol: Protocol
    frame: pd.DataFrame
    """One row per photo, policy and budget, sorted in this order, with the columns of `results.parquet`:

    - `photo` (the name, where it has one), `index` (in the whole set), `height` and `width` in pixels;
    - `policy`, `clicks` (the budget);
    - each metric under its name: infinite for a photo without error, NaN where it is not defined;
    - `click_rows`, `click_cols`: where the simulated user clicked, not where it was told to, in the order of the
    clicks; - `seconds_per_click`: wall time up to a budget for choosing, clicking and coloring, divided by clicks
    and
      photos of the batch (on a CPU: one photo on one core); NaN at 0 clicks. A policy that looks at no colors is
      colored at the budgets only. The automatic coloring and the metrics do not count.
    """

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        size: Sequence[int],
        first_index: int,
        policies: Sequence[str],
        columns: Mapping[str, Float64[np.ndarray, "photos policies budgets"]],
        positions: Int64[np.ndarray, "photos policies clicks"],
    ) -> "Results":
        """The table of photos that follow each other.

        Args:
            protocol: how they were measured.
            size: height and width.
            first_index: index of the first photo in the whole set.
            policies: names.
            columns: metrics and `seconds_per_click`, by name.
            positions: flat index row * width + col of each click.
        """
        photos, budgets, (height, width) = len(positions), protocol.clicks, size
        per_photo = len(policies) * len(budgets)
        flat = [placed[:budget] for of_photo in positions for placed in of_photo for budget in budgets]
        kind = pa.list_(pa.int32())
        cells = {
            "index": np.repeat(np.arange(first_index, first_index + photos, dtype=np.int64), per_photo),
            "height": height,
            "width": width,
            "policy": np.tile(np.repeat(list(policies), len(budgets)), photos),
            "clicks": np.tile(budgets, photos * len(policies)),
            **{name: values.reshape(-1) for name, values in columns.items()},
            "click_rows": pd.array(pa.array([one // width for one in flat], kind), dtype=pd.ArrowDtype(kind)),
            "click_cols": pd.array(pa.array([one % width for one in flat], kind), dtype=pd.ArrowDtype(kind)),
        }
        return cls(protocol=protocol, frame=pd.DataFrame(cells))

    @classmethod
    def merge(cls, parts: Sequence["Results"]) -> "Results":
        """Join the results of parts of a data set, in any order.

        Raises:
            ValueError: no parts, parts measured differently, or a photo in two parts.
        """
        if not parts:
            raise ValueError("no results to merge; pass at least one part")
        full = [part for part in parts if len(part.frame)] or [parts[0]]
        settings = [(part.protocol, part.size, part.policies, part.metrics) for part in full]
        if any(one != settings[0] for one in settings):
            raise ValueError(
                "parts differ in protocol, photo size, policies or metrics; measure all of them alike"
            )
        frame = pd.concat([part.frame for part in full])
        if frame.duplicated(KEYS).any():
            raise ValueError("a photo is in two parts; give each part its own range by `first_index`")
        return replace(full[0], frame=frame.sort_values("index", kind="stable", ignore_index=True))

    def beside(self, other: "Results") -> "Results":
        """These policies, then the other's, measured on the same photos.

        Raises:
            ValueError: another protocol, other photos or metrics, or a policy that both have.
        """
        mine, theirs = (
            (part.protocol, part.size, part.metrics, part.photos["index"].tolist()) for part in (self, other)
        )
        for name, one, another in zip(("protocol", "photo size", "metrics", "photos"), mine, theirs, strict=True):
            if one != another:
                raise ValueError(f"the two differ in {name}: {one} and {another}; measure both alike")
        if both := [policy for policy in self.policies if policy in other.policies]:
            raise ValueError(f"both have the policy {both[0]!r}; measure it once")
        frame = pd.concat([self.frame, other.frame])
        return replace(self, frame=frame.sort_values("index", kind="stable", ignore_index=True))

    @cached_property
    def photos(self) -> pd.DataFrame:
        """A row for each photo: its `index`, `height`, `width` and, where it has one, name."""
        return self.frame.drop_duplicates("index")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first photo in pixels; (0, 0) without photos."""
        sizes = self.photos[["height", "width"]].itertuples(index=False, name=None)
        return next(iter(sizes), (0, 0))

    @cached_property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return list(self.frame["policy"].unique())

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [name for name in self.frame.columns if name in METRICS]

    def values(self, policy: str, column: str) -> Float64[np.ndarray, "photos budgets"]:
        """A policy's entries of a column; those of a metric at most its ceiling (see `Metric.ceiling`)."""
        shape = len(self.photos), len(self.policies), len(self.protocol.clicks)
        values = self.frame[column].to_numpy().reshape(shape)[:, self.policies.index(policy)]
        return np.minimum(values, METRICS[column].ceiling) if column in METRICS else values

    def positions(self, policy: str, clicks: int | None = None) -> Int64[np.ndarray, "photos clicks 2"]:
        """(row, col) of a policy's clicks on each photo up to a budget, else the last, in their order."""
        budget = self.protocol.clicks[-1] if clicks is None else clicks
        here = (self.frame["policy"] == policy) & (self.frame["clicks"] == budget)
        flat = [self.frame.loc[here, name].list.flatten().to_numpy() for name in CLICK_LISTS]
        return np.stack(flat, axis=-1).astype(np.int64).reshape(len(self.photos), budget, 2)

    @cached_property
    def records(self) -> list[Record]:
        """Means over photos, and paired differences to the baseline, with bootstrap 95 % intervals.

        In the order of policies, clicks, metrics. Without the baseline among the policies there are no
        differences.

        Raises:
            ValueError: there are no photos.
        """
        if not len(self.photos):
            raise ValueError("results of no photos have no means; merge them with the other parts first")
        names = [(clicks, metric) for clicks in self.protocol.clicks for metric in self.metrics]
        values = {policy: self._by_photo(policy) for policy in self.policies}
        spread = defined_means(np.concatenate([*values.values()], axis=1), self.protocol.seed)
        found = []
        for place, (policy, mine) in enumerate(values.items()):
            gains = None
            if policy != BASELINE and BASELINE in values:
                gains = defined_means(mine - values[BASELINE], self.protocol.seed)
            photos = (~np.isnan(mine)).sum(0)
            unknown = np.full(len(names), np.nan)
            means = np.divide(np.nansum(mine, axis=0), photos, out=unknown, where=photos > 0)
            found += [
                Record(
                    metric=metric,
                    policy=policy,
                    clicks=clicks,
                    value=float(means[k]),
                    low=float(spread.low[place * len(names) + k]),
                    high=float(spread.high[place * len(names) + k]),
                    photos=int(photos[k]),
                    exact=int((mine[:, k] >= METRICS[metric].ceiling).sum()),
                    gain=float(gains.mean[k]) if gains else None,
                    gain_low=float(gains.low[k]) if gains else None,
                    gain_high=float(gains.high[k]) if gains else None,
                )
                for k, (clicks, metric) in enumerate(names)
            ]
        return found

    def rows(self) -> list[Row]:
        """One flat row per policy and budget, for a table, a JSON file or a tracker.

        Each metric has five columns: `ab_psnr` (mean), `ab_psnr_photos` (how many have a value), `ab_psnr_gain`,
        `ab_psnr_gain_low`, `ab_psnr_gain_high` (see `Record`). None stands for what does not exist or is not a
        number.
        """
        rows: dict[tuple[str, int], Row] = {}
        for record in self.records:
            head = {"policy": record.policy, "clicks": record.clicks, **self._conditions()}
            row = rows.setdefault((record.policy, record.clicks), head)
            row[record.metric] = _json_number(record.value)
            row[f"{record.metric}_photos"] = record.photos
            for name in ("gain", "gain_low", "gain_high"):
                row[f"{record.metric}_{name}"] = _json_number(getattr(record, name))
        return list(rows.values())

    def _conditions(self) -> Row:
        """What every row states."""
        robot = {f"robot_{name}": value for name, value in asdict(self.protocol.robot).items()}
        sizes = {"photos": len(self.photos), "height": self.size[0], "width": self.size[1]}
        return {**sizes, "hint_size": self.protocol.hint_size, **robot, "seed": self.protocol.seed}

    def _by_photo(self, policy: str) -> Float64[np.ndarray, "photos k"]:
        """A policy's values, one row per photo; columns by budget, then metric."""
        values = [self.values(policy, metric) for metric in self.metrics]
        return np.stack(values, axis=2).reshape(len(self.photos), -1)


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
