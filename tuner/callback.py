"""Ray Tune callbacks: record a sweep's events in `trials.json`, on the terminal and in MLflow; stop it by budget.

Ray pickles its callbacks with the sweep and unpickles them when it is resumed; so these hold no more than the
sweep's folder until they are used.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as ray_trial

from evaluator.registry.mlflow_registry import new_client
from trainer.monitoring.metric_queue import brief, within
from tuner.plan import Plan
from tuner.records import (
    ERROR,
    LEGS,
    PARENT,
    POINT,
    TRIALS_FILE,
    Leg,
    Report,
    Status,
    Sweep,
    Trial,
    best,
    read_trials,
    write_trials,
)
from tuner.report.console import Screen
from tuner.trial import noted_run

SECONDS = "seconds"
"""Option in `sweep.json`: how long the sweep has run for, its interruptions left out."""
_PATIENCE = 30.0
"""Seconds for MLflow to note a trial's end."""
_MLFLOW_STATUS = {"stopped": "KILLED", "failed": "FAILED", "finished": "FINISHED"}


class _Lazy:
    """Holder of an object of which only the folder is pickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}


class Recorder(_Lazy, Callback):
    """Callback that keeps the sweep's files up to date."""

    def setup(self, *args: Any, **info: Any) -> None:
        """Begin, or continue from what the files record."""
        self._plan = Plan.read(self.folder)
        self._trials = {trial.id: trial for trial in read_trials(self.folder)}
        self._before: float = self._plan.sweep.options.get(SECONDS, 0.0)
        self._started = time.monotonic()
        self._running_since: dict[str, float] = {}
        self._screen = Screen(self._plan.sweep)
        self._screen.open()

    @property
    def trials(self) -> list[Trial]:
        """All trials so far."""
        return list(self._trials.values())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Refresh the screen."""
        self._screen.show(self.trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that starts or continues."""
        entry = self._entry(trial)
        self._running_since[entry.id] = time.monotonic() - entry.seconds
        active, parent = self._plan.space.active, trial.config.get(PARENT)
        legs = tuple(Leg(**{**leg, "values": active(leg["values"])}) for leg in trial.config.get(LEGS, ()))
        values = active(trial.config[POINT])
        self._put(replace(entry, status="running", values=values, parent=parent, legs=legs, error=None))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Record a report; Ray marks it as done where the scheduler stops the trial at it."""
        entry = self._timed(trial)
        if ERROR in result:
            self._put(replace(entry, status="failed", error=result[ERROR]))
            return
        names = [measure.name for measure in self._plan.sweep.metrics]
        report = Report(
            images_seen=result["images_seen"],
            stage=result["stage"],
            seconds=result["seconds"],
            metrics={name: result.get(name) for name in names},
        )
        # A trial that goes on from an earlier checkpoint reports some of it again.
        earlier = tuple(one for one in entry.reports if one.images_seen < report.images_seen)
        status: Status = "stopped" if result.get("done") else "running"
        self._put(
            replace(
                entry,
                status=status,
                reports=(*earlier, report),
                run=result.get("run") or entry.run,
                folder=result.get("folder") or entry.folder,
            )
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end of a trial that returned or was stopped."""
        entry = self._timed(trial)
        self._end(entry if entry.status != "running" else replace(entry, status="finished"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial whose process or node died more often than it may."""
        self._end(replace(self._timed(trial), status="failed", error=_system_error(trial)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Announce that a trial's process or node died, and that the trial is retried."""
        self._screen.say(f"trial {self._entry(trial).number} died and moves: {_system_error(trial)}")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Close the trials that the budget's end stopped; after an interruption they stay open to be resumed.

        A trial that Ray does not know, as it was killed before it had written down that it began, is forgotten.
        """
        known = {trial.trial_id: trial for trial in trials}
        forgotten = [entry for entry in self.trials if entry.id not in known and entry.status == "running"]
        for entry in forgotten:
            del self._trials[entry.id]
            self._close(entry, "KILLED")
        for entry in self.trials:
            if entry.status == "running" and known[entry.id].status == ray_trial.ERROR:
                self._end(replace(entry, status="failed", error=_system_error(known[entry.id])))
        write_trials(self.folder, self.trials)
        is_over = spending(self._plan, self.trials, self._seconds) or is_hopeless(self._plan, self.trials)
        if is_over:
            for entry in self.trials:
                if entry.status == "running":
                    self._end(replace(entry, status="stopped"))
        self._screen.close(self.trials)

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def _entry(self, trial: Any) -> Trial:
        """Record of a trial; its process may die before it starts."""
        if trial.trial_id in self._trials:
            return self._trials[trial.trial_id]
        values = self._plan.space.active(trial.config[POINT])
        number = 1 + max((entry.number for entry in self._trials.values()), default=-1)
        return Trial(id=trial.trial_id, number=number, status="running", values=values)

    def _timed(self, trial: Any) -> Trial:
        entry, now = self._entry(trial), time.monotonic()
        since = self._running_since.get(entry.id, now - entry.seconds)
        return replace(entry, seconds=round(now - since, 2))

    def _end(self, entry: Trial) -> None:
        entry = replace(entry, run=entry.run or noted_run(self.folder, entry.id))  # it may never have reported
        self._put(entry)
        self._close(entry, _MLFLOW_STATUS[entry.status])

    def _close(self, entry: Trial, status: str) -> None:
        """End the trial's MLflow run, where it has one."""
        run, uri = entry.run or noted_run(self.folder, entry.id), self._plan.sweep.tracking_uri
        if not run:
            return
        try:
            within(_PATIENCE, lambda: new_client(uri).set_terminated(run, status))
        except Exception as error:  # whatever goes wrong with tracking must not end a sweep
            self._screen.say(f"trial {entry.number}'s run stays open in MLflow ({brief(error)})")

    def _put(self, entry: Trial) -> None:
        before = self._trials.get(entry.id)
        self._trials[entry.id] = entry
        write_trials(self.folder, self.trials)
        sweep = Sweep.read(self.folder)
        replace(sweep, options={**sweep.options, SECONDS: round(self._seconds, 1)}).write(self.folder)
        self._screen.event(before, entry, best(self.trials, sweep.metric))
        self._screen.show(self.trials)


class Spending(_Lazy, Stopper):
    """Stopper that ends the sweep when its budget of time or photos is spent, or when every trial fails."""

    _photos: dict[str, int] | None = None
    _written = 0
    """When the recorder wrote the trials that were last looked at, in nanoseconds."""

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Count the photos of a report; never stops a single trial."""
        photos = self._begin()
        photos[trial_id] = max(photos.get(trial_id, 0), result.get("images_seen", 0))
        return False

    def stop_all(self) -> bool:
        """Whether the budget is spent, or every trial fails."""
        photos = self._begin()
        own = sum(max(0, seen - self._plan.course.shared) for seen in photos.values())
        seconds = self._before + time.monotonic() - self._started
        return bool(self._plan.budget.spent(seconds=seconds, photos=own)) or self._sees_no_hope()

    def _sees_no_hope(self) -> bool:
        file = self.folder / TRIALS_FILE
        written = file.stat().st_mtime_ns if file.exists() else 0
        if written == self._written:  # looked at; Ray asks at every step
            return False
        self._written = written
        return is_hopeless(self._plan, read_trials(self.folder))

    def _begin(self) -> dict[str, int]:
        if self._photos is None:
            self._plan = Plan.read(self.folder)
            self._before: float = self._plan.sweep.options.get(SECONDS, 0.0)
            self._started = time.monotonic()
            self._photos = {trial.id: _images_seen(trial) for trial in read_trials(self.folder)}
        return self._photos


def spending(plan: Plan, trials: list[Trial], seconds: float) -> str:
    """The limit of time or photos that has been reached, as a sentence; empty while there is some left."""
    photos = sum(max(0, _images_seen(trial) - plan.course.shared) for trial in trials)
    return plan.budget.spent(seconds=seconds, photos=photos)


def is_hopeless(plan: Plan, trials: list[Trial]) -> bool:
    """Whether the allowed number of trials has failed without a single measurement."""
    failed = sum(trial.status == "failed" for trial in trials)
    return 0 < plan.options.give_up <= failed and not any(trial.reports for trial in trials)


def _images_seen(trial: Trial) -> int:
    return trial.reports[-1].images_seen if trial.reports else 0


def _system_error(trial: Any) -> str:
    """Cause in the latest entry of Ray's own error file: its first line, or the last line of a traceback."""
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = [line for line in text.rpartition("Failure #")[2].splitlines()[1:] if line.strip()]
    code = [number for number, line in enumerate(lines) if line.startswith("  ")]
    rest = lines[code[-1] + 1 :] if code else lines
    return rest[0].strip() if rest else "its process died"
