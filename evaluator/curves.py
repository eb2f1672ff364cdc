"""Curves of validation: metrics against the number of clicks, and against the photos seen in training."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from evaluator.metrics import METRICS
from evaluator.results import BASELINE, Results, Summary

KEY = re.compile(r"validation/(?P<policy>[^/]+)/(?P<metric>[^/@]+)@(?P<clicks>\d+)")
"""How a training names a mean in its history: `validation/random/ab_psnr@10`."""

_PAPER, _INK, _GRID = "#fbfaf7", "#1d1d1f", "#e3e0d9"
_BASELINE_COLOUR = "#77777d"
_COLOURS = ("#1463c2", "#c8442c", "#2b8a57", "#8b46b8", "#b7791f", "#0f8a94")
"""For the other policies, told apart by people with colour-blindness too."""
_PANEL_INCHES, _DPI = (4.6, 3.3), 110


def click_curves(results: Results, baseline: str = BASELINE) -> Image.Image:
    """Draw every metric against the number of clicks; below, the paired difference to the baseline.

    Bands are bootstrap 95 % intervals of the mean difference on the same photos. Without the baseline, or with
    nothing to compare with it, there is only the upper row.
    """
    table = results.table(baseline)
    compare = any(summary.gain is not None for summary in table)
    figure = _new_figure(rows=1 + compare, columns=len(results.metrics))
    panels = figure.subplots(1 + compare, len(results.metrics), squeeze=False)
    colours = _colours(results.policies, baseline)
    for column, metric in enumerate(results.metrics):
        of_metric = [summary for summary in table if summary.metric == metric]
        _plot_means(panels[0, column], of_metric, colours)
        if compare:
            _plot_gains(panels[1, column], [s for s in of_metric if s.gain is not None], colours, baseline)
    panels[0, 0].legend(frameon=False, fontsize=9)
    height, width = results.size
    _title(
        figure, f"{len(results.photos)} photos of {width} x {height} px, hint size {results.protocol.hint_size}"
    )
    return _image(figure)


def training_curves(
    history: Sequence[Mapping[str, float]], policies: Sequence[str], baseline: str = BASELINE
) -> Image.Image:
    """Draw every metric against the photos seen in training, one line per policy and number of clicks.

    Args:
        history: one entry per validation, with "images_seen" and means under names like
            `validation/random/ab_psnr@10` (see `KEY`). A policy may be missing from early ones.
        policies: which to draw.
        baseline: drawn in grey.

    Raises:
        ValueError: the history holds no mean of these policies.
    """
    series = _series(history, policies)
    if not series:
        raise ValueError(f"the history of {len(history)} validations has no means of {', '.join(policies)}")
    metrics = [name for name in METRICS if any(metric == name for _, metric, _ in series)]
    figure = _new_figure(rows=1, columns=len(metrics))
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    colours = _colours(policies, baseline)
    for panel, metric in zip(panels, metrics, strict=True):
        _plot_history(panel, metric, series, colours)
    panels[0].legend(frameon=False, fontsize=9)
    _title(figure, "Validation during training; the number at the end of a line: clicks")
    return _image(figure)


def _series(
    history: Sequence[Mapping[str, float]], policies: Sequence[str]
) -> dict[tuple[str, str, int], list[tuple[float, float]]]:
    """(photos seen, mean) by policy, metric and clicks."""
    series: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for entry in history:
        for key, value in entry.items():
            match = KEY.fullmatch(key)
            if match and match["policy"] in policies and match["metric"] in METRICS:
                place = match["policy"], match["metric"], int(match["clicks"])
                series.setdefault(place, []).append((entry["images_seen"], value))
    return series


def _plot_means(panel: Axes, summaries: Sequence[Summary], colours: Mapping[str, str]) -> None:
    for policy, colour in colours.items():
        points = [(s.clicks, s.mean) for s in summaries if s.policy == policy]
        panel.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=policy)
    _dress(panel, "clicks", METRICS[summaries[0].metric].title)


def _plot_gains(panel: Axes, summaries: Sequence[Summary], colours: Mapping[str, str], baseline: str) -> None:
    panel.axhline(0.0, color=_BASELINE_COLOUR, linewidth=1)
    for policy in dict.fromkeys(summary.policy for summary in summaries):
        mine = [s for s in summaries if s.policy == policy]
        clicks = [s.clicks for s in mine]
        ends = np.array([(s.gain, s.gain_low, s.gain_high) for s in mine], dtype=np.float64)
        panel.fill_between(clicks, ends[:, 1], ends[:, 2], color=colours[policy], alpha=0.18, linewidth=0)
        panel.plot(clicks, ends[:, 0], color=colours[policy], marker="o", markersize=4)
    metric = METRICS[summaries[0].metric]
    unit = f" ({metric.unit})" if metric.unit else ""
    _dress(panel, "clicks", f"{metric.label} minus {baseline}{unit}")


def _plot_history(
    panel: Axes,
    metric: str,
    series: Mapping[tuple[str, str, int], Sequence[tuple[float, float]]],
    colours: Mapping[str, str],
) -> None:
    """More clicks are drawn stronger; the number stands at the end of the line."""
    budgets = sorted({clicks for _, name, clicks in series if name == metric})
    strengths = dict(zip(budgets, np.linspace(0.35, 1.0, len(budgets)), strict=True))
    for (policy, name, clicks), points in series.items():
        if name != metric:
            continue
        look = {"color": colours[policy], "alpha": strengths[clicks]}
        label = policy if clicks == budgets[-1] else None
        panel.plot(*zip(*points, strict=True), **look, marker="o", markersize=3.5, label=label)
        panel.annotate(str(clicks), points[-1], (6, -3), textcoords="offset points", fontsize=8, **look)
    _dress(panel, "photos seen", METRICS[metric].title)


def _colours(policies: Sequence[str], baseline: str) -> dict[str, str]:
    """One colour per policy, in the order of the policies; grey is the baseline's."""
    others = [policy for policy in policies if policy != baseline]
    chosen = {policy: _COLOURS[i % len(_COLOURS)] for i, policy in enumerate(others)}
    return {policy: chosen.get(policy, _BASELINE_COLOUR) for policy in policies}


def _new_figure(rows: int, columns: int) -> Figure:
    """A figure of its own, outside of pyplot's global list."""
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows + 0.4)
    return Figure(figsize=size, dpi=_DPI, facecolor=_PAPER, layout="constrained")


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, color=_INK)


def _dress(panel: Axes, x_label: str, y_label: str) -> None:
    panel.set_facecolor(_PAPER)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_xlabel(x_label, color=_INK)
    panel.set_ylabel(y_label, color=_INK)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _image(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
