"""Analysis of a sweep's trials: means by group, Pareto front, importance of settings."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from scipy.stats import spearmanr

from tuner.records import Measure, Report, Sweep, Trial
from tuner.search.space import EXTRA_SHARE, Domain

NOWHERE = -0.14
"""Of a setting without effect in a trial, or a metric that was not measured: below the axis."""
Tick = tuple[float, str]


@dataclass(frozen=True)
class SettingScale:
    """Axis scale of a setting: choices evenly spaced, ranges linear or logarithmic, extra values below."""

    domain: Domain

    @property
    def ticks(self) -> list[Tick]:
        """Positions and labels, from the bottom."""
        domain = self.domain
        if domain.kind == "choice":
            return [(self.place(value), written(value)) for value in domain.values]
        low, high = domain.limits
        between = _decades(low, high) if domain.kind == "log_uniform" else []
        values = [*sorted(domain.extra), low, *between, high]
        return [(self.place(value), written(value)) for value in values]

    def place(self, value: Any) -> float:
        """Position in [0, 1]; `NOWHERE` for None."""
        domain = self.domain
        if value is None:
            return NOWHERE
        if domain.kind == "choice":
            values = [_plain(one) for one in domain.values]
            return values.index(_plain(value)) / (len(values) - 1) if len(values) > 1 else 0.5
        below = EXTRA_SHARE if domain.extra else 0.0
        if value in domain.extra:
            return below * (sorted(domain.extra).index(value) + 0.5) / len(domain.extra)
        low, high = domain.limits
        if domain.kind == "log_uniform":
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return below + (1 - below) * min(max(share, 0.0), 1.0)

    def thirds(self) -> list[tuple[float, float]]:
        """Lower and upper ends of three parts of the range that are searched equally often."""
        low, high = self.domain.limits
        if self.domain.kind == "log_uniform":
            ends = [low * (high / low) ** (part / 3) for part in range(4)]
        else:
            ends = [low + (high - low) * part / 3 for part in range(4)]
        return [(ends[part], ends[part + 1]) for part in range(3)]


@dataclass(frozen=True)
class MetricScale:
    """Axis scale of a metric, from its worst value at the bottom to its best at the top."""

    measure: Measure
    worst: float
    best: float

    @classmethod
    def of(cls, measure: Measure, trials: Sequence[Trial]) -> "MetricScale":
        """Scale over what these trials measured at the end."""
        values = [value for trial in trials if (value := trial.value(measure.name)) is not None] or [0.0]
        low, high = min(values), max(values)
        return cls(measure, low, high) if measure.direction == "max" else cls(measure, high, low)

    @property
    def ticks(self) -> list[Tick]:
        """Positions and labels, from the bottom."""
        if self.worst == self.best:
            return [(0.5, written(self.best))]
        return [(share, written(self.worst + share * (self.best - self.worst))) for share in (0.0, 0.5, 1.0)]

    def place(self, value: float | None) -> float:
        """Position in [0, 1]; `NOWHERE` for None."""
        if value is None:
            return NOWHERE
        return 0.5 if self.worst == self.best else (value - self.worst) / (self.best - self.worst)


def written(value: Any) -> str:
    """A setting's or metric's value as text; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return " ".join(map(written, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten inside a range, away from its ends."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers if low * 1.5 < 10.0**power < high / 1.5]


def _plain(value: Any) -> Any:
    """A value with lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def comparable(trials: Sequence[Trial], measures: Sequence[Measure]) -> list[Trial]:
    """Trials that have a value of each of these metrics: the finished ones, or all where none is finished.

    A trial that was stopped early has seen fewer photos, as in `tuner.records.best`.
    """
    known = [trial for trial in trials if all(trial.value(measure.name) is not None for measure in measures)]
    return [trial for trial in known if trial.status == "finished"] or [
        trial for trial in known if trial.status in ("stopped", "running")
    ]


def front(trials: Sequence[Trial], measures: Sequence[Measure]) -> list[Trial]:
    """Pareto-optimal ones of the comparable trials, best on the first metric first.

    A trial is out when another one is at least as good on every metric and better on one. Equal ones all stay.
    """
    found = comparable(trials, measures)
    kept = [one for one in found if not any(_beats(other, one, measures) for other in found)]
    sign = -1.0 if measures[0].direction == "max" else 1.0
    return sorted(kept, key=lambda trial: sign * known_value(trial, measures[0]))


def _beats(one: Trial, other: Trial, measures: Sequence[Measure]) -> bool:
    pairs = [(measure, known_value(one, measure), known_value(other, measure)) for measure in measures]
    return not any(measure.better(b, a) for measure, a, b in pairs) and any(
        measure.better(a, b) for measure, a, b in pairs
    )


def known_value(trial: Trial, measure: Measure) -> float:
    """Value of a comparable trial, which is never None."""
    value = trial.value(measure.name)
    assert value is not None
    return value


QUESTIONS = ("recipe.choice.estimator", "recipe.loss.entropy", "recipe.choice.temperature.shape")
"""Settings that the project asks about."""
SEED = "seed"
_MAX_EXACT = 6
"""Different values of a range that are shown one by one; more fall into thirds of the range."""
_FEWEST = 5
"""Trials below which no correlation is computed."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one metric over a group."""

    mean: float
    deviation: float
    """Standard deviation of the trials (n - 1); NaN for a single one."""
    count: int


@dataclass(frozen=True)
class Group:
    """Trials with a common property."""

    name: str
    trials: tuple[Trial, ...]

    def spread(self, measure: Measure) -> Spread | None:
        """Spread over the trials that have the metric; None where none has."""
        values = [value for trial in self.trials if (value := trial.value(measure.name)) is not None]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return Spread(statistics.fmean(values), deviation, len(values))


def by_setting(sweep: Sweep, trials: Sequence[Trial], path: str) -> list[Group]:
    """Comparable trials grouped by the value of one searched setting; empty where it is not searched."""
    domain = next((one for one in map(Domain.from_json, sweep.space) if one.path == path), None)
    mine = [trial for trial in comparable(trials, [sweep.metric]) if path in trial.values]
    if domain is None or not mine:
        return []
    name = _namer(domain, mine, path)
    names = {trial.id: name(trial) for trial in mine}
    scale = SettingScale(domain)
    first = {names[trial.id]: scale.place(trial.values[path]) for trial in reversed(mine)}
    return [
        Group(one, tuple(trial for trial in mine if names[trial.id] == one))
        for one in sorted(first, key=lambda one: first[one])
    ]


def over_seeds(sweep: Sweep, trials: Sequence[Trial]) -> list[Group]:
    """Groups of at least two comparable trials that differ in nothing but the seed."""
    found: dict[str, list[Trial]] = {}
    for trial in comparable(trials, [sweep.metric]):
        if SEED in trial.values:
            rest = {path: value for path, value in trial.values.items() if path != SEED}
            found.setdefault(json.dumps(rest), []).append(trial)
    named = {
        ", ".join(f"{path} {written(value)}" for path, value in json.loads(key).items()): group
        for key, group in found.items()
        if len(group) > 1
    }
    return [Group(name, tuple(group)) for name, group in named.items()]


@dataclass(frozen=True)
class Association:
    """Spearman's rank correlation of a setting with a metric, over comparable trials."""

    path: str
    measure: Measure
    correlation: float
    p_value: float
    """Two-sided, against no association; other settings varied too."""
    count: int


def association(trials: Sequence[Trial], path: str, measure: Measure) -> Association | None:
    """Rank correlation of a setting with a metric; None with fewer than five trials, or where one is constant."""
    mine = [trial for trial in comparable(trials, [measure]) if isinstance(trial.values.get(path), int | float)]
    settings = [trial.values[path] for trial in mine]
    values = [trial.value(measure.name) for trial in mine]
    if len(mine) < _FEWEST or len(set(settings)) < 2 or len(set(values)) < 2:
        return None
    correlation, p_value = np.asarray(spearmanr(settings, values), dtype=np.float64).tolist()
    return Association(path, measure, correlation, p_value, len(mine))


def _namer(domain: Domain, trials: Sequence[Trial], path: str) -> Callable[[Trial], str]:
    """Function that names a trial's group."""
    values = {json.dumps(trial.values[path]) for trial in trials}
    if domain.kind == "choice" or len(values) <= _MAX_EXACT:
        return lambda trial: written(trial.values[path])
    thirds = SettingScale(domain).thirds()

    def name(trial: Trial) -> str:
        value = trial.values[path]
        if value in domain.extra:
            return written(value)
        low, high = next((third for third in thirds if value <= third[1]), thirds[-1])
        return f"{low:.2g} to {high:.2g}"

    return name


MIN = 4
"""Trials below which nothing is computed."""
FOR_EACH = 10
"""Trials for each setting below which the shares are not to be trusted."""


@dataclass(frozen=True)
class Share:
    """Importance of one setting."""

    path: str
    share: float
    """Of the variance, from 0 to 1, its effect alone; the rest belongs to combinations."""
    trials: int
    """That it was judged by."""
    conditional: bool
    """Whether it is searched only in some trials, and judged among them."""


@dataclass(frozen=True)
class Importance:
    """Shares of all settings, the largest first, and the data they were computed from."""

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
    """Importance of all searched settings; None with fewer than four trials, or where none differs."""
    seen, values = common_report(trials, measure)
    if len(values) < MIN or len(set(values.values())) < 2:
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
        if domain not in always and len(mine) >= MIN and len({values[trial.id] for trial in mine}) > 1:
            share = _shares([*always, domain], mine, values, measure)[domain.path]
            shares.append(Share(domain.path, share, len(mine), True))
    measured = sum(any(_has(report, measure) for report in trial.reports) for trial in trials)
    shares.sort(key=lambda one: (one.conditional, -one.share))
    return Importance(measure, tuple(shares), seen, len(reached), measured, _doubt(shares))


def common_report(trials: Sequence[Trial], measure: Measure) -> tuple[int, dict[str, float]]:
    """Latest number of photos at which at least half of the trials measured the metric.

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
    """Optuna's importances on each setting's own scale, so that 0 and logarithms count as in the search."""
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
