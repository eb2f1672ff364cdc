"""A trial: a training that reports its validations to Ray Tune, as a child of the sweep's MLflow run.

A trial keeps everything in `<sweep>/trials`: its run folders, and a note of its MLflow run. It has one run folder
`<trial>`, and one more, `<trial>-2`..., each time that population-based training gave it another trial's weights.
"""

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ray import train, tune

from evaluator.system.files import write_atomically
from evaluator.system.interrupts import StopRequest
from trainer.checkpoint import Checkpoints
from trainer.config import Config, override
from trainer.config.overrides import checked
from trainer.loop import Training
from trainer.recipes.base import Stage
from trainer.run_folder import RESULTS_FILE, RunFolder
from trainer.session import Hooks, Session
from trainer.warm_start import FOLDER
from tuner.objectives import check_measurable, guides_of, measured
from tuner.processes import end_with_parent, hide_gpus, worker_error

TRIALS = "trials"
"""Folder of the trials' run folders in the sweep's."""
WAITING = 0.01
"""Of a core; what the process that waits for a trial's workers may ask for, so that n cores hold n workers."""
_TRIAL, _SECONDS, _REPORTED = "trial", "seconds", "reported"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Common data of all trials of a sweep, pickled to the processes that run them."""

    base: Config
    """The values replace parts of it."""
    sweep_folder: Path
    """Absolute, and the same for all machines."""
    parent_run: str
    """MLflow run of the sweep."""
    tracking_uri: str
    metrics: tuple[str, ...]
    """Names in `tuner.objectives.measures_of` that the sweep looks for."""
    workers: int = 1
    """Processes of each trial."""
    threads: int = 1
    """CPU threads of each process."""
    gpus: float = 0.0
    """GPUs of each process; 0 trains on the CPU, whatever the machine has."""
    share_pretraining: bool = True
    """Begin with the ColorNet of the first trial with the same pretraining."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Starting point of a trial or of its continuation."""

    config: Config
    trial: str
    """Its id."""
    resume: bool = False
    """Whether the config's run folder is continued."""
    seconds: float = 0.0
    """What the trial has taken before."""
    reported: int = 0
    """Photos seen at its latest report that Ray knows."""
    hooks: Hooks = field(default_factory=Hooks)


def run_trial(values: dict[str, Any], setup: Setup) -> None:
    """Train with these values, and report to Ray Tune after each stage that has a trained guide.

    A report has all of `tuner.objectives.measures_of` (None where not measured), `images_seen`, `stage`,
    `seconds`, `run` (MLflow's id) and `folder`, and with one process a checkpoint. The trial goes on in its own
    run folder where that has a checkpoint; else it begins with Ray's checkpoint, or the shared pretraining.

    Raises:
        ValueError: values that do not go together, or data that cannot be used.
        TrainingBroke: it diverged.
        OSError: files cannot be read or written.
        ConnectionError: MLflow does not answer.
        WorkerDied: one of several workers.
        RuntimeError: one of several workers failed.
    """
    trial = tune.get_context().get_trial_id()
    config = trial_config(values, setup, trial)
    hooks = Hooks(
        parent_run=setup.parent_run,
        tracking_uri=setup.tracking_uri,
        tags=_tags(values, setup, trial, config),
        metrics=check_measurable(setup.metrics, config),
        quiet=True,
    )
    with ExitStack() as stack:
        checkpoint = tune.get_checkpoint()
        start = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
        told = checkpoint.get_metadata() if checkpoint else {}
        leg = next_leg(Leg(config=config, trial=trial, hooks=hooks), start, told, _pretrained(setup))
        if setup.workers > 1:
            _train_with_workers(leg, setup)
        else:
            _train(leg, _report_to_tune)


def trial_config(values: Mapping[str, Any], setup: Setup, name: str) -> Config:
    """The config of a trial; its run folder is in the sweep's.

    Raises:
        ValueError: values that do not exist or do not go together.
    """
    place = {
        "run.work": str(setup.sweep_folder / TRIALS),
        "run.name": name,
        "run.publish": False,
        "engine.threads": setup.threads,
    }
    return override(setup.base, {**checked(values, setup.base), **place})


def next_leg(first: Leg, start: Path | None, told: Mapping[str, Any], pretrained: Path | None) -> Leg:
    """Starting point: the beginning, an interruption, or another trial's weights.

    Args:
        first: as the trial begins for the first time.
        start: Ray's checkpoint, its own latest one or another trial's.
        told: that checkpoint's metadata.
        pretrained: folder of shared pretrainings, if they are shared.
    """
    folder = Path(first.config.run.work)
    names = (first.trial if number == 1 else f"{first.trial}-{number}" for number in itertools.count(1))
    taken = list(itertools.takewhile(lambda name: (folder / name).exists(), names))
    if taken and not Checkpoints(RunFolder(folder / taken[-1]).checkpoints, keep=1).list():
        shutil.rmtree(folder / taken.pop())  # it did not come far enough to be continued
    note = _note(folder, first.trial)
    noted = json.loads(note.read_text()) if note.exists() else {"run": "", _SECONDS: 0.0}
    own = told.get(_TRIAL) in (None, first.trial)
    seconds = max(noted[_SECONDS], told.get(_SECONDS, 0.0) if own else 0.0)
    reported = told.get(_REPORTED, 0) if own and told else noted.get(_REPORTED, 0)
    leg = replace(first, seconds=seconds, reported=reported, hooks=replace(first.hooks, run_id=noted["run"]))
    if own and taken:
        latest = override(first.config, {"run.name": taken[-1]})
        if not RunFolder(folder / taken[-1]).differences(latest):
            (folder / taken[-1] / RESULTS_FILE).unlink(missing_ok=True)  # Ray does not know that it had ended
            return replace(leg, config=latest, resume=True)
    name = first.trial if not taken else f"{first.trial}-{len(taken) + 1}"
    hooks = replace(leg.hooks, start=start, pretrained=None if start else pretrained)
    return replace(leg, config=override(first.config, {"run.name": name}), hooks=hooks)


@dataclass
class Reporter:
    """Reports each validation to Ray and MLflow; an `AfterValidation`."""

    leg: Leg
    report: Callable[[dict[str, Any], Path], None]
    """Gets the numbers and the checkpoint's folder, on every rank."""
    started: float = field(default_factory=time.monotonic)
    reported: bool = False

    def __call__(self, training: Training, stage: Stage) -> None:
        """Report a validation; before a guide is trained there is nothing to compare trials by."""
        results, seen = training.results, training.progress.images_seen
        config = training.config
        if results is None or guides_of(config)[""] not in results.policies:
            return
        values = measured(results, config)
        tracker = training.metrics
        tracker.log_metrics({name: value for name, value in values.items() if value is not None}, seen)
        self.reported = True
        folder = training.checkpoints.folder
        seconds = round(self.leg.seconds + time.monotonic() - self.started, 2)
        about = {"stage": stage.name, "seconds": seconds, "run": training.run_id, "folder": str(folder.parent)}
        self.report({**values, "images_seen": seen, **about}, folder)


def _train(leg: Leg, report: Callable[[dict[str, Any], Path], None]) -> None:
    """Run the training in one of the trial's processes."""
    reporter = Reporter(leg, report)
    hooks = replace(leg.hooks, after_validation=reporter)
    with Session.open(leg.config, resume=leg.resume, hooks=hooks) as session:
        training = session.training

        def note(seconds: float, reported: int) -> None:
            if training.cluster.is_main:
                content = json.dumps({"run": training.run_id, _SECONDS: seconds, _REPORTED: reported})
                write_atomically(_note(Path(leg.config.run.work), leg.trial), content.encode())

        def flushed(numbers: dict[str, Any], folder: Path) -> None:
            session.tracker.flush()  # Ray may end this process at its report
            note(numbers[_SECONDS], numbers["images_seen"])
            report(numbers, folder)

        note(leg.seconds, leg.reported)
        reporter.report = flushed
        if leg.resume and leg.reported < training.progress.images_seen and (stage := training.validate_again()):
            reporter(training, stage)  # it was killed between its checkpoint and its report
        session.run(StopRequest())
        if not reporter.reported:  # it had come to its end before, and Ray does not know
            reporter(training, training.recipe.stages[-1])


def _report_to_tune(numbers: dict[str, Any], checkpoints: Path) -> None:
    """Report with the latest checkpoint and its owner; Ray raises in here to end a trial."""
    checkpoint = tune.Checkpoint.from_directory(str(Checkpoints(checkpoints, keep=1).list()[-1]))
    about = {_SECONDS: numbers["seconds"], _REPORTED: numbers["images_seen"]}
    checkpoint.set_metadata({_TRIAL: tune.get_context().get_trial_id(), **about})
    tune.report(numbers, checkpoint=checkpoint)


def _train_with_workers(leg: Leg, setup: Setup) -> None:
    """Run the training in several processes started by Ray Train, on one machine or several.

    Their checkpoints stay in the run folder: `TuneReportCallback` forwards numbers alone.
    """
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"leg": leg, "gpus": setup.gpus},
        scaling_config=train.ScalingConfig(
            num_workers=setup.workers, use_gpu=setup.gpus > 0, resources_per_worker=worker_resources(setup)
        ),
        run_config=train.RunConfig(
            name=f"{leg.trial}-{time.time_ns()}",
            storage_path=str(setup.sweep_folder / "workers"),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        raise worker_error(error) from error


def worker_resources(setup: Setup) -> dict[str, float]:
    """Ray's reservation for each of several workers."""
    gpus = {"GPU": setup.gpus} if setup.gpus else {}
    return {"CPU": setup.threads - WAITING, **gpus}


def _worker(settings: dict[str, Any]) -> None:
    """Entry point of one of several processes; Ray sets the ranks, accelerate must be told if there is no GPU."""
    end_with_parent()
    if not settings["gpus"]:
        hide_gpus()
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    _train(settings["leg"], lambda numbers, _: train.report(numbers))


def _pretrained(setup: Setup) -> Path | None:
    return Path(setup.base.run.work) / FOLDER if setup.share_pretraining else None


def noted_run(sweep_folder: Path, trial: str) -> str:
    """Id of a trial's MLflow run, recorded when it began to train; empty before."""
    note = _note(sweep_folder / TRIALS, trial)
    return json.loads(note.read_text())["run"] if note.exists() else ""


def _note(folder: Path, trial: str) -> Path:
    """File with the id of a trial's MLflow run and the seconds that the trial has taken."""
    return folder / f"{trial}.json"


def _tags(values: Mapping[str, Any], setup: Setup, trial: str, config: Config) -> dict[str, object]:
    return {
        "sweep": setup.sweep_folder.name,
        "trial": trial,
        **config.recipe.tags,
        **{f"tuned.{path}": value for path, value in values.items()},
    }
