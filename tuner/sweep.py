"""Execution of a sweep, from its plan to its report: MLflow's parent run, Ray, trials, files."""

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune

from evaluator.system.environment import usable_cores
from evaluator.system.files import write_atomically
from evaluator.system.locks import alone
from trainer.config.overrides import checked, overridden
from trainer.monitoring.mlflow_tracker import open_tracker
from trainer.monitoring.tracker import NullTracker, Place
from trainer.run_folder import as_json
from tuner.callback import Recorder, Spending
from tuner.config import Options
from tuner.plan import FINISHED, Plan
from tuner.processes import WorkerDied, end_with_parent, hide_gpus
from tuner.records import BEST_FILE, ERROR, LEGS_FILE, POINT, Sweep, Trial, best, read_trials
from tuner.resources import Machine, Needs, cluster, here, threads
from tuner.search.optuna_search import SpaceSearch, scheduler
from tuner.search.pbt import population
from tuner.search.space import Space
from tuner.trial import WAITING, Setup, run_trial

Objective = Callable[[dict[str, Any], Setup], None]
RETRIES = 2
"""Times that a trial is tried again whose process or node died, or that met a server which was down."""
PASSING = (ConnectionError, TimeoutError, WorkerDied)
"""Errors that may be over when a trial is tried again; all others are its own, and would come again."""
_STATE = "ray"
_OBJECT_STORE = 256 * 2**20
"""Bytes; a sweep shares little more than its settings."""
_QUIETLY: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # so that relative paths of photos stay right
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables beside ours, also where nothing is asked for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A stopped trial may be closing readers or its MLflow run; what is not done by then costs the next trial.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "90",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what a kill can make forgotten, in seconds
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Interrupted(KeyboardInterrupt):
    """Raised when the sweep was asked to stop before its budget was spent."""


def run(plan: Plan, *, objective: Objective = run_trial) -> list[Trial]:
    """Run a sweep, or the rest of it, and conclude it.

    Args:
        plan: a new one, or one that was read from its folder.
        objective: what a trial does with its values; it reports to Ray Tune as `tuner.trial.run_trial` does.

    Returns:
        All trials.

    Raises:
        Interrupted: by Ctrl-C; `--resume` goes on.
        ValueError: MLflow refuses the sweep's run, or no cluster is at the address.
        OSError: MLflow does not answer, or the disk is full.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(plan.folder, plan.busy))
        stack.enter_context(_environment())
        parent = stack.enter_context(_open_parent(plan))
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _start_ray(plan)
        _tuner(plan, parent.run_id, objective).fit()
        trials = read_trials(plan.folder)
        if any(trial.status == "running" for trial in trials):
            go_on = f"python -m tuner --resume --name {plan.sweep.name} --work {plan.base.run.work}"
            raise Interrupted(f"stopped; the trials so far are kept: {go_on} goes on")
        _conclude(plan, parent, trials)
    return trials


def attempt(config: Mapping[str, Any], *, objective: Objective, setup: Setup, space: Space) -> None:
    """Ray's trainable: one trial, whose own errors become its last report, so that Ray does not retry it.

    Raises:
        PASSING: Ray tries the trial again.
    """
    end_with_parent()
    if setup.workers == 1 and not setup.gpus:
        hide_gpus()
    try:
        objective(checked(space.active(config[POINT]), setup.base), setup)
    except Exception as error:  # whatever it is, it ends this trial and not the sweep
        name = tune.get_context().get_trial_id()
        write_atomically(setup.sweep_folder / "errors" / f"{name}.txt", traceback.format_exc().encode())
        if isinstance(error, PASSING):
            raise
        nothing = dict.fromkeys(setup.metrics)
        tune.report({**nothing, "images_seen": 0, ERROR: _first_line(error)})


@contextmanager
def _environment() -> Iterator[None]:
    """Environment variables for Ray, in this process and those it starts."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses its own loggers' files
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _open_parent(plan: Plan) -> NullTracker:
    """The sweep's MLflow run, new or resumed, recorded in `sweep.json`."""
    sweep = Sweep.read(plan.folder)
    place = Place(
        work=Path(plan.base.run.work), folder=plan.folder, name=sweep.name, tracking_uri=sweep.tracking_uri
    )
    tracker = open_tracker(place, run_id=sweep.parent_run or None)
    if not sweep.parent_run:
        replace(sweep, parent_run=tracker.run_id).write(plan.folder)
        tracker.set_tags(
            {
                "sweep": sweep.name,
                "search": sweep.search,
                "scheduler": sweep.scheduler,
                "budget": sweep.budget,
                "metric": sweep.metric.name,
                "searched": ", ".join(domain.path for domain in plan.space.domains),
                "mlflow.source.git.commit": sweep.commit,
            }
        )
    return tracker


def _start_ray(plan: Plan) -> None:
    """Connect to the cluster, or start Ray on this machine alone.

    Raises:
        ValueError: no cluster is there.
    """
    if plan.options.address:
        _connect(plan.options.address)
        return
    # Without "local" it would join a cluster that happens to run on this machine.
    sizes = {"num_cpus": usable_cores(), "object_store_memory": _OBJECT_STORE}
    ray.init(address="local", include_dashboard=False, **sizes, **_QUIETLY)


def machines(options: Options) -> list[Machine]:
    """Machines on which trials will run: this one, or those of the cluster, to which this connects.

    Raises:
        ValueError: no cluster is there.
    """
    if not options.address:
        return here()
    if not ray.is_initialized():
        with _environment():
            _connect(options.address)
    return cluster()


def _connect(address: str) -> None:
    try:
        ray.init(address=address, runtime_env={"env_vars": _ENVIRONMENT}, **_QUIETLY)
    except ConnectionError as error:
        raise ValueError(
            f"there is no Ray cluster at --address {address} ({_first_line(error)}); start one as in "
            "launch/README.md, or leave --address out"
        ) from error


def _tuner(plan: Plan, parent_run: str, objective: Objective) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(attempt, objective=objective, setup=_setup(plan, parent_run), space=plan.space),
        _resources(plan),
    )
    state = plan.folder / _STATE
    if tune.Tuner.can_restore(str(state)):
        return tune.Tuner.restore(str(state), trainable=trainable, resume_unfinished=True)
    evolving = plan.sweep.scheduler == "pbt"
    return tune.Tuner(
        trainable,
        param_space={POINT: tune.grid_search(population(plan))} if evolving else {},
        tune_config=tune.TuneConfig(
            search_alg=None if evolving else _searcher(plan),
            scheduler=scheduler(plan),
            num_samples=1 if evolving else -1,
            max_concurrent_trials=None if evolving else parallel(plan),
            reuse_actors=plan.options.workers == 1,  # who waits for workers cannot be told to begin anew
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=_STATE,
            storage_path=str(plan.folder),
            callbacks=[Recorder(plan.folder)],
            stop=Spending(plan.folder),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=None if evolving else 1),
            verbose=0,
        ),
    )


def _folder_name(trial: Any) -> str:
    """Name of Ray's folder of a trial; by default Ray puts every setting into it."""
    return trial.trial_id


def _searcher(plan: Plan) -> SpaceSearch:
    sweep = plan.sweep
    return SpaceSearch(plan.space, sweep.metric, sweep.search, sweep.seed, plan.budget.trials, plan.folder)


def _setup(plan: Plan, parent_run: str) -> Setup:
    options = plan.options
    return Setup(
        base=plan.base,
        sweep_folder=plan.folder,
        parent_run=parent_run,
        tracking_uri=plan.sweep.tracking_uri,
        metrics=tuple(measure.name for measure in plan.sweep.metrics),
        workers=options.workers,
        threads=threads(options),
        gpus=options.gpus or 0.0,
        share_pretraining=options.share_pretraining,
    )


def _resources(plan: Plan) -> dict[str, float]:
    """Resources of the process that runs a trial; with several workers it only waits for them."""
    options = plan.options
    if options.workers > 1:
        return {"cpu": WAITING}
    return {"cpu": options.cpus, "gpu": options.gpus or 0.0}


def parallel(plan: Plan) -> int:
    """Number of trials at a time: as requested, or as many as fit now."""
    return plan.options.parallel or max(1, Needs.of(plan.options).fit(cluster()))


def _conclude(plan: Plan, parent: NullTracker, trials: list[Trial]) -> None:
    """Write the best config, then the report, then to MLflow, so that no finding can be lost."""
    sweep = Sweep.read(plan.folder)
    leader = best(trials, sweep.metric)
    if leader:
        values = {**leader.values, "run.work": plan.options.work.as_posix(), "run.publish": True}
        config = overridden(plan.base, values)
        content = json.dumps(as_json(config), indent=1) + "\n"
        write_atomically(plan.folder / BEST_FILE, content.encode())
        parent.log_text(content, BEST_FILE)
        if leader.legs:
            legs = json.dumps([asdict(leg) for leg in leader.legs], indent=1) + "\n"
            write_atomically(plan.folder / LEGS_FILE, legs.encode())
            parent.log_text(legs, LEGS_FILE)
        found = {name: value for name, value in leader.reports[-1].metrics.items() if value is not None}
        parent.log_metrics({f"best/{name}": value for name, value in found.items()}, step=len(trials))
        parent.set_tags({"best_trial": leader.number, "best_run": leader.run})
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    replace(sweep, options={**sweep.options, FINISHED: now}).write(plan.folder)
    from tuner.report.page import write_report  # its figures bring libraries that trials do not need

    page = write_report(plan.folder)
    parent.log_text(page.read_text(), page.name)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__name__
