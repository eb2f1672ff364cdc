"""One invocation of the trainer (open, train, report, publish, close), and its hooks for callers."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from evaluator.photos.manifest import ShardError
from evaluator.system.environment import commit, usable_cores
from evaluator.system.interrupts import StopRequest
from trainer.checkpoint import Checkpoints, networks_of, read_state
from trainer.components import WRONG_INPUT, Parts, on_main
from trainer.config import Config, flatten
from trainer.config.presets import without_effect
from trainer.engines import Cluster, as_launched
from trainer.finish import conclude, deliver
from trainer.loop import AfterValidation, Training, carry_on
from trainer.monitoring.mlflow_tracker import open_tracker
from trainer.monitoring.profiler import FOLDER as TRACES
from trainer.monitoring.profiler import Traces
from trainer.monitoring.prometheus import FILE as METRICS_FILE
from trainer.monitoring.prometheus import MetricsFile
from trainer.monitoring.tracker import NullTracker, Place
from trainer.run_folder import Claim, RunFolder, open_run
from trainer.step import TrainingBroke
from trainer.warm_start import find_or_pretrain


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Hooks for callers: parent run, starting point, and a callback for validations."""

    parent_run: str = ""
    """MLflow run that this one is a child of."""
    run_id: str = ""
    """MLflow run to continue in a new run folder; empty: a new one."""
    tracking_uri: str = ""
    """Database or server; empty: as always, see `Place.tracking_uri`."""
    tags: Mapping[str, object] = field(default_factory=dict)
    """More tags of the run."""
    start: Path | None = None
    """A checkpoint to begin a new run from: its progress and its networks, under this config's settings."""
    pretrained: Path | None = None
    """Folder of shared pretrainings (`trainer.warm_start`) to begin a new run from."""
    metrics: tuple[str, ...] = ()
    """Names in `evaluator.metrics.METRICS` that validation measures beside the default ones."""
    after_validation: AfterValidation = carry_on
    """Called on every rank after each stage, its validation and its checkpoint. True, on every rank, stops."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        if self.start and self.pretrained:
            raise ValueError(f"begin from {self.start} or from a pretraining in {self.pretrained}, not from both")


VANISHED_S = 150.0
"""A run is waited for whose machine may have vanished: NFS frees its locks after its lease, 90 s by default."""
BROKEN = (TrainingBroke, ShardError, OSError)
"""What a training raises when it cannot go on; its state is in the latest checkpoint."""


TO_BE_CONTINUED = 75
"""Exit code of a training that was asked to stop, and that its launcher starts again (sysexits.h: EX_TEMPFAIL)."""


class AlreadyFinished(Exception):
    """Raised when the run that a repeated command would continue is already finished."""


@dataclass
class Session:
    """An open training with its folder and tracker."""

    training: Training
    folder: RunFolder
    tracker: NullTracker
    claim: Claim
    """To the run's folder; held on the main process."""

    @classmethod
    def open(
        cls, config: Config, *, resume: bool, or_start: bool = False, hooks: Hooks | None = None
    ) -> "Session":
        """Open a new run, or the newest unfinished one with this config.

        Args:
            config: of the training.
            resume: continue a run in its folder; `hooks` cannot say then where to begin.
            or_start: continue the run of this name where there is one, else start it, from the beginning.
            hooks: what a caller adds.

        Raises:
            WRONG_INPUT: see its docstring; the message says what to do.
            AlreadyFinished: on every rank; what MLflow had not got is sent, and everything is closed again.
            TrainingBroke: in a shared pretraining.
        """
        hooks = hooks or Hooks()
        config = replace(config, engine=as_launched(config.engine))
        parts = Parts.of(config, quiet=hooks.quiet, metrics=hooks.metrics)
        cluster = parts.cluster
        start = None if resume or or_start else _beginning(parts, hooks)
        claim = Claim(parts.screen.warn, min(VANISHED_S, config.engine.timeout))
        try:
            opened = on_main(cluster, lambda: open_run(config, resume=resume, or_start=or_start, claim=claim.take))
        except WRONG_INPUT:
            claim.release()
            raise
        folder = opened.folder
        if opened.finished:
            try:
                on_main(cluster, lambda: deliver(folder, config, parts.screen, hooks.tracking_uri))
            except (ConnectionError, ValueError) as error:
                if not or_start:
                    raise
                parts.screen.warn(f"run {folder.path} is finished, but MLflow has not all of it: {error}")
            finally:
                claim.release()
                parts.loader.close()
                cluster.close()
            raise AlreadyFinished
        try:
            checkpoints = Checkpoints(folder.checkpoints, config.run.keep)
            # From the main process to all: with a work folder per machine the others have no checkpoint.
            state = on_main(cluster, lambda: read_state(start) if start else checkpoints.load())
            training = parts.training(config.recipe.build(), checkpoints)
            training.after_validation = hooks.after_validation
            if state:
                training.restore(state)
            # A shared pretraining has begun with the colorizer, and left the guides.
            untrained = [name for name in training.engines if not state or name not in state["engines"]]
            if (before := config.recipe.begin_with) and untrained:
                training.take_networks(on_main(cluster, lambda: networks_of(before)), before, untrained)
            run_id = hooks.run_id or (state["run_id"] if state and opened.resumed else "")
            tracker = _on_main_only(
                cluster, lambda: _open_tracker(parts, folder, hooks, run_id, training.progress.images_seen)
            )
        except WRONG_INPUT:
            if cluster.is_main and opened.made:
                shutil.rmtree(folder.path)  # nothing was made yet
            claim.release()
            raise
        training.metrics, training.run_id = tracker, tracker.run_id
        session = cls(training, folder, tracker, claim)
        session._watch()
        session._introduce(parts, hooks, resumed=opened.resumed)
        return session

    def train(self, stop: StopRequest) -> int:
        """`run` for the command line; returns the exit code.

        Raises:
            SystemExit: with code 1 when the training cannot go on; what it had is in the latest checkpoint.
        """
        try:
            finished = self.run(stop)
        except BROKEN as error:
            cluster = self.training.cluster
            rank = f"rank {cluster.rank} " if cluster.world_size > 1 else ""
            print(f"{rank}stopped: {error}\nLatest checkpoint: {self._latest_checkpoint()}", file=sys.stderr)
            raise SystemExit(1) from error
        if not finished:
            self.training.screen.say(
                f"Saved on {stop.signal_name or 'request'} as {self._latest_checkpoint()}; same command --resume"
            )
        return exit_code(finished)

    def run(self, stop: StopRequest) -> bool:
        """Train to the end or until asked to stop, report, and end the tracking run.

        Returns:
            Whether it came to its end.

        Raises:
            BROKEN: the training cannot go on; what it had is in the latest checkpoint.
        """
        try:
            with self.training.watch:
                finished = self.training.run(stop)
            if finished and self.training.cluster.is_main:
                conclude(self.training, self.folder, self.tracker)
        except BROKEN:
            self.tracker.finish("FAILED")
            raise
        self.tracker.finish("FINISHED" if finished else "KILLED")
        return finished

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.training.loader.close()
        self.claim.release()
        if kind is not None:
            self.tracker.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
            return  # other ranks may wait in a collective: let the launcher end them
        self.training.cluster.close()

    def _watch(self) -> None:
        """Set up metrics, traces and the reaction to a hanging job."""
        training = self.training
        run, watch, screen = training.config.run, training.watch, training.screen
        watch.dog.last_words = self._stand_still
        if training.cluster.is_main:
            watch.traces = Traces(self.folder.path / TRACES if run.profile else None, screen.say)
            path = Path(run.metrics_file) if run.metrics_file else self.folder.path / METRICS_FILE
            watch.metrics_file = MetricsFile(path, self.folder.name, screen.warn)

    def _stand_still(self) -> str:
        """End the tracking run of a hanging job, whose main thread cannot."""
        self.tracker.finish("FAILED")
        return f"Latest checkpoint: {self._latest_checkpoint()}" if self.training.cluster.is_main else ""

    def _latest_checkpoint(self) -> str:
        whole = self.training.checkpoints.list()
        return str(whole[-1]) if whole else "none yet"

    def _introduce(self, parts: Parts, hooks: Hooks, *, resumed: bool) -> None:
        training, config = self.training, self.training.config
        cluster, perceptual_status = training.cluster, parts.perceptual_status
        self.tracker.log_config(flatten(config))
        self.tracker.set_tags(
            {
                "preset": config.preset,
                **config.recipe.tags,
                "networks": config.recipe.in_words,
                "perceptual": perceptual_status,
                "precision": cluster.precision,
                "processes": cluster.world_size,
                "engine": cluster.engine_name,
                "device": str(cluster.device),
                "mlflow.source.git.commit": commit(),
                **hooks.tags,
            }
        )
        data = ", ".join(config.data.train) or "embedded photographs and scenes"
        screen = training.screen
        screen.say(
            f"chromaclick {config.preset}: {config.data.image_size} px, {data}; {cluster.world_size} process(es) "
            f"on {cluster.device}, {cluster.threads} thread(s) each, {cluster.precision}"
            f"{f', {cluster.engine_name}' if cluster.zero else ''}; perceptual term: {perceptual_status}\n"
            f"{config.recipe.in_words}\n"
            f"{'resumed' if resumed else 'new'} run {self.folder.path}"
            + (f" at photo {training.progress.images_seen:,}" if training.progress.images_seen else "")
        )
        if config.data.train and config.data.order == "stream":
            photos = training.loader.samples_per_epoch
            again = ", now goes on in another order than before" if training.progress.images_seen else ""
            screen.say(f"order stream{again}: a resumed run repeats no exact order; a round is {photos:,} photos")
        if perceptual_status.startswith("unavailable"):
            screen.warn(f"ColorNet is trained without its perceptual term: LPIPS is {perceptual_status}")
        busy = os.getloadavg()[0]
        if cluster.device.type == "cpu" and cluster.threads > 1 and busy > usable_cores():
            screen.warn(
                f"this machine is busy (load {busy:.1f}), and threads that wait for each other can make training "
                "20 times slower: stop with Ctrl-C, and go on by the same command with --resume --engine.threads 1"
            )
        if len(training.validation.photos) < config.validation.photos:
            screen.warn(f"validating on {len(training.validation.photos)} photos: there are no more")
        for note in (*without_effect(config), *cluster.without_effect(config.engine)):
            screen.warn(note)


def exit_code(finished: bool) -> int:
    """0, or `TO_BE_CONTINUED` where torchrun should restart an unfinished training.

    All processes stop when one machine is told to. With 0 the other machines' agents would take the job for done.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))  # 0 with accelerate launch
    return TO_BE_CONTINUED if restarts and not finished else 0


def _beginning(parts: Parts, hooks: Hooks) -> Path | None:
    """Checkpoint that a new run starts from; None for a start from scratch."""
    return find_or_pretrain(parts, hooks.pretrained) if hooks.pretrained else hooks.start


def _open_tracker(parts: Parts, folder: RunFolder, hooks: Hooks, run_id: str, step: int) -> NullTracker:
    place = Place(
        work=Path(parts.config.run.work),
        folder=folder.path,
        name=folder.name,
        parent_run=hooks.parent_run,
        tracking_uri=hooks.tracking_uri,
        system_metrics=parts.config.run.system_metrics,
        warn=parts.screen.warn,
    )
    return open_tracker(place, run_id=run_id or None, resumed_at_step=step)


def _on_main_only(cluster: Cluster, work: Callable[[], NullTracker]) -> NullTracker:
    """Open something on the main process only; its error is raised on every rank."""
    opened: list[NullTracker] = []
    on_main(cluster, lambda: opened.append(work()))
    return opened[0] if opened else NullTracker()
