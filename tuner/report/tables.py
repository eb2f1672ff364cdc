"""Tables and sentences of the report: the question, the findings, their certainty."""

import math
from collections import Counter
from collections.abc import Sequence

from evaluator.report.tables import Cell, Table
from tuner.config import Budget, startup
from tuner.plan import FIRST_BUDGET
from tuner.records import Measure, Sweep, Trial, best, common_error, short_name
from tuner.report.analysis import QUESTIONS, Group, Importance, association, by_setting, comparable, written


def asked(sweep: Sweep, trials: Sequence[Trial], is_finished: bool) -> list[str]:
    """Description of the sweep: what was searched, how, and how far it got."""
    counts = Counter(trial.status for trial in trials)
    how = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none yet"
    sentences = [
        f"{len(sweep.space)} settings were searched by {sweep.search} with the scheduler {sweep.scheduler}, seed "
        f"{sweep.seed}, budget {sweep.budget}. Trials: {how}.",
        f"{sweep.metric.label} decides: the {'largest' if sweep.metric.direction == 'max' else 'smallest'} last "
        "value of a finished trial wins.",
    ]
    if sweep.search == "tpe":
        draws = startup(Budget.parse(sweep.options.get(FIRST_BUDGET, sweep.budget)).trials)
        sentences.append(f"TPE drew the first {draws} trials at random, and learned from then on.")
    if counts["failed"]:
        sentences.append(f"{common_error(trials)}.")
    if counts["stopped"]:
        sentences.append(
            "A stopped trial fell behind and saw fewer photos, so its values compare with no finished one's. "
            "Means and the Pareto table are over finished trials: the ones that did well early."
        )
    if sweep.scheduler == "pbt":
        sentences.append(
            "Trials copied weights and changed settings on the way: a row's settings are its last ones, and its "
            "values belong to the whole lineage."
        )
    if not is_finished:
        sentences.append("The sweep has not come to its end.")
    return sentences


def findings(sweep: Sweep, trials: Sequence[Trial]) -> list[str]:
    """The best trial, the best estimator by each metric, and the correlation with the entropy weight."""
    leader = best(trials, sweep.metric)
    if leader is None:
        return [f"No trial has measured {sweep.metric.name}."]
    settings = ", ".join(f"{path} {written(value)}" for path, value in leader.values.items())
    value = written(leader.value(sweep.metric.name))
    sentences = [f"Best: trial {leader.number} with {sweep.metric.label} {value}: {settings}."]
    estimators, entropy = QUESTIONS[:2]
    groups = by_setting(sweep, trials, estimators)
    for measure in sweep.metrics if len(groups) > 1 else ():
        known = [(group, spread) for group in groups if (spread := group.spread(measure))]
        sign = 1 if measure.direction == "max" else -1
        known.sort(key=lambda one: -sign * one[1].mean)
        if len(known) > 1:
            each = ", ".join(
                f"{group.name} {written(spread.mean)} ± {spread.deviation:.2g} (n = {spread.count})"
                for group, spread in known
            )
            sentences.append(f"Estimators by mean {measure.name}, the best first: {each}.")
    found = [one for measure in sweep.metrics if (one := association(trials, entropy, measure))]
    if found:
        each = ", ".join(f"{one.measure.name} {one.correlation:+.2f} ({_p_value(one.p_value)})" for one in found)
        sentences.append(
            f"Rank correlation of {entropy} over {found[0].count} trials with {each}. p is against none; other "
            "settings varied too, and nothing is corrected for several comparisons."
        )
    return sentences


def about_importance(found: Importance | None, sweep: Sweep, trials: Sequence[Trial]) -> list[str]:
    """Explanation of the importances, or why there are none."""
    if found is None:
        measured = len([trial for trial in trials if trial.value(sweep.metric.name) is not None])
        return [f"Not computed: {measured} trials measured {sweep.metric.name}, and four that differ are needed."]
    sentences = [
        f"Functional ANOVA over random forests (Optuna). Trials are compared at {found.images_seen:,} photos, the "
        f"latest report that half of them reached: {found.trials} of {found.measured}. Those that were stopped "
        "before it are missing. Shares need not add up to 1: the rest belongs to combinations.",
    ]
    if any(one.conditional for one in found.shares):
        sentences.append("Hatched bars: searched in some trials only, and judged among those.")
    if found.doubt:
        sentences.append(f"Beware: {found.doubt}.")
    if sweep.scheduler == "pbt":
        sentences.append("Beware: trials changed settings on the way, and count here with their last ones.")
    return sentences


def about_groups(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Which trials the means are over."""
    mine = comparable(trials, [sweep.metric])
    state = "finished" if any(trial.status == "finished" for trial in mine) else "unfinished"
    return (
        f"Mean ± standard deviation over {len(mine)} {state} trials. The other settings differ between the trials "
        "of a group, so the spread is theirs too; rows that share all settings but the seed show the seeds' own."
    )


def _p_value(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


_ORDER = ("running", "finished", "stopped", "failed")


def trial_table(sweep: Sweep, trials: Sequence[Trial]) -> Table:
    """Table of every trial; by status, then from the best to the worst."""
    leader = best(trials, sweep.metric)
    paths = [entry["path"] for entry in sweep.space]
    copied, broken = (any(getattr(trial, name) for trial in trials) for name in ("parent", "error"))
    columns = ["status", *(measure.name for measure in sweep.metrics), *map(short_name, paths)]
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
    """Settings of the best trial's legs, one after another; changed settings are marked."""
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
    return Table(caption, "photos", ["trial", *map(short_name, paths)], rows)


def pareto_table(sweep: Sweep, kept: Sequence[Trial], count: int) -> Table:
    """Table of the Pareto-optimal trials, best on the first metric first."""
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
    return Table(caption, "trial", [*(measure.name for measure in sweep.metrics), *map(short_name, names)], rows)


def group_table(caption: str, corner: str, groups: Sequence[Group], measures: Sequence[Measure]) -> Table:
    """Mean and standard deviation of each metric by group; each metric's best mean is marked."""
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
