"""Which trials may be compared with each other, and which of those no other one beats on every metric."""

from collections.abc import Sequence

from tuner.record import Measure, Trial


def comparable(trials: Sequence[Trial], measures: Sequence[Measure]) -> list[Trial]:
    """The trials that have a value of each of these metrics: the finished ones, or all where none is finished.

    A trial that was stopped early has seen fewer photos, as in `tuner.record.best`.
    """
    known = [trial for trial in trials if all(trial.value(measure.name) is not None for measure in measures)]
    return [trial for trial in known if trial.status == "finished"] or [
        trial for trial in known if trial.status in ("stopped", "running")
    ]


def front(trials: Sequence[Trial], measures: Sequence[Measure]) -> list[Trial]:
    """The Pareto-optimal ones of the comparable trials, best on the first metric first.

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
    """A comparable trial's value."""
    value = trial.value(measure.name)
    assert value is not None
    return value
