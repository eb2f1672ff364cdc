"""The report's figures beside the parallel coordinates, and all of them together for a picture."""

from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluator.report.figures import INK, Picture, dress, looks, new_figure
from trainer.config import Config
from tuner.importance import Importance
from tuner.pareto import comparable, front, known_value
from tuner.record import Measure, Sweep, Trial, best
from tuner.report.parallel import Parallel
from tuner.report.schedule import WITHOUT_CHOICE, Curve, Span, curves, spans
from tuner.scales import written

_QUIET = "#9a9aa0"
_SHADES = ("#c6d9e8", "#9dc3de", "#62a0cc", "#2a78b0", "#00446f")
"""Of lines from the worst to the best trials; the page's style sheet has them too."""
_BEST = looks(["a", "b"])["b"].color
_LINE = 46
_LEAST_NAMED = 0.03
"""Share of the axis that a stage must have to be named."""


def draw_importance(panel: Axes, found: Importance) -> str:
    """Bars, hollow where a setting was judged among some of the trials only; returns the words for them."""
    color = looks(["a"])["a"].color
    for place, one in enumerate(found.shares):
        hatch, inside = ("///", "none") if one.conditional else (None, color)
        panel.barh(place, one.share, edgecolor=color, height=0.62, facecolor=inside, hatch=hatch)
        note = f", of {one.trials} trials" if one.conditional else ""
        panel.text(one.share, place, f" {100 * one.share:.0f} %{note}", va="center", fontsize=8, color=INK)
    panel.set_yticks(range(len(found.shares)), [one.path for one in found.shares])
    panel.invert_yaxis()
    panel.margins(x=0.3)
    panel.set_xlim(left=0)
    dress(panel, fill(f"share of the variance of {found.measure.name} at {found.images_seen:,} photos", _LINE), "")
    panel.grid(axis="y", visible=False)
    each = ", ".join(f"{one.path} {100 * one.share:.0f} %" for one in found.shares)
    return f"Share of the variance of {found.measure.name} that each setting explains: {each}."


def importance_bars(found: Importance) -> Picture:
    """The figure of `draw_importance`."""
    figure = new_figure(6.4, 1.0 + 0.34 * len(found.shares))
    return Picture(figure, draw_importance(figure.subplots(), found))


def draw_curve(
    top: Axes, bottom: Axes, trials: Sequence[Trial], leader: Trial, config: Config, measure: Measure
) -> None:
    """The best trial's metric among all others, and the schedules of its temperatures below it."""
    for trial in trials:
        seen = _measured(trial, measure)
        if trial.id != leader.id and seen:
            top.plot(*zip(*seen, strict=True), color=_QUIET, linewidth=0.8, alpha=0.6)
    top.plot(*zip(*_measured(leader, measure), strict=True), color=_BEST, marker="o", markersize=4, linewidth=1.8)
    dress(top, "", fill(measure.label, _LINE // 2))
    stages, drawn = spans(config, leader), curves(config, leader)
    for curve, look in zip(drawn, looks([curve.name for curve in drawn]).values(), strict=True):
        _draw_schedule(bottom, curve, look.color, look.linestyle)
    dress(bottom, "photos seen", "temperature")
    bottom.set_ylim(bottom=0)
    bottom.legend(fontsize=8, edgecolor="none", framealpha=0.8)
    _mark_stages(top, bottom, stages)


def best_curve(trials: Sequence[Trial], leader: Trial, config: Config, measure: Measure) -> Picture:
    """The figure of `draw_curve`."""
    figure = new_figure(6.4, 5.0)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    draw_curve(top, bottom, trials, leader, config, measure)
    values = ", ".join(
        f"{one.images_seen:,} photos ({one.stage}): {written(one.metrics.get(measure.name))}"
        for one in leader.reports
    )
    below = "; ".join(curve.words for curve in curves(config, leader))
    return Picture(figure, f"Trial {leader.number}: {measure.label} after {values}. Below it {below}.")


def draw_pareto(panel: Axes, sweep: Sweep, trials: Sequence[Trial], other: Measure) -> str:
    """The metric that decides against another one; trials that none beats on both are filled and joined."""
    measures = [sweep.metric, other]
    points, kept = comparable(trials, measures), front(trials, measures)
    color = looks(["a"])["a"].color
    xs, ys = ([known_value(trial, measure) for trial in points] for measure in measures)
    panel.scatter(xs, ys, s=22, facecolor="none", edgecolor=_QUIET)
    xs, ys = ([known_value(trial, measure) for trial in kept] for measure in measures)
    panel.plot(xs, ys, color=color, marker="o", markersize=6, linewidth=1.0)
    for trial, x, y in zip(kept, xs, ys, strict=True):
        panel.annotate(str(trial.number), (x, y), (4, 5), textcoords="offset points", fontsize=8, color=INK)
    panel.margins(0.12)
    panel.ticklabel_format(useOffset=False)
    dress(panel, _with_end(sweep.metric), _with_end(other))
    each = "; ".join(
        f"trial {one.number} {written(x)} and {written(y)}" for one, x, y in zip(kept, xs, ys, strict=True)
    )
    return f"{sweep.metric.name} and {other.name} of {len(points)} trials. Beaten by none on both: {each}."


def pareto_plots(sweep: Sweep, trials: Sequence[Trial]) -> list[Picture]:
    """The metric that decides against each of the others, where trials have both."""
    pictures = []
    for other in sweep.metrics[1:]:
        if comparable(trials, [sweep.metric, other]):
            figure = new_figure()
            pictures.append(Picture(figure, draw_pareto(figure.subplots(), sweep, trials, other)))
    return pictures


def draw_parallel(panel: Axes, drawing: Parallel) -> None:
    """The page's parallel coordinates with matplotlib."""
    for line in drawing.lines:
        words = line.style.split()
        color = _QUIET if words[0] == "unmeasured" else _SHADES[int(words[0][-1])]
        is_best, early = "best" in words, "early" in words
        panel.plot(
            *zip(*line.points, strict=True),
            color=_BEST if is_best else color,
            linewidth=2.6 if is_best else 0.8 if early else 1.3,
            linestyle="--" if early else "-",
        )
    for index, axis in enumerate(drawing.axes):
        panel.plot([axis.x, axis.x], [drawing.top, drawing.bottom], color=INK, linewidth=1)
        panel.text(
            axis.x, drawing.top - (12, 28)[index % 2], axis.title, ha="center", va="bottom", fontsize=8, color=INK
        )
        for tick in axis.ticks:
            panel.text(axis.x + 5, tick.y, tick.text, va="center", fontsize=7, color=INK, bbox=_HALO)
    panel.set_xlim(0, drawing.width)
    panel.set_ylim(drawing.height, 0)
    panel.axis("off")


def everything(
    sweep: Sweep, trials: Sequence[Trial], drawing: Parallel, found: Importance | None, config: Config
) -> Figure:
    """All figures on one, for documents; the Pareto plot is that of the first two metrics."""
    leader = best(trials, sweep.metric)
    assert leader is not None
    figure = Figure(figsize=(13, 10.4), facecolor="white", layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.0, 1.1])[:, 0]
    panel = upper.subplots()
    draw_parallel(panel, drawing)
    panel.set_title(f"{sweep.name}: {len(trials)} trials, by {sweep.metric.label}", fontsize=11, color=INK)
    left, middle, right = lower.subfigures(1, 3)
    if found:
        draw_importance(left.subplots(), found)
    top, bottom = middle.subplots(2, sharex=True, height_ratios=[3, 2])
    draw_curve(top, bottom, trials, leader, config, sweep.metric)
    if len(sweep.metrics) > 1 and comparable(trials, sweep.metrics[:2]):
        draw_pareto(right.subplots(), sweep, trials, sweep.metrics[1])
    return figure


def _measured(trial: Trial, measure: Measure) -> list[tuple[int, float]]:
    """Photos seen and the metric, where it was measured."""
    pairs = [(report.images_seen, report.metrics.get(measure.name)) for report in trial.reports]
    return [(seen, value) for seen, value in pairs if value is not None]


_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


def _draw_schedule(panel: Axes, curve: Curve, color: str, linestyle: str) -> None:
    for index, piece in enumerate(curve.pieces):
        label = curve.name if index == 0 else None
        panel.plot(piece.photos, piece.values, color=color, linestyle=linestyle, linewidth=1.6, label=label)


def _mark_stages(top: Axes, bottom: Axes, stages: Sequence[Span]) -> None:
    """A line at the beginning of each stage with its name; what came before any choice is left out."""
    stages = [span for span in stages if span.name != WITHOUT_CHOICE] or stages
    begin, whole = stages[0].start, stages[-1].end
    for span in stages:
        for panel in (top, bottom):
            panel.axvline(span.start, color=_QUIET, linewidth=0.7, linestyle=":")
        if span.end - span.start > _LEAST_NAMED * (whole - begin):
            place = (span.start, 1.01)
            top.annotate(
                span.name, place, xycoords=("data", "axes fraction"), ha="left", rotation=30, fontsize=7, color=INK
            )
    top.set_xlim(begin - 0.02 * (whole - begin), whole + 0.02 * (whole - begin))


def _with_end(measure: Measure) -> str:
    end = "more is better" if measure.direction == "max" else "less is better"
    return fill(f"{measure.label} ({end})", _LINE)
