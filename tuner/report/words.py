"""The report's sentences: what was asked, what was found, and how sure that is."""

from collections import Counter
from collections.abc import Sequence

from tuner.budget import Budget, startup
from tuner.groups import QUESTIONS, association, by_setting
from tuner.importance import Importance
from tuner.pareto import comparable
from tuner.plan import FIRST_BUDGET
from tuner.record import Sweep, Trial, best, common_error
from tuner.scales import written


def asked(sweep: Sweep, trials: Sequence[Trial], is_finished: bool) -> list[str]:
    """What was searched, how, and how far it came."""
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
    """The best trial, the best estimator by each metric, and what the entropy weight goes along with."""
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
    """What the shares are, or why there are none."""
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
    """What the means are over."""
    mine = comparable(trials, [sweep.metric])
    state = "finished" if any(trial.status == "finished" for trial in mine) else "unfinished"
    return (
        f"Mean ± standard deviation over {len(mine)} {state} trials. The other settings differ between the trials "
        "of a group, so the spread is theirs too; rows that share all settings but the seed show the seeds' own."
    )


def _p_value(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
