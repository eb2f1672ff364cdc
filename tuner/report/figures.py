"""Figures of the report: parallel coordinates, schedules over photos seen, curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluator.report.figures import INK, Picture, dress, looks, new_figure
from trainer.config import Config
from trainer.config.overrides import overridden
from trainer.recipes.schedules import Schedule
from tuner.records import Measure, Sweep, Trial, best, short_name
from tuner.report.analysis import (
    NOWHERE,
    Importance,
    MetricScale,
    SettingScale,
    comparable,
    front,
    known_value,
    written,
)
from tuner.search.space import Domain

STEP, MARGIN, HEIGHT, TOP = 132.0, 62.0, 300.0, 48.0
"""Distance between axes, room beside the first and last, length of the axes, room above, in CSS pixels."""
SHADES = 5
"""Lines have one of so many colors, by their rank on the metric that decides."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    y: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Axis of a setting or a metric."""

    x: float
    title: str
    whole: str
    """The title in full, for those who ask."""
    ticks: tuple[Tick, ...]
    gap: bool
    """Whether a line passes below it."""


@dataclass(frozen=True)
class Line:
    """Line of a trial."""

    number: int
    style: str
    """Classes of the style sheet: shade-0 (worst) to shade-4, or unmeasured; best; early for one that was
    stopped, failed or still runs."""
    heights: tuple[float, ...]
    """y at each axis."""
    points: tuple[tuple[float, float], ...]
    words: str

    @property
    def path(self) -> str:
        """Attribute d of the SVG path."""
        return "M" + "L".join(f"{x:g} {y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates of a sweep."""

    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    """In the order of drawing: the best one last, on top."""

    @property
    def width(self) -> float:
        """Width in CSS pixels."""
        return self.axes[-1].x + MARGIN + 30

    @property
    def height(self) -> float:
        """Height in CSS pixels."""
        return _y(NOWHERE) + 28

    @property
    def top(self) -> float:
        """y of the axes' upper ends."""
        return _y(1.0)

    @property
    def bottom(self) -> float:
        """y of the axes' lower ends."""
        return _y(0.0)

    @property
    def below(self) -> float:
        """y of lines where a setting has no effect or a metric has no value."""
        return _y(NOWHERE)


def parallel(sweep: Sweep, trials: Sequence[Trial]) -> Parallel:
    """Parallel coordinates of all trials of a sweep, failed ones included."""
    settings = [SettingScale(domain) for domain in map(Domain.from_json, sweep.space)]
    metrics = [MetricScale.of(measure, trials) for measure in sweep.metrics]
    ranks, leader = _shades(sweep, trials), best(trials, sweep.metric)
    lines = []
    for trial in sorted(trials, key=lambda one: (leader is one, ranks.get(one.id, -1))):
        places = [scale.place(trial.values.get(scale.domain.path)) for scale in settings]
        places += [scale.place(trial.value(scale.measure.name)) for scale in metrics]
        heights = tuple(map(_y, places))
        is_best = leader is not None and trial.id == leader.id
        lines.append(
            Line(
                number=trial.number,
                style=_style(trial, ranks.get(trial.id), is_best),
                heights=heights,
                points=tuple(zip(map(_x, range(len(heights))), heights, strict=True)),
                words=_trial_words(trial, is_best),
            )
        )
    axes = []
    for index, scale in enumerate([*settings, *metrics]):
        ticks = tuple(Tick(_y(share), text) for share, text in scale.ticks)
        title, whole = _titles(scale)
        gap = any(line.heights[index] == _y(NOWHERE) for line in lines)
        axes.append(Axis(_x(index), title, whole, ticks, gap))
    return Parallel(tuple(axes), tuple(lines))


def _shades(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, int]:
    """Shades by trial id, for trials with the deciding metric: 0 for the worst fifth, 4 for the best."""
    sign = 1.0 if sweep.metric.direction == "max" else -1.0
    known = [(value, trial.id) for trial in trials if (value := trial.value(sweep.metric.name)) is not None]
    ordered = sorted(known, key=lambda one: sign * one[0])
    return {name: SHADES * place // len(ordered) for place, (_, name) in enumerate(ordered)}


def _style(trial: Trial, shade: int | None, is_best: bool) -> str:
    words = ["unmeasured" if shade is None else f"shade-{shade}"]
    words += ["early"] * (trial.status != "finished") + ["best"] * is_best
    return " ".join(words)


def _trial_words(trial: Trial, is_best: bool) -> str:
    """Everything that a line shows, as text."""
    settings = ", ".join(f"{path} {written(value)}" for path, value in trial.values.items())
    measured = trial.reports[-1].metrics if trial.reports else {}
    values = ", ".join(f"{name} {written(value)}" for name, value in measured.items()) or "nothing measured"
    return f"trial {trial.number}{', the best' if is_best else ''} ({trial.status}): {settings}; {values}"


def _titles(scale: SettingScale | MetricScale) -> tuple[str, str]:
    if isinstance(scale, SettingScale):
        path = scale.domain.path
        return short_name(path), path
    end = "more is better" if scale.measure.direction == "max" else "less is better"
    return scale.measure.name, f"{scale.measure.label} ({end}; the best is at the top)"


def _x(index: int) -> float:
    return MARGIN + STEP * index


def _y(place: float) -> float:
    return TOP + HEIGHT * (1 - place)


_POINTS = 60


@dataclass(frozen=True)
class Span:
    """A stage from its first to its last photo."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Piece:
    """Schedule over one stage."""

    span: Span
    schedule: Schedule
    photos: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Schedule over the stages in which it has an effect; each stage starts anew and may have another one."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def words(self) -> str:
        """The schedule in words; changed ones follow each other."""
        changes = [self.pieces[0]]
        for piece in self.pieces[1:]:
            if piece.schedule != changes[-1].schedule:
                changes.append(piece)
        if len(changes) == 1:
            return f"{self.name}, {_words(changes[0].schedule)}"
        each = "; ".join(f"from {piece.span.name} on {_words(piece.schedule)}" for piece in changes)
        return f"{self.name}, {each}"


def _words(one: Schedule) -> str:
    if one.shape == "constant":
        return f"constant at {one.start:.3g}"
    warmup = f" with a warm-up over {100 * one.warmup:.0f} %" if one.shape == "warmup_cosine" else ""
    return f"in each stage {one.shape} from {one.start:.3g} to {one.end:.3g}{warmup}"


def spans(config: Config, trial: Trial) -> list[Span]:
    """Its stages. Where it reported their ends are exact, elsewhere in proportion to the config's rounds."""
    stages = config.recipe.build().stages
    shares = list(accumulate(stage.rounds for stage in stages))
    reported = {report.stage: float(report.images_seen) for report in trial.reports}
    known = [
        (share, reported[stage.name])
        for stage, share in zip(stages, shares, strict=True)
        if stage.name in reported
    ]
    share, seen = known[-1] if known else (shares[-1], max(reported.values()))
    photos = seen / share
    ends = [reported.get(stage.name, photos * share) for stage, share in zip(stages, shares, strict=True)]
    return [
        Span(stage.name, start, end) for stage, start, end in zip(stages, [0.0, *ends[:-1]], ends, strict=True)
    ]


def curves(config: Config, trial: Trial) -> list[Curve]:
    """What the recipe changes over its stages, such as the heat map's temperature.

    Args:
        config: the trial's last.
        trial: its legs say what held before.
    """
    pieces: dict[str, list[Piece]] = {}
    for span in spans(config, trial):
        for name, schedule in _config_at(config, trial, span).recipe.schedules(span.name).items():
            pieces.setdefault(name, []).append(_piece(span, schedule))
    return [Curve(name, tuple(found)) for name, found in pieces.items()]


def _config_at(config: Config, trial: Trial, span: Span) -> Config:
    """Config of a stage; trials change their settings only between stages."""
    begun = [leg for leg in trial.legs if leg.images_seen <= span.start + 0.5]
    return overridden(config, begun[-1].values) if begun else config


def _piece(span: Span, schedule: Schedule) -> Piece:
    progress = np.linspace(0.0, 1.0, _POINTS)
    values = np.array([schedule.at(float(share)) for share in progress])
    return Piece(span, schedule, span.start + progress * (span.end - span.start), values)


_QUIET = "#9a9aa0"
_SHADES = ("#c6d9e8", "#9dc3de", "#62a0cc", "#2a78b0", "#00446f")
"""Of lines from the worst to the best trials; the page's style sheet has them too."""
_BEST = looks(["a", "b"])["b"].color
_LINE = 46
_MIN_NAMED = 0.03
"""Share of the axis that a stage must have to be named."""


def draw_importance(panel: Axes, found: Importance) -> str:
    """Draw importance bars, hollow where only some of the trials count; returns the text for them."""
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
    """Figure of `draw_importance`."""
    figure = new_figure(6.4, 1.0 + 0.34 * len(found.shares))
    return Picture(figure, draw_importance(figure.subplots(), found))


def draw_curve(
    top: Axes, bottom: Axes, trials: Sequence[Trial], leader: Trial, config: Config, measure: Measure
) -> None:
    """Draw the best trial's metric among all others, with its temperature schedules below."""
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
    if drawn:
        bottom.legend(fontsize=8, edgecolor="none", framealpha=0.8)
    changing = [span for span in stages if config.recipe.schedules(span.name)]
    _mark_stages(top, bottom, changing or stages)


def best_curve(trials: Sequence[Trial], leader: Trial, config: Config, measure: Measure) -> Picture:
    """Figure of `draw_curve`."""
    figure = new_figure(6.4, 5.0)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    draw_curve(top, bottom, trials, leader, config, measure)
    values = ", ".join(
        f"{one.images_seen:,} photos ({one.stage}): {written(one.metrics.get(measure.name))}"
        for one in leader.reports
    )
    below = "; ".join(curve.words for curve in curves(config, leader))
    text = f"Trial {leader.number}: {measure.label} after {values}."
    return Picture(figure, f"{text} Below it {below}." if below else text)


def draw_pareto(panel: Axes, sweep: Sweep, trials: Sequence[Trial], other: Measure) -> str:
    """Draw the deciding metric against another; Pareto-optimal trials are filled and joined."""
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
    """Plots of the deciding metric against each other one, over trials that have both."""
    pictures = []
    for other in sweep.metrics[1:]:
        if comparable(trials, [sweep.metric, other]):
            figure = new_figure()
            pictures.append(Picture(figure, draw_pareto(figure.subplots(), sweep, trials, other)))
    return pictures


def draw_parallel(panel: Axes, drawing: Parallel) -> None:
    """Draw the page's parallel coordinates with matplotlib."""
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
    """All figures in one, for documents; the Pareto plot is that of the first two metrics."""
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
    """Photos seen and values of the metric, where it was measured."""
    pairs = [(report.images_seen, report.metrics.get(measure.name)) for report in trial.reports]
    return [(seen, value) for seen, value in pairs if value is not None]


_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


def _draw_schedule(panel: Axes, curve: Curve, color: str, linestyle: str) -> None:
    for index, piece in enumerate(curve.pieces):
        label = curve.name if index == 0 else None
        panel.plot(piece.photos, piece.values, color=color, linestyle=linestyle, linewidth=1.6, label=label)


def _mark_stages(top: Axes, bottom: Axes, stages: Sequence[Span]) -> None:
    """A line at the beginning of each stage with its name."""
    begin, whole = stages[0].start, stages[-1].end
    for span in stages:
        for panel in (top, bottom):
            panel.axvline(span.start, color=_QUIET, linewidth=0.7, linestyle=":")
        if span.end - span.start > _MIN_NAMED * (whole - begin):
            place = (span.start, 1.01)
            top.annotate(
                span.name, place, xycoords=("data", "axes fraction"), ha="left", rotation=30, fontsize=7, color=INK
            )
    top.set_xlim(begin - 0.02 * (whole - begin), whole + 0.02 * (whole - begin))


def _with_end(measure: Measure) -> str:
    end = "more is better" if measure.direction == "max" else "less is better"
    return fill(f"{measure.label} ({end})", _LINE)
