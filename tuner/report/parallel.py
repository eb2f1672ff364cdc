"""Parallel coordinates: an upright axis for each searched setting and each metric, a line for each trial.

Only geometry is made here; the page draws it as SVG and `tuner.report.figures` with matplotlib.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.record import Sweep, Trial, best
from tuner.scales import NOWHERE, MetricScale, SettingScale, written
from tuner.space import Domain

STEP, MARGIN, HEIGHT, TOP = 132.0, 62.0, 300.0, 48.0
"""Distance between axes, room beside the first and last, length of the axes, room above, in CSS pixels."""
SHADES = 5
"""Lines have one of so many colours, by their rank on the metric that decides."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    y: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A setting or a metric."""

    x: float
    title: str
    whole: str
    """The title in full, for those who ask."""
    ticks: tuple[Tick, ...]
    gap: bool
    """Whether a line passes below it."""


@dataclass(frozen=True)
class Line:
    """A trial."""

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
        """For SVG's attribute d."""
        return "M" + "L".join(f"{x:g} {y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Parallel:
    """The whole drawing."""

    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    """In the order of drawing: the best one last, on top."""

    @property
    def width(self) -> float:
        """In CSS pixels."""
        return self.axes[-1].x + MARGIN + 30

    @property
    def height(self) -> float:
        """In CSS pixels."""
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
        """y of lines where a setting has no effect, or a metric no value."""
        return _y(NOWHERE)


def parallel(sweep: Sweep, trials: Sequence[Trial]) -> Parallel:
    """Of all trials of a sweep, failed ones included."""
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
                words=_words(trial, is_best),
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
    """By id, for the trials that measured what decides: 0 for the worst fifth, 4 for the best."""
    sign = 1.0 if sweep.metric.direction == "max" else -1.0
    known = [(value, trial.id) for trial in trials if (value := trial.value(sweep.metric.name)) is not None]
    ordered = sorted(known, key=lambda one: sign * one[0])
    return {name: SHADES * place // len(ordered) for place, (_, name) in enumerate(ordered)}


def _style(trial: Trial, shade: int | None, is_best: bool) -> str:
    words = ["unmeasured" if shade is None else f"shade-{shade}"]
    words += ["early"] * (trial.status != "finished") + ["best"] * is_best
    return " ".join(words)


def _words(trial: Trial, is_best: bool) -> str:
    """All that a line shows, as text."""
    settings = ", ".join(f"{path} {written(value)}" for path, value in trial.values.items())
    measured = trial.reports[-1].metrics if trial.reports else {}
    values = ", ".join(f"{name} {written(value)}" for name, value in measured.items()) or "nothing measured"
    return f"trial {trial.number}{', the best' if is_best else ''} ({trial.status}): {settings}; {values}"


def _titles(scale: SettingScale | MetricScale) -> tuple[str, str]:
    if isinstance(scale, SettingScale):
        path = scale.domain.path
        return ".".join(path.split(".")[1:]) or path, path
    end = "more is better" if scale.measure.direction == "max" else "less is better"
    return scale.measure.name, f"{scale.measure.label} ({end}; the best is at the top)"


def _x(index: int) -> float:
    return MARGIN + STEP * index


def _y(place: float) -> float:
    return TOP + HEIGHT * (1 - place)
