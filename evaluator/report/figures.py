"""The report's figures, each with the words that stand for it where it cannot be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluator.finished import Finished
from evaluator.metrics import METRICS
from evaluator.report.looks import INK, click_axis, dress, looks, new_figure, png, svg
from evaluator.results import BASELINE, Summary

_LINE = 40
"""Characters of an axis' label in one line."""
_CLICKS = "clicks (logarithmic from 1 on)"
_CLICKS_PER_BIN, _FEWEST_BINS, _MOST_BINS = 25, 6, 32
_DENSEST = 3.0
"""Heat maps are brightest at this many times the uniform density."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure and the words for it."""

    figure: Figure
    alt: str
    pixels: bool = False
    """Whether it is made of pixels, not of lines."""

    @property
    def source(self) -> str:
        """The figure as a `data:` address."""
        return png(self.figure) if self.pixels else svg(self.figure)


def mean_curves(finished: Finished, metric: str) -> Picture | None:
    """Means against clicks with their bootstrap 95 % bands, one line per policy; None where nothing is defined."""
    figure = new_figure()
    panel = figure.subplots()
    ends = []
    for policy, look in looks(finished.policies).items():
        means = finished.means[policy][metric]
        _band(panel, finished.budgets, means.low, means.high, look.color)
        panel.plot(finished.budgets, means.mean, **vars(look), markersize=4.5, linewidth=1.6, label=policy)
        ends.append((policy, means.mean[-1]))
    if all(np.isnan(mean) for _, mean in ends):
        return None
    click_axis(panel, finished.budgets)
    dress(panel, _CLICKS, fill(METRICS[metric].title, _LINE))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    values = ", ".join(f"{policy} {_written(metric, mean)}" for policy, mean in ends)
    words = f"{METRICS[metric].title} against clicks. At {finished.budgets[-1]} clicks: {values}."
    return Picture(figure, words)


def gain_curves(finished: Finished, metric: str, summaries: Sequence[Summary]) -> Picture | None:
    """Differences to random clicks on the same photos with their intervals; None without anything to compare."""
    mine = [one for one in summaries if one.metric == metric and one.gain is not None and not np.isnan(one.gain)]
    if not mine:
        return None
    figure = new_figure()
    panel = figure.subplots()
    panel.axhline(0.0, color=looks([BASELINE])[BASELINE].color, linewidth=1)
    for policy, look in looks(finished.policies).items():
        line = [one for one in mine if one.policy == policy]
        if line:
            clicks = [one.clicks for one in line]
            gain, low, high = (np.array([getattr(one, end) for one in line]) for end in _ENDS)
            _band(panel, clicks, low, high, look.color)
            panel.plot(clicks, gain, **vars(look), markersize=4.5, linewidth=1.6, label=policy)
    click_axis(panel, finished.budgets)
    unit = f" ({METRICS[metric].unit})" if METRICS[metric].unit else ""
    dress(panel, _CLICKS, fill(f"{METRICS[metric].label} minus {BASELINE}{unit}", _LINE))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    last = {one.policy: one for one in mine}
    values = ", ".join(f"{policy} {_written(metric, one.gain, '+')}" for policy, one in last.items())
    words = f"{METRICS[metric].label} minus that of {BASELINE} clicks. At {finished.budgets[-1]} clicks: {values}."
    return Picture(figure, words)


def nri_bars(entries: Sequence[Mapping[str, Any]], policies: Sequence[str], title: str) -> Picture:
    """Mean clicks until a level is reached with their intervals, and the share of photos that never reach it.

    Args:
        entries: one per policy, of one metric and level: policy, mean, low, high, failures (a share).
        policies: of the whole benchmark, which gives each its colour.
        title: what is reached, such as "ab PSNR of 30 dB".
    """
    figure = new_figure(height=0.9 + 0.36 * len(entries))
    panel = figure.subplots()
    for place, entry in enumerate(entries):
        low, high = (entry["mean"] if entry[end] is None else entry[end] for end in ("low", "high"))
        color = looks(policies)[entry["policy"]].color
        panel.barh(place, entry["mean"], color=color, height=0.62)
        panel.plot([low, high], [place, place], color=INK, linewidth=1.4, marker="|", markersize=7)
        words = f" {entry['mean']:.1f}, {100 * entry['failures']:.0f} % fail"
        panel.text(max(high, entry["mean"]), place, words, va="center", fontsize=8, color=INK)
    panel.set_yticks(range(len(entries)), [entry["policy"] for entry in entries])
    panel.invert_yaxis()
    panel.margins(x=0.28)
    panel.set_xlim(left=0)
    dress(panel, f"clicks to {title}", "")
    panel.grid(axis="y", visible=False)
    each = ", ".join(f"{e['policy']} {e['mean']:.1f} ({100 * e['failures']:.0f} % fail)" for e in entries)
    return Picture(figure, f"Clicks to {title}, failures counted as one more than the most: {each}.")


def heat_map(cells: Float64[np.ndarray, "bins bins"], policy: str) -> Picture:
    """Where a policy clicks: density over the photo, 1 where it is that of uniform clicks."""
    figure = new_figure(3.0, 2.9)
    panel = figure.subplots()
    drawn = panel.imshow(cells, cmap="cividis", vmin=0.0, vmax=_DENSEST, extent=(0, 1, 1, 0), aspect="equal")
    panel.set_xticks([0, 0.5, 1])
    panel.set_yticks([0, 0.5, 1])
    panel.set_xlabel("left to right")
    panel.set_ylabel("top to bottom")
    figure.colorbar(drawn, ax=panel, shrink=0.8, extend="max")
    quarter = len(cells) // 4
    middle = cells[quarter:-quarter, quarter:-quarter].mean()
    words = f"Where {policy} clicks: at most {cells.max():.1f} times the uniform density, at the {_place(cells)}; "
    return Picture(figure, words + f"in the middle quarter of the photo {middle:.1f} times.", pixels=True)


def click_density(
    positions: Int64[np.ndarray, "n clicks 2"], sizes: Int64[np.ndarray, "n 2"]
) -> "Float64[np.ndarray, 'bins bins'] | None":
    """Clicks per cell over those of uniform clicks, in coordinates from 0 to 1; None without clicks.

    Args:
        positions: (row, col) of the clicks of each photo.
        sizes: height and width of each photo.
    """
    places = ((positions + 0.5) / sizes[:, None]).reshape(-1, 2)
    if not len(places):
        return None
    bins = int(np.clip(np.sqrt(len(places) / _CLICKS_PER_BIN), _FEWEST_BINS, _MOST_BINS))
    count, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=bins, range=[[0, 1], [0, 1]])
    return count * bins * bins / len(places)


_ENDS = ("gain", "gain_low", "gain_high")


def _band(panel: Axes, clicks: Sequence[int], low: np.ndarray, high: np.ndarray, color: str) -> None:
    panel.fill_between(clicks, low, high, color=color, alpha=0.13, linewidth=0)


def _place(cells: np.ndarray) -> str:
    """The third of the photo with the densest cell, such as "top left"."""
    row, col = (3 * int(place) // len(cells) for place in np.unravel_index(cells.argmax(), cells.shape))
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[col]}"


def _written(metric: str, value: float | None, sign: str = "") -> str:
    return f"{np.nan if value is None else value:{sign}.{METRICS[metric].decimals}f}"
