"""Choice and early stopping of trials: Optuna's samplers and Ray's schedulers over a `Space`.

Ray Tune hands a trial `{"point": values}`: one level more than the values, because their names have dots.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tuner.config import startup
from tuner.plan import Course, Plan
from tuner.records import ERROR, POINT, Measure, Trial, measured, read_trials
from tuner.search.pbt import Pbt
from tuner.search.space import Space

SEED = "seed"
REDUCTION = 2
"""ASHA stops all but the better 1 / REDUCTION of the trials at each rung, and rungs are this factor apart."""


def sampler(search: str, seed: int, trials: int | None = None) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name; running trials count as bad ones, so that none is tried twice."""
    if search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=startup(trials))


class SpaceSearch(Searcher):
    """Ray searcher over a space: points by Optuna, or those of a grid in order.

    Ray's own `OptunaSearch` tells Optuna that a trial which was stopped early is complete. Here it is pruned, so
    that the value of half a training is not compared with that of a whole one.

    Where the space has a choice of seeds, each point is tried with all of them, one after another: the seed is a
    repetition, and nothing to be optimised.

    Args:
        space: what is searched.
        measure: what is optimised.
        search: tpe, random or grid.
        seed: of the sampler.
        trials: suggest no more than these; None for no limit.
        folder: of the sweep, where a restored search reads its limit anew.
    """

    def __init__(
        self,
        space: Space,
        measure: Measure,
        search: str,
        seed: int,
        trials: int | None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(metric=measure.name, mode=measure.direction)
        self._space, self._measure, self._most, self._folder = space, measure, trials, folder
        self._grid = iter(space.grid()) if search == "grid" else None
        direction = "maximize" if measure.direction == "max" else "minimize"
        self._study = optuna.create_study(direction=direction, sampler=sampler(search, seed, trials))
        self._seeds, self._repeated = _seeds(space), dict[str, Any]()
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
            values = self._space.suggest(self._ask(trial_id))
            self._repeated = self._open[trial_id].params
        self._suggested += 1
        return {POINT: values}

    def _ask(self, trial_id: str) -> optuna.Trial:
        """Optuna's next trial: a new point with the first seed, or the latest point with the next seed."""
        if self._seeds > 1:
            turn = self._suggested % self._seeds
            self._study.enqueue_trial({**(self._repeated if turn else {}), SEED: turn})
        self._open[trial_id] = self._study.ask()
        return self._open[trial_id]

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record a report, unless the scheduler stops the trial at it: Ray leaves those out."""
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
        """Record a value once: a trial that resumes after a kill repeats some reports."""
        if images_seen not in self._study.trials[trial.number].intermediate_values:
            trial.report(value, step=images_seen)

    def save(self, checkpoint_path: str) -> None:
        """Save the state, for resuming the sweep."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """Restore what `save` wrote into this sweep's own folder."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))
        if self._folder:
            self._most = Plan.read(self._folder).budget.trials


def _seeds(space: Space) -> int:
    """Number of seeds for each point."""
    found = [
        len(one.values) for one in space.domains if one.path == SEED and one.kind == "choice" and not one.when
    ]
    return found[0] if found else 1


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
        """Start tracking a trial."""
        if self._folder:
            folder, self._folder = self._folder, None
            self._replay(read_trials(folder))
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether to stop the trial."""
        own = self._own(result)
        return super().on_trial_result(tune_controller, trial, own) if own else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Stop tracking a trial; its rungs are recorded. Ray may call this more than once."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Stop tracking a trial."""
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


def scheduler(plan: Plan) -> TrialScheduler:
    """Scheduler of a plan."""
    measure = plan.sweep.metric
    if plan.sweep.scheduler == "asha":
        return Asha(measure, plan.course, plan.folder)
    if plan.sweep.scheduler == "pbt":
        return Pbt(measure, plan.course, plan.space, plan.mutated, plan.sweep.seed)
    return FIFOScheduler()
