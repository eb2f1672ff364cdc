"""How much of a metric's variation each searched setting explains: Optuna's functional ANOVA over random forests.

Trials that stop early never reach the end, so all trials are compared at one report that most of them reached. A
setting that is searched in some trials only is judged among those, so its share is of another whole.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from tuner.record import Measure, Report, Sweep, Trial
from tuner.scales import SettingScale
from tuner.space import Domain

FEWEST = 4
"""Trials below which nothing is computed."""
FOR_EACH = 10
"""Trials for each setting below which the shares are not to be trusted."""


@dataclass(frozen=True)
class Share:
    """What one setting explains."""

    path: str
    share: float
    """Of the variance, from 0 to 1, its effect alone; the rest belongs to combinations."""
    trials: int
    """That it was judged by."""
    conditional: bool
    """Whether it is searched only in some trials, and judged among them."""


@dataclass(frozen=True)
class Importance:
    """All shares, the largest first, and what they were computed from."""

    measure: Measure
    shares: tuple[Share, ...]
    images_seen: int
    """Where the trials were compared."""
    trials: int
    """That reached it."""
    measured: int
    """That measured the metric at all."""
    doubt: str
    """Why not to trust it; empty where there are trials enough."""


def importance(sweep: Sweep, trials: Sequence[Trial], measure: Measure) -> Importance | None:
    """The shares of all searched settings; None with fewer than four trials, or none that differs."""
    seen, values = common_report(trials, measure)
    if len(values) < FEWEST or len(set(values.values())) < 2:
        return None
    domains = [Domain.from_json(entry) for entry in sweep.space]
    reached = [trial for trial in trials if trial.id in values]
    always = [domain for domain in domains if all(domain.path in trial.values for trial in reached)]
    shares = [
        Share(path, share, len(reached), False)
        for path, share in _shares(always, reached, values, measure).items()
    ]
    for domain in domains:
        mine = [trial for trial in reached if domain.path in trial.values]
        if domain not in always and len(mine) >= FEWEST and len({values[trial.id] for trial in mine}) > 1:
            share = _shares([*always, domain], mine, values, measure)[domain.path]
            shares.append(Share(domain.path, share, len(mine), True))
    measured = sum(any(_has(report, measure) for report in trial.reports) for trial in trials)
    shares.sort(key=lambda one: (one.conditional, -one.share))
    return Importance(measure, tuple(shares), seen, len(reached), measured, _doubt(shares))


def common_report(trials: Sequence[Trial], measure: Measure) -> tuple[int, dict[str, float]]:
    """The latest number of photos at which at least half of the trials measured the metric.

    Returns:
        Photos, and the values there by the trials' ids; 0 and nothing where no trial measured it.
    """
    known = {
        trial.id: {
            report.images_seen: value
            for report in trial.reports
            if (value := report.metrics.get(measure.name)) is not None
        }
        for trial in trials
    }
    known = {name: values for name, values in known.items() if values}
    counts = Counter(seen for values in known.values() for seen in values)
    enough = [seen for seen, count in counts.items() if 2 * count >= len(known)]
    if not enough:
        return 0, {}
    latest = max(enough)
    return latest, {name: values[latest] for name, values in known.items() if latest in values}


def _shares(
    domains: Sequence[Domain], trials: Sequence[Trial], values: dict[str, float], measure: Measure
) -> dict[str, float]:
    """By Optuna, on each setting's own scale, so that 0 and logarithms count as the search counts them."""
    if not domains:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if measure.direction == "max" else "minimize")
    distributions = {domain.path: _distribution(domain) for domain in domains}
    for trial in trials:
        points = {domain.path: _point(domain, trial) for domain in domains}
        study.add_trial(
            optuna.trial.create_trial(params=points, distributions=distributions, value=values[trial.id])
        )
    found = FanovaImportanceEvaluator(seed=0).evaluate(study)
    return {domain.path: found[domain.path] for domain in domains}


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(tuple(range(len(domain.values))))
    return FloatDistribution(0.0, 1.0)


def _point(domain: Domain, trial: Trial) -> float | int:
    place = SettingScale(domain).place(trial.values[domain.path])
    return round(place * (len(domain.values) - 1)) if domain.kind == "choice" else place


def _has(report: Report, measure: Measure) -> bool:
    return report.metrics.get(measure.name) is not None


def _doubt(shares: Sequence[Share]) -> str:
    joint = [one for one in shares if not one.conditional]
    if not joint or joint[0].trials >= FOR_EACH * len(joint):
        return ""
    return (
        f"{joint[0].trials} trials for {len(joint)} settings are too few to trust these shares: "
        f"wait for {FOR_EACH * len(joint)}"
    )
