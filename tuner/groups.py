"""Means and spreads over trials that have something in common: an estimator, an entropy weight, the seed aside."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from tuner.pareto import comparable
from tuner.record import Measure, Sweep, Trial
from tuner.scales import SettingScale, written
from tuner.space import Domain

QUESTIONS = ("choice.estimator", "loss.entropy", "choice.temperature.shape")
"""Settings that the project asks about."""
SEED = "seed"
_MOST_EXACT = 6
"""Different values of a range that are shown one by one; more fall into thirds of the range."""
_FEWEST = 5
"""Trials below which no correlation is computed."""


@dataclass(frozen=True)
class Spread:
    """Of one metric over a group."""

    mean: float
    deviation: float
    """Standard deviation of the trials (n - 1); NaN for a single one."""
    count: int


@dataclass(frozen=True)
class Group:
    """Trials with something in common."""

    name: str
    trials: tuple[Trial, ...]

    def spread(self, measure: Measure) -> Spread | None:
        """Over the trials that have the metric; None where none has."""
        values = [value for trial in self.trials if (value := trial.value(measure.name)) is not None]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return Spread(statistics.fmean(values), deviation, len(values))


def by_setting(sweep: Sweep, trials: Sequence[Trial], path: str) -> list[Group]:
    """The comparable trials by the value of one searched setting; nothing where it is not searched."""
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
    """The comparable trials that differ in nothing but the seed, where there are at least two such."""
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
    """Of a setting with numbers; None with fewer than five trials, or where either does not vary."""
    mine = [trial for trial in comparable(trials, [measure]) if isinstance(trial.values.get(path), int | float)]
    settings = [trial.values[path] for trial in mine]
    values = [trial.value(measure.name) for trial in mine]
    if len(mine) < _FEWEST or len(set(settings)) < 2 or len(set(values)) < 2:
        return None
    correlation, p_value = np.asarray(spearmanr(settings, values), dtype=np.float64).tolist()
    return Association(path, measure, correlation, p_value, len(mine))


def _namer(domain: Domain, trials: Sequence[Trial], path: str) -> Callable[[Trial], str]:
    """What a trial's group is called."""
    values = {json.dumps(trial.values[path]) for trial in trials}
    if domain.kind == "choice" or len(values) <= _MOST_EXACT:
        return lambda trial: written(trial.values[path])
    thirds = SettingScale(domain).thirds()

    def name(trial: Trial) -> str:
        value = trial.values[path]
        if value in domain.extra:
            return written(value)
        low, high = next((third for third in thirds if value <= third[1]), thirds[-1])
        return f"{low:.2g} to {high:.2g}"

    return name
