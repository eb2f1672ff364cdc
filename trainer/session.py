"""One invocation of the trainer: open everything, train, report, publish, close."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from evaluator.bench import commit
from trainer.checkpoints import Checkpoints
from trainer.config import Config, flatten
from trainer.console import Screen
from trainer.data.sources import open_loader, open_validation
from trainer.data.url_openers import ShardError
from trainer.engines import Cluster
from trainer.interrupts import StopRequest
from trainer.loop import Training, TrainingBroke, build_engines
from trainer.null_tracker import NullTracker, Place
from trainer.outcome import conclude
from trainer.perceptual import Perceptual, load_perceptual
from trainer.pingpong import pingpong
from trainer.runs import RunFolder, find_run, start_run
from trainer.tracking import open_tracker
from trainer.validation import Validation

T = TypeVar("T")
WRONG_INPUT = (ValueError, ConnectionError, FileNotFoundError, ShardError)
"""What opening a session raises for something that a person can mend."""
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
        perceptual, status = main_first(cluster, lambda: load_perceptual(config.loss.perceptual, cluster.device))
        folder = RunFolder(Path(on_main(cluster, lambda: str((find_run if resume else start_run)(config).path))))
        checkpoints = Checkpoints(folder.checkpoints, config.run.keep)
        state = checkpoints.load() if resume else None
        tracker = on_main_only(cluster, lambda: _open_tracker(config, folder, screen, state))
        recipe = pingpong(config)
        training = Training(
            config=config,
            recipe=recipe,
            cluster=cluster,
            engines=build_engines(config, recipe, cluster),
            loader=loader,
            validation=Validation.of(photos, names, config),
            checkpoints=checkpoints,
            metrics=tracker,
            screen=screen,
            perceptual=perceptual,
            run_id=tracker.run_id,
        )
        if state:
            training.restore(state)
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
            screen.say(f"[bold red]stopped:[/] {error}\nLatest checkpoint: {self._latest_checkpoint()}")
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
        training.screen.say(
            f"[bold]chromaclick[/] {config.preset}: {config.data.image_size} px, {data}; {cluster.world_size} "
            f"process(es) on {cluster.device}, {cluster.threads} thread(s) each, {cluster.precision}\n"
            f"{'resumed' if resumed else 'new'} run {self.folder.path}"
            + (f" at photo {training.progress.images_seen:,}" if resumed else "")
        )
        if perceptual_status.startswith("unavailable"):
            training.screen.warn(f"ColorNet is trained without its perceptual term: LPIPS is {perceptual_status}")


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


def main_first(
    cluster: Cluster, load: Callable[[], tuple[Perceptual | None, str]]
) -> tuple[Perceptual | None, str]:
    """Load on the main process first, so that one process downloads; the others follow its outcome."""
    loaded: list[tuple[Perceptual | None, str]] = []

    def on_this_rank() -> str:
        loaded.append(load())
        return loaded[0][1]

    status = on_main(cluster, on_this_rank)
    if cluster.is_main:
        return loaded[0]
    return (None, status) if status == "off" or status.startswith("unavailable") else load()
