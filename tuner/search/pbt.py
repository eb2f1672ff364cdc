"""Population-based training: Ray's scheduler over a `Space`, its initial population and its mutations.

A trial's config is `{"point": values}`, and after a copy also whose weights it has and which settings made them.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from tuner.plan import Course, Plan
from tuner.records import LEGS, PARENT, POINT, Measure, measured
from tuner.search.space import Domain, Space


class Pbt(PopulationBasedTraining):
    """Population-based training: trials in the worst quarter copy the weights of trials in the best quarter.

    It also takes over that trial's settings, of which the mutated ones are perturbed (times 0.8 or 1.2, or drawn
    anew). A report without the metric decides nothing.

    Whom a trial copies and what is perturbed depend on the seed, the trial's number and its photos, so that they
    repeat where the reports come in the same order.
    """

    def __init__(self, measure: Measure, course: Course, space: Space, mutated: Sequence[str], seed: int) -> None:
        super().__init__(
            time_attr="images_seen",
            metric=measure.name,
            mode=measure.direction,
            perturbation_interval=course.shortest,
            hyperparam_mutations={POINT: {path: mutation(space.domain(path)) for path in mutated}},
            custom_explore_fn=partial(_inside, space),
            log_config=False,
        )
        self._measure, self._last, self._seed = measure, course.ends[-1], seed

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether to continue, pause, or copy another trial's weights; not after the last stage."""
        if measured(result, self._measure) is None or result["images_seen"] >= self._last:
            return TrialScheduler.CONTINUE
        with _drawn_from(self._seed, trial.trial_id.rpartition("_")[2], result["images_seen"]):
            return super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ray's new config, with a note of whose weights were copied and which settings made them."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        source, result = trial_to_clone.config, self._trial_state[trial_to_clone].last_result
        assert result is not None, "it was copied at a report"
        copied: Any = result["images_seen"]
        first = {"images_seen": 0, "values": source[POINT], "trial": trial_to_clone.trial_id}
        # The copied trial may have begun a leg since that checkpoint.
        before = [leg for leg in source.get(LEGS, [first]) if leg["images_seen"] < max(copied, 1)]
        new = {"images_seen": copied, "values": config[POINT], "trial": trial.trial_id}
        return {**config, PARENT: trial_to_clone.trial_id, LEGS: [*before, new]}, operations


@contextmanager
def _drawn_from(*position: Any) -> Iterator[None]:
    """Context in which Ray's scheduler and `mutation` draw from this generator instead of Python's global one."""
    before = random.getstate()
    random.seed(repr(position))
    try:
        yield
    finally:
        random.setstate(before)


def mutation(domain: Domain) -> list[Any] | Callable[[], float]:
    """Mutation of a setting: redrawn from its domain, by Python's global generator."""
    if domain.kind == "choice":
        return list(domain.values)
    low, high = domain.limits
    if domain.kind == "integer":
        return partial(random.randint, int(low), int(high))
    return partial(_log_uniform if domain.kind == "log_uniform" else random.uniform, low, high)


def _log_uniform(low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def population(plan: Plan) -> list[dict[str, Any]]:
    """Initial population: points drawn by the search's sampler, every setting included.

    Settings that have no effect have the base config's value: a mutation may bring them into effect.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=plan.sweep.seed))
    return [plan.space.complete(plan.space.suggest(study.ask())) for _ in range(plan.population)]


def _inside(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    """A perturbed config with every value back in its domain."""
    values = {path: space.domain(path).clamp(value) for path, value in config[POINT].items()}
    return {**config, POINT: values}
