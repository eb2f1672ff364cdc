"""How the next trial is chosen and when one is stopped: Optuna's samplers and Ray's schedulers over a `Space`.

Ray Tune hands a trial `{"point": values}`: one level more than the values, because their names have dots.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from tuner.course import Course
from tuner.plan import Plan
from tuner.record import Measure, Trial, read_trials
from tuner.space import Domain, Space

POINT = "point"
PARENT = "parent"
"""Beside the point: id of the trial whose weights were copied last."""
ERROR = "error"
"""Result of a trial that failed by its own fault: the first line of what went wrong."""
REDUCTION = 2
"""ASHA stops all but the better 1 / REDUCTION of the trials at each rung, and rungs are this factor apart."""


def sampler(search: str, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name. Trials that are running count as bad ones, so that none is tried twice."""
    if search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


class SpaceSearch(Searcher):
    """Suggests points of a space: by Optuna, or those of a grid in order.

    Ray's own `OptunaSearch` tells Optuna that a trial which was stopped early is complete. Here it is pruned, so
    that the value of half a training is not compared with that of a whole one.

    Args:
        space: what is searched.
        measure: what is optimised.
        search: tpe, random or grid.
        seed: of the sampler.
        trials: suggest no more than these; None for no limit.
    """

    def __init__(self, space: Space, measure: Measure, search: str, seed: int, trials: int | None) -> None:
        super().__init__(metric=measure.name, mode=measure.direction)
        self._space, self._measure, self._most = space, measure, trials
        self._grid = iter(space.grid()) if search == "grid" else None
        direction = "maximize" if measure.direction == "max" else "minimize"
        self._study = optuna.create_study(direction=direction, sampler=sampler(search, seed))
        self._open: dict[str, optuna.Trial] = {}
        self._reported: dict[str, int] = {}
        self._suggested = 0

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or `Searcher.FINISHED`."""
        if self._most is not None and self._suggested >= self._most:
            return Searcher.FINISHED
        if self._grid is not None:
            values = next(self._grid, None)
            if values is None:
                return Searcher.FINISHED
        else:
            self._open[trial_id] = self._study.ask()
            values = self._space.suggest(self._open[trial_id])
        self._suggested += 1
        return {POINT: values}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note a report, unless the scheduler stops the trial at it: Ray leaves those out."""
        self._reported[trial_id] = result["training_iteration"]
        value = measured(result, self._measure)
        if trial_id in self._open and value is not None:
            self._report(self._open[trial_id], value, result["images_seen"])

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended."""
        reported = self._reported.pop(trial_id, 0)
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return
        result = result or {}
        value = measured(result, self._measure)
        if error or ERROR in result or value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif result["training_iteration"] > reported:  # stopped at this report
            self._report(trial, value, result["images_seen"])
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    def _report(self, trial: optuna.Trial, value: float, images_seen: int) -> None:
        """Note a value once: a trial that goes on after a kill reports some of them again."""
        if images_seen not in self._study.trials[trial.number].intermediate_values:
            trial.report(value, step=images_seen)

    def save(self, checkpoint_path: str) -> None:
        """Everything, for a sweep that is resumed."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """What `save` wrote into this sweep's own folder."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))


class Asha(ASHAScheduler):
    """Asynchronous successive halving over the photos that a trial itself was trained on.

    A shared pretraining is left out of that count, or the rungs, which lie a factor apart, would all fall into it.
    A report without the metric decides nothing. A trial is never stopped at its last report.

    Args:
        measure: what is compared.
        course: when trials report.
        folder: of the sweep. Ray does not keep a scheduler's state: in a sweep that is resumed, the reports of the
            trials before are noted from there.
    """

    def __init__(self, measure: Measure, course: Course, folder: Path) -> None:
        own = course.own
        super().__init__(
            time_attr="own_images",
            metric=measure.name,
            mode=measure.direction,
            grace_period=own[0],
            max_t=max(own[0], own[-1] - 1),
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self._measure, self._shared, self._last = measure, course.shared, own[-1]
        self._folder: Path | None = folder

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Follow a trial."""
        if self._folder:
            folder, self._folder = self._folder, None
            self._replay(read_trials(folder))
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether to stop."""
        own = self._own(result)
        return super().on_trial_result(tune_controller, trial, own) if own else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget a trial; its rungs have been noted. Ray may call more than once."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial."""
        self._trial_info.pop(trial.trial_id, None)

    def _replay(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            stand_in = SimpleNamespace(trial_id=trial.id)
            self.on_trial_add(None, stand_in)
            for report in trial.reports:
                self.on_trial_result(None, stand_in, {**report.metrics, "images_seen": report.images_seen})

    def _own(self, result: Mapping[str, Any]) -> dict[str, Any]:
        value = measured(result, self._measure)
        own = result.get("images_seen", 0) - self._shared
        if value is None or own >= self._last:
            return {}
        return {self._measure.name: value, "own_images": own}


class Pbt(PopulationBasedTraining):
    """Population-based training: a trial in the worst quarter takes over the weights of one in the best quarter.

    It also takes over that trial's settings, of which the mutated ones are perturbed (times 0.8 or 1.2, or drawn
    anew). A report without the metric decides nothing.
    """

    def __init__(self, measure: Measure, course: Course, space: Space, mutated: Sequence[str]) -> None:
        super().__init__(
            time_attr="images_seen",
            metric=measure.name,
            mode=measure.direction,
            perturbation_interval=course.shortest,
            hyperparam_mutations={POINT: {path: mutation(space.domain(path)) for path in mutated}},
            custom_explore_fn=partial(_inside, space),
            log_config=False,
        )
        self._measure, self._last = measure, course.ends[-1]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether to go on, pause, or take over another trial's weights; not after the last stage."""
        if measured(result, self._measure) is None or result["images_seen"] >= self._last:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ray's, with a note of whose weights they are."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return {**config, PARENT: trial_to_clone.trial_id}, operations


def mutation(domain: Domain) -> Any:
    """Where population-based training draws a setting anew."""
    if domain.kind == "choice":
        return list(domain.values)
    low, high = domain.limits
    if domain.kind == "integer":
        return tune.randint(int(low), int(high) + 1)
    return tune.loguniform(low, high) if domain.kind == "log_uniform" else tune.uniform(low, high)


def population(plan: Plan) -> list[dict[str, Any]]:
    """Where population-based training starts: points drawn by the search's sampler, every setting included.

    Settings that have no effect have the base config's value: a mutation may bring them into effect.
    """
    study = optuna.create_study(sampler=sampler("random", plan.sweep.seed))
    return [plan.space.complete(plan.space.suggest(study.ask())) for _ in range(plan.population)]


def scheduler(plan: Plan) -> TrialScheduler:
    """The plan's scheduler."""
    measure = plan.sweep.metric
    if plan.sweep.scheduler == "asha":
        return Asha(measure, plan.course, plan.folder)
    if plan.sweep.scheduler == "pbt":
        return Pbt(measure, plan.course, plan.space, plan.mutated)
    return FIFOScheduler()


def measured(result: Mapping[str, Any], measure: Measure) -> float | None:
    """The metric in a report, where it is a finite number."""
    value = result.get(measure.name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _inside(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    """A perturbed config with every value back in its domain."""
    values = {path: space.domain(path).clamp(value) for path, value in config[POINT].items()}
    return {**config, POINT: values}
