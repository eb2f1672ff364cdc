"""One invocation of the trainer: open everything, train, report, publish, close."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from evaluator.photos.manifest import ShardError
from kernels.benchmarking import commit
from trainer.checkpoints import Checkpoints
from trainer.config import Config, flatten
from trainer.console import Screen
from trainer.data.sources import open_loader, open_validation
from trainer.engines import Cluster
from trainer.interrupts import StopRequest
from trainer.loop import Training, TrainingBroke, build_engines
from trainer.null_tracker import NullTracker, Place
from trainer.outcome import conclude
from trainer.perceptual import Perceptual, load_perceptual
from trainer.pingpong import pingpong
from trainer.presets import without_effect
from trainer.runs import RunFolder, find_run, start_run
from trainer.tracking import open_tracker
from trainer.validation import Validation

T = TypeVar("T")
WRONG_INPUT = (ValueError, OSError, ShardError)
"""What opening a session raises for something that a person can mend (a lost connection is an OSError)."""
BROKEN = (TrainingBroke, ShardError, OSError)
"""What a training raises when it cannot go on; its state is in the latest checkpoint."""


@dataclass
class Session:
    """A training with its folder and its tracker, open."""

    training: Training
    folder: RunFolder
    tracker: NullTracker

    @classmethod
    def open(cls, config: Config, *, resume: bool) -> "Session":
        """Open a new run, or the newest unfinished one with this config.

        Raises:
            WRONG_INPUT: see its docstring; the message says what to do.
        """
        cluster = Cluster(config.engine)
        screen = Screen(enabled=cluster.is_main)
        loader = open_loader(
            config.data,
            seed=config.seed,
            rank=cluster.rank,
            world_size=cluster.world_size,
            pin_memory=cluster.device.type == "cuda",
        )
        photos, names = open_validation(config.data, config.validation.photos)
        perceptual, status = perceptual_everywhere(cluster, config)
        folder = RunFolder(Path(on_main(cluster, lambda: str((find_run if resume else start_run)(config).path))))
        checkpoints = Checkpoints(folder.checkpoints, config.run.keep)
        # From the main process to all: with a work folder per machine the others have no checkpoint.
        state = on_main(cluster, checkpoints.load) if resume else None
        recipe = pingpong(config)
        training = Training(
            config=config,
            recipe=recipe,
            cluster=cluster,
            engines=build_engines(config, recipe, cluster),
            loader=loader,
            validation=Validation.of(photos, names, config),
            checkpoints=checkpoints,
            metrics=NullTracker(),
            screen=screen,
            perceptual=perceptual,
        )
        if state:
            training.restore(state)
        try:
            tracker = on_main_only(cluster, lambda: _open_tracker(config, folder, screen, state))
        except WRONG_INPUT:
            if cluster.is_main and not resume:
                shutil.rmtree(folder.path)  # nothing was made yet
            raise
        training.metrics, training.run_id = tracker, tracker.run_id
        session = cls(training, folder, tracker)
        session._introduce(status, resumed=bool(state))
        return session

    def train(self, stop: StopRequest) -> int:
        """Train to the end or until asked to stop, and conclude; returns the exit code.

        Raises:
            SystemExit: with code 1 when the training cannot go on; what it had is in the latest checkpoint.
        """
        screen = self.training.screen
        try:
            finished = self.training.run(stop)
        except BROKEN as error:
            self.tracker.finish("FAILED")
            rank = f"rank {self.training.cluster.rank} " if self.training.cluster.world_size > 1 else ""
            print(f"{rank}stopped: {error}\nLatest checkpoint: {self._latest_checkpoint()}", file=sys.stderr)
            raise SystemExit(1) from error
        if not finished:
            self.tracker.finish("KILLED")
            screen.say(
                f"Saved on {stop.signal_name or 'request'} as {self._latest_checkpoint()}; same command --resume"
            )
            return 0
        if self.training.cluster.is_main:
            conclude(self.training, self.folder, self.tracker)
        self.tracker.finish("FINISHED")
        return 0

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.training.loader.close()
        if kind is not None:
            self.tracker.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
            return  # other ranks may wait in a collective: let the launcher end them
        self.training.cluster.close()

    def _latest_checkpoint(self) -> str:
        whole = self.training.checkpoints.list()
        return str(whole[-1]) if whole else "none yet"

    def _introduce(self, perceptual_status: str, *, resumed: bool) -> None:
        training, config = self.training, self.training.config
        cluster = training.cluster
        self.tracker.log_config(flatten(config))
        self.tracker.set_tags(
            {
                "preset": config.preset,
                "recipe": training.recipe.name,
                "perceptual": perceptual_status,
                "precision": cluster.precision,
                "processes": cluster.world_size,
                "device": str(cluster.device),
                "mlflow.source.git.commit": commit(),
            }
        )
        data = ", ".join(config.data.train) or "embedded photographs and scenes"
        screen = training.screen
        screen.say(
            f"chromaclick {config.preset}: {config.data.image_size} px, {data}; {cluster.world_size} process(es) "
            f"on {cluster.device}, {cluster.threads} thread(s) each, {cluster.precision}\n"
            f"{'resumed' if resumed else 'new'} run {self.folder.path}"
            + (f" at photo {training.progress.images_seen:,}" if resumed else "")
        )
        if perceptual_status.startswith("unavailable"):
            screen.warn(f"ColorNet is trained without its perceptual term: LPIPS is {perceptual_status}")
        busy = os.getloadavg()[0]
        if cluster.device.type == "cpu" and cluster.threads > 1 and busy > len(os.sched_getaffinity(0)):
            screen.warn(
                f"this machine is busy (load {busy:.1f}), and threads that wait for each other can make training "
                "20 times slower: try --engine.threads 1"
            )
        if len(training.validation.photos) < config.validation.photos:
            screen.warn(f"validating on {len(training.validation.photos)} photos: there are no more")
        for note in without_effect(config):
            screen.warn(note)


def _open_tracker(config: Config, folder: RunFolder, screen: Screen, state: dict[str, Any] | None) -> NullTracker:
    place = Place(work=Path(config.run.work), folder=folder.path, name=folder.name, warn=screen.warn)
    run_id = state["run_id"] if state else None
    return open_tracker(place, run_id=run_id, resumed_at_step=state["progress"]["images_seen"] if state else 0)


def on_main(cluster: Cluster, work: Callable[[], T]) -> T:
    """Do something on the main process and give every rank its result, or its error."""
    result, error = None, None
    if cluster.is_main:
        try:
            result = work()
        except WRONG_INPUT as caught:
            error = caught
    result, error = cluster.share((result, error))
    if error is not None:
        raise error
    return result


def on_main_only(cluster: Cluster, work: Callable[[], NullTracker]) -> NullTracker:
    """Open something on the main process alone; every rank raises its error."""
    opened: list[NullTracker] = []
    on_main(cluster, lambda: opened.append(work()))
    return opened[0] if opened else NullTracker()


def perceptual_everywhere(cluster: Cluster, config: Config) -> tuple[Perceptual | None, str]:
    """LPIPS on every rank or on none, and its status; the main process loads first, so that one downloads.

    Raises:
        ValueError: it is required, and some rank cannot have it.
    """
    mode = config.loss.perceptual
    loaded: list[tuple[Perceptual | None, str]] = []

    def load_first() -> str:
        loaded.append(load_perceptual(mode, cluster.device))
        return loaded[0][1]

    first = on_main(cluster, load_first)
    if first == "off" or first.startswith("unavailable"):
        return None, first
    perceptual, status = loaded[0] if loaded else load_perceptual("auto", cluster.device)
    missing = [found for found in cluster.gather(status) if found.startswith("unavailable")]
    if not missing:
        return perceptual, status
    if mode == "required":
        raise ValueError(f"loss.perceptual is required, but some process cannot have it: {missing[0]}")
    return None, missing[0]
