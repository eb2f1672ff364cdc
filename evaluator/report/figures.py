"""The report's figures: curves against clicks and photos seen, with the text that stands for each."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from PIL import Image

from evaluator.metrics import METRICS
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import BASELINE

PAPER, INK, GRID = "#ffffff", "#1d1d1f", "#e1e1e4"
_BASELINE_COLOR = "#55555b"
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colors, told apart with color-blindness; markers and dashes repeat the difference."""
_MARKERS = "os^Dv<>P"
_DASHES = ("-", "--", "-.", ":")
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Look:
    """Of one policy's line."""

    color: str
    marker: str
    linestyle: str


def looks(policies: Sequence[str], baseline: str = BASELINE) -> dict[str, Look]:
    """One look per policy, in the order of the policies; grey is the baseline's."""
    others = [policy for policy in policies if policy != baseline]
    chosen = {
        policy: Look(
            _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)], _DASHES[i // len(_COLORS) % len(_DASHES)]
        )
        for i, policy in enumerate(others)
    }
    return {policy: chosen.get(policy, Look(_BASELINE_COLOR, "x", "-")) for policy in policies}


def new_figure(width: float = 5.4, height: float = 3.9) -> Figure:
    """A figure of its own, outside of pyplot's global list; sizes in inches."""
    return Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")


def dress(panel: Axes, x_label: str, y_label: str) -> None:
    """Axes without a box, with a faint grid."""
    panel.set_facecolor(PAPER)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_xlabel(x_label, color=INK)
    panel.set_ylabel(y_label, color=INK)


def click_axis(panel: Axes, budgets: Sequence[int]) -> None:
    """A tick at every budget, on a scale that is linear up to 1 click and logarithmic above."""
    panel.set_xscale("symlog", linthresh=1, linscale=0.6)
    panel.xaxis.set_major_locator(FixedLocator(budgets))
    panel.xaxis.set_major_formatter(FixedFormatter([str(budget) for budget in budgets]))
    panel.xaxis.set_minor_locator(NullLocator())


def svg(figure: Figure) -> str:
    """The figure as a `data:` address; the same figure gives the same bytes."""
    target = io.BytesIO()
    with rc_context({"svg.hashsalt": "chromaclick"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return _address("image/svg+xml", target.getvalue())


def png(figure: Figure) -> str:
    """The figure as a `data:` address, for what is made of pixels."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=130, metadata={"Software": None})
    return _address("image/png", target.getvalue())


def jpeg(picture: Image.Image) -> str:
    """A photo as a `data:` address."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return _address("image/jpeg", target.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def training_curves(curve: Sequence[Mapping[str, Any]], policies: Sequence[str]) -> Image.Image:
    """Draw every metric against the photos seen in training, one line per policy and number of clicks.

    Args:
        curve: one record per mean: `images_seen`, `policy`, `metric`, `clicks`, `value`. A policy may be missing
            from early validations.
        policies: which to draw, the baseline in grey.

    Raises:
        ValueError: the curve holds no mean of these policies.
    """
    means = pd.DataFrame(curve)
    means = means.loc[means["policy"].isin(policies)]
    if means.empty:
        raise ValueError(f"the curve of {len(curve)} means has none of {', '.join(policies)}")
    metrics = [name for name in METRICS if name in set(means["metric"])]
    figure = new_figure(4.6 * len(metrics), 3.7)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        _plot_history(panel, metric, means.loc[means["metric"] == metric], looks(policies))
    panels[0].legend(frameon=False, fontsize=9)
    title = "Validation during training; the number at the end of a line: clicks"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return Image.open(target).convert("RGB")


def _plot_history(panel: Axes, metric: str, means: pd.DataFrame, styles: Mapping[str, Look]) -> None:
    """More clicks are drawn stronger; the number stands at the end of the line."""
    budgets = sorted(means["clicks"].unique())
    strengths = dict(zip(budgets, np.linspace(0.35, 1.0, len(budgets)), strict=True))
    for _, line in means.groupby(["policy", "clicks"], sort=False):
        policy, clicks = line["policy"].iat[0], line["clicks"].iat[0]
        look = {"color": styles[policy].color, "alpha": strengths[clicks]}
        label = policy if clicks == budgets[-1] else None
        panel.plot(line["images_seen"], line["value"], **look, marker="o", markersize=3.5, label=label)
        end = line["images_seen"].iat[-1], line["value"].iat[-1]
        panel.annotate(str(clicks), end, (6, -3), textcoords="offset points", fontsize=8, **look)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    dress(panel, "photos seen", METRICS[metric].title)


_LINE = 40
"""Characters of an axis' label in one line."""
_CLICKS = "clicks (logarithmic from 1 on)"
_CLICKS_PER_BIN, _MIN_BINS, _MAX_BINS = 25, 6, 32
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
        line = [one for one in finished.records if (one.policy, one.metric) == (policy, metric)]
        value, low, high = (np.array([getattr(one, name) for one in line]) for name in ("value", "low", "high"))
        _band(panel, finished.budgets, low, high, look.color)
        panel.plot(finished.budgets, value, **vars(look), markersize=4.5, linewidth=1.6, label=policy)
        ends.append((policy, value[-1]))
    if all(np.isnan(mean) for _, mean in ends):
        return None
    click_axis(panel, finished.budgets)
    dress(panel, _CLICKS, fill(METRICS[metric].title, _LINE))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    values = ", ".join(f"{policy} {_written(metric, mean)}" for policy, mean in ends)
    words = f"{METRICS[metric].title} against clicks. At {finished.budgets[-1]} clicks: {values}."
    return Picture(figure, words)


def gain_curves(finished: Finished, metric: str) -> Picture | None:
    """Differences to random clicks on the same photos with their intervals; None without anything to compare."""
    of_metric = [one for one in finished.records if one.metric == metric]
    mine = [one for one in of_metric if one.gain is not None and not np.isnan(one.gain)]
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
        policies: of the whole benchmark, which gives each its color.
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
    bins = int(np.clip(np.sqrt(len(places) / _CLICKS_PER_BIN), _MIN_BINS, _MAX_BINS))
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
