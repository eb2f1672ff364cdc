"""Whether one network is better than another: what two finished benchmarks say, metric by metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from evaluator.compare import compare
from evaluator.finished import Finished
from evaluator.intervals import defined_means
from evaluator.metrics import METRICS
from evaluator.results import BASELINE, RULER, Summary


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A challenger minus a champion, on the same photos."""

    policy: str
    clicks: int | None
    """None: each photo's mean over all measured numbers of clicks."""
    chosen: Summary
    """The metric that is to be better; `gain` is the difference, with its paired bootstrap 95 % interval."""
    others: list[Summary]
    """Every other metric of quality that has a better side."""

    @property
    def objection(self) -> str | None:
        """Why the challenger must not replace the champion; None if it may."""
        if self.chosen.verdict != "better":
            return f"the challenger is not better beyond its interval: {in_words(self.chosen)}"
        worse = [in_words(one) for one in self.others if one.verdict == "worse"]
        if worse:
            return f"the challenger is worse beyond its interval: {'; '.join(worse)}"
        unknown = [METRICS[one.metric].label for one in self.others if not one.verdict]
        if unknown or not self.others:
            lacking = f"{', '.join(unknown)} has no interval" if unknown else "no other metric was measured"
            return f"{lacking}, so nothing shows that the challenger is not worse elsewhere; measure more"
        return None


def weigh(champion: Path, challenger: Path, metric: str, policy: str, clicks: int | None = None) -> Evidence:
    """Compare two benchmarks on every metric of quality that has a better side.

    Args:
        champion: folder of the champion's benchmark.
        challenger: folder of the challenger's.
        metric: to be better on.
        policy: whose clicks are compared.
        clicks: a measured number; None for each photo's mean over all of them.

    Raises:
        ValueError: another protocol, other photos, or a metric, policy or number of clicks that was not measured.
    """
    if policy == RULER:
        raise ValueError(f"policy is {RULER!r}, which every network shares; decide by {BASELINE} or a guide's")
    compared = compare([champion, challenger])
    old, new = compared.runs.values()
    if not len(compared.photos) == len(old.photos) == len(new.photos):
        raise ValueError(f"{compared.warnings[0]}; a promotion needs both benchmarks on the same photos")
    judging = [name for name in compared.metrics if _judges(name)]
    if metric not in judging:
        raise ValueError(
            f"metric is {metric!r}; both measured these, which have a better side: {', '.join(judging)}"
        )
    if policy not in compared.policies:
        raise ValueError(f"policy is {policy!r}; both measured {', '.join(compared.policies)}")
    if clicks is not None and clicks not in old.budgets:
        raise ValueError(f"clicks is {clicks}; measured were {', '.join(map(str, old.budgets))}")
    summaries = {one.metric: one for one in _summaries(old, new, judging, policy, clicks)}
    return Evidence(policy=policy, clicks=clicks, chosen=summaries.pop(metric), others=list(summaries.values()))


def in_words(summary: Summary) -> str:
    """Metric, difference and interval, such as "ab PSNR +0.52 dB [+0.29, +0.78]"."""
    entry = METRICS[summary.metric]
    gain, low, high = (
        f"{np.nan if value is None else value:+.{entry.decimals}f}"
        for value in (summary.gain, summary.gain_low, summary.gain_high)
    )
    return f"{entry.label} {gain}{f' {entry.unit}' if entry.unit else ''} [{low}, {high}]"


def _judges(metric: str) -> bool:
    """Whether nobody may get worse on a metric; those of clicks describe, and differ for good reasons."""
    return METRICS[metric].group == "quality" and METRICS[metric].higher_is_better is not None


def _summaries(
    old: Finished, new: Finished, metrics: Sequence[str], policy: str, clicks: int | None
) -> list[Summary]:
    """One per metric: challenger minus champion, one value per photo."""
    columns = slice(None) if clicks is None else [old.budgets.index(clicks)]
    place = {photo: row for row, photo in enumerate(new.photos)}
    rows = [place[photo] for photo in old.photos]
    mine = [new.values[policy][metric][rows][:, columns] for metric in metrics]
    theirs = [old.values[policy][metric][:, columns] for metric in metrics]
    gains = np.stack([_row_means(a - b) for a, b in zip(mine, theirs, strict=True)], axis=1)
    found = defined_means(gains, int(old.about["protocol"]["seed"]))
    return [
        Summary(
            policy=policy,
            clicks=old.budgets[-1] if clicks is None else clicks,
            metric=metric,
            mean=float(_row_means(mine[k].reshape(1, -1))[0]),
            photos=int(found.photos[k]),
            exact=int((mine[k] >= METRICS[metric].ceiling).sum()),
            gain=float(found.mean[k]),
            gain_low=float(found.low[k]),
            gain_high=float(found.high[k]),
        )
        for k, metric in enumerate(metrics)
    ]


def _row_means(values: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Each row's mean over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    return np.where(count > 0, np.where(defined, values, 0.0).sum(1) / np.maximum(count, 1), np.nan)
