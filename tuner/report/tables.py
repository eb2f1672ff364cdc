"""The report's tables as rows of text, for the parts that all reports share."""

import math
from collections.abc import Sequence

from evaluator.report.tables import Cell, Table
from tuner.groups import Group
from tuner.record import Measure, Sweep, Trial, best
from tuner.scales import written

_ORDER = ("running", "finished", "stopped", "failed")


def trial_table(sweep: Sweep, trials: Sequence[Trial]) -> Table:
    """Every trial with all that is known about it; by status, then from the best to the worst."""
    leader = best(trials, sweep.metric)
    paths = [entry["path"] for entry in sweep.space]
    copied, broken = (any(getattr(trial, name) for trial in trials) for name in ("parent", "error"))
    columns = ["status", *(measure.name for measure in sweep.metrics), *map(_short, paths)]
    columns += ["photos seen", "stage", "seconds", *["weights of"] * copied, *["error"] * broken]
    numbers = {trial.id: str(trial.number) for trial in trials}
    rows = []
    for trial in sorted(trials, key=lambda trial: _rank(sweep, trial)):
        style = "better" if leader and trial.id == leader.id else ""
        cells = [Cell(trial.status, verdict="best" if style else "", style=style)]
        cells += [Cell(written(trial.value(measure.name)), style=style) for measure in sweep.metrics]
        cells += [Cell(written(trial.values.get(path))) for path in paths]
        last = trial.reports[-1] if trial.reports else None
        cells += [Cell(f"{last.images_seen:,}" if last else "–"), Cell(last.stage if last else "–")]
        cells.append(Cell(f"{trial.seconds:.0f}"))
        if copied:
            cells.append(Cell(numbers.get(trial.parent or "", "–")))
        if broken:
            cells.append(Cell("", gain=trial.error or ""))
        rows.append((str(trial.number), cells))
    caption = f"All {len(trials)} trials: values at each one's last report; a dash where a setting has no effect"
    return Table(caption, "trial", columns, rows)


def leg_table(sweep: Sweep, trials: Sequence[Trial], leader: Trial) -> Table:
    """What the best trial's weights were trained with, part after part; a setting that changed is marked."""
    numbers = {trial.id: str(trial.number) for trial in trials}
    paths = [entry["path"] for entry in sweep.space]
    rows, before = [], leader.legs[0].values
    for leg in leader.legs:
        cells = [Cell(numbers.get(leg.trial, "–"))]
        for path in paths:
            value = leg.values.get(path)
            style, verdict = ("better", "changed") if value != before.get(path) else ("", "")
            cells.append(Cell(written(value), "", verdict, style))
        rows.append((f"{leg.images_seen:,}", cells))
        before = leg.values
    caption = f"Trial {leader.number}: settings from each number of photos on"
    return Table(caption, "photos", ["trial", *map(_short, paths)], rows)


def pareto_table(sweep: Sweep, kept: Sequence[Trial], count: int) -> Table:
    """The trials that no other one beats on every metric, the best on the first metric first."""
    names = [entry["path"] for entry in sweep.space]
    rows = [
        (
            str(trial.number),
            [Cell(written(trial.value(measure.name))) for measure in sweep.metrics]
            + [Cell(written(trial.values.get(path))) for path in names],
        )
        for trial in kept
    ]
    caption = (
        f"Of {count} trials with all metrics, the {len(kept)} that no other one beats on every metric "
        f"({', '.join(f'{measure.name}: {_end(measure)}' for measure in sweep.metrics)})"
    )
    return Table(caption, "trial", [*(measure.name for measure in sweep.metrics), *map(_short, names)], rows)


def group_table(caption: str, corner: str, groups: Sequence[Group], measures: Sequence[Measure]) -> Table:
    """Mean and standard deviation of each metric by group; the best mean of each metric is marked."""
    columns = ["trials", *(measure.name for measure in measures)]
    means = {
        measure.name: [spread.mean for group in groups if (spread := group.spread(measure))]
        for measure in measures
    }
    rows = []
    for group in groups:
        cells = [Cell(str(len(group.trials)))]
        for measure in measures:
            spread = group.spread(measure)
            if spread is None:
                cells.append(Cell("–"))
                continue
            top = max(means[measure.name]) if measure.direction == "max" else min(means[measure.name])
            is_top = spread.mean == top and len(groups) > 1
            deviation = f"± {spread.deviation:.2g}" if math.isfinite(spread.deviation) else "one trial"
            style, verdict = ("better", "best mean") if is_top else ("", "")
            cells.append(Cell(written(spread.mean), deviation, verdict, style))
        rows.append((group.name, cells))
    return Table(caption, corner, columns, rows)


def _rank(sweep: Sweep, trial: Trial) -> tuple[int, float, int]:
    value = trial.value(sweep.metric.name)
    sign = -1.0 if sweep.metric.direction == "max" else 1.0
    return _ORDER.index(trial.status), math.inf if value is None else sign * value, trial.number


def _end(measure: Measure) -> str:
    return "more is better" if measure.direction == "max" else "less is better"


def _short(path: str) -> str:
    return ".".join(path.split(".")[1:]) or path
