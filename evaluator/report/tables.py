"""The report's tables as rows of text, for the page's template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluator.finished import Finished
from evaluator.metrics import METRICS
from evaluator.results import Summary

_MARKS = {"better": "▲ better", "worse": "▼ worse", "no different": "= no different"}


@dataclass(frozen=True)
class Cell:
    """A number, what it is compared with, and the verdict in words."""

    value: str
    gain: str = ""
    """With its interval; empty where nothing is compared."""
    verdict: str = ""
    style: str = ""
    """Class of the style sheet: "better", "worse" or nothing."""


@dataclass(frozen=True)
class Table:
    """Rows under one heading each."""

    caption: str
    corner: str
    """Heading of the rows' headings."""
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def metric_table(finished: Finished, summaries: Sequence[Summary], metric: str) -> Table:
    """Means, differences to random with intervals, and verdicts: policies downwards, clicks to the right."""
    of = {(one.policy, one.clicks): one for one in summaries if one.metric == metric}
    fewer = {one.photos for one in of.values()} - {0, len(finished.photos)}
    partly = f" Defined for {min(fewer)} photos at least." if fewer else ""
    return Table(
        caption=f"{METRICS[metric].title}: mean over photos, below it the difference to random clicks.{partly}",
        corner="clicks",
        columns=[str(budget) for budget in finished.budgets],
        rows=[
            (policy, [_cell(of[policy, budget]) for budget in finished.budgets]) for policy in finished.policies
        ],
    )


def glance_table(finished: Finished, summaries: Sequence[Summary], budget: int) -> Table | None:
    """The verdicts on all metrics after one number of clicks; None where nothing is compared."""
    of = {(one.policy, one.metric): one for one in summaries if one.clicks == budget and one.verdict}
    policies = [policy for policy in finished.policies if any(name == policy for name, _ in of)]
    if not policies:
        return None
    metrics = [metric for metric in finished.metrics if any(name == metric for _, name in of)]
    return Table(
        caption=f"Differences to random clicks after {budget} clicks, with their 95 % intervals",
        corner="policy",
        columns=[METRICS[metric].label for metric in metrics],
        rows=[
            (
                policy,
                [_difference(of[policy, metric]) if (policy, metric) in of else Cell("–") for metric in metrics],
            )
            for policy in policies
        ],
    )


def seconds_table(finished: Finished) -> Table | None:
    """Milliseconds per click: what a policy costs."""
    rows = []
    for policy, seconds in finished.seconds.items():
        means = [_mean(1000 * column) for column in seconds.T]
        rows.append((policy, [Cell(f"{mean:.3g}" if math.isfinite(mean) else "–") for mean in means]))
    if all(cell.value == "–" for _, cells in rows for cell in cells):
        return None
    columns = [str(budget) for budget in finished.budgets]
    return Table("Milliseconds per click and photo: choosing, clicking and colouring", "clicks", columns, rows)


def nri_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Clicks to a level, and the share of photos that never reach it."""
    rows = [
        (
            e["policy"],
            [
                Cell(level_words(e["metric"], e["level"])),
                Cell(f"{e['mean']:.2f}", _interval(e["low"], e["high"], "", 2)),
                Cell(f"{100 * e['failures']:.1f} %"),
            ],
        )
        for e in entries
    ]
    columns = ["level", "clicks, mean with 95 % interval", "never reached"]
    return Table(
        "NRI: clicks to reach a level; a failure counts as one more than the most", "policy", columns, rows
    )


def fid_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Policies downwards, clicks to the right."""
    of = {(e["policy"], e["clicks"]): e["value"] for e in entries}
    budgets = sorted({e["clicks"] for e in entries})
    rows = []
    for policy in dict.fromkeys(e["policy"] for e in entries):
        values = [of.get((policy, budget)) for budget in budgets]
        rows.append((policy, [Cell("–" if value is None else f"{value:.2f}") for value in values]))
    columns = [str(budget) for budget in budgets]
    return Table("FID of the set of coloured photos to the originals; lower is better", "clicks", columns, rows)


def paper_table(paper: Mapping[str, Any]) -> Table:
    """A paper's figures beside ours, as `results.json` has them."""
    first, *columns = paper["columns"]
    rows = [(heading, [Cell(text or "–") for text in cells]) for heading, *cells in paper["rows"]]
    return Table(f"{paper['source']}, beside this benchmark", first, columns, rows)


def cycles_table(cycles: Sequence[Mapping[str, Any]]) -> Table:
    """A training's validation after each ping-pong cycle."""
    metrics = [metric for metric in METRICS if any(metric in cycle for cycle in cycles)]
    rows = []
    for cycle in cycles:
        values = [cycle.get(metric) for metric in metrics]
        cells = [Cell(cycle["policy"]), Cell(str(cycle["clicks"])), Cell(f"{cycle['images_seen']:,}")]
        cells += [
            Cell("–" if value is None else f"{value:.{METRICS[metric].decimals}f}")
            for metric, value in zip(metrics, values, strict=True)
        ]
        rows.append((str(cycle["cycle"]), cells))
    columns = ["policy", "clicks", "photos seen", *(METRICS[metric].title for metric in metrics)]
    return Table("Validation of this training after each cycle", "cycle", columns, rows)


def level_words(metric: str, level: float) -> str:
    """Such as "ab PSNR of 30 dB"."""
    unit = f" {METRICS[metric].unit}" if METRICS[metric].unit else ""
    return f"{METRICS[metric].label} of {level:g}{unit}"


def _cell(summary: Summary) -> Cell:
    decimals = METRICS[summary.metric].decimals
    value = f"{summary.mean:.{decimals}f}" if math.isfinite(summary.mean) else "–"
    if summary.gain is None or not math.isfinite(summary.gain):
        return Cell(value)
    difference = _difference(summary)
    return Cell(value, f"{difference.value} {difference.gain}", difference.verdict, difference.style)


def _difference(summary: Summary) -> Cell:
    decimals = METRICS[summary.metric].decimals
    style = summary.verdict if summary.verdict in ("better", "worse") else ""
    gain = f"{summary.gain:+.{decimals}f}"
    interval = _interval(summary.gain_low, summary.gain_high, "+", decimals)
    return Cell(gain, interval, _MARKS.get(summary.verdict, ""), style)


def _interval(low: float | None, high: float | None, sign: str, decimals: int) -> str:
    if low is None or high is None or math.isnan(low):
        return ""
    return f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
