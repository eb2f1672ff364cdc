"""The training loop: stages of a recipe, batch by batch, resumable at any step."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import torch

from evaluator.photos.manifest import ShardError
from evaluator.protocol.evaluate import Results
from evaluator.system.interrupts import StopRequest
from kernels.noise import fold, sample_keys
from trainer.checkpoint import Checkpoints, Progress
from trainer.config import Config
from trainer.data.batch import Batch, Loader
from trainer.engines import Cluster, Engine, borrow, train
from trainer.monitoring.console import Screen, StageDisplay
from trainer.monitoring.monitor import Watch
from trainer.recipes.base import Optimizer, Recipe, Stage, Step
from trainer.recipes.lab_batch import Scene, lab_converter, prepare_scene
from trainer.recipes.losses import Perceptual
from trainer.step import Update
from trainer.validation import Validation, first_losses, headline

UNTRAINED = Optimizer(lr=1.0)
"""Of a network that no phase steps."""
AfterValidation = Callable[["Training", Stage], bool | None]
"""Hears of each stage after its validation and checkpoint, on every rank; True, on every rank, stops."""


def carry_on(training: "Training", stage: Stage) -> None:
    """Default `AfterValidation` callback; does nothing."""


@runtime_checkable
class Metrics(Protocol):
    """Sink for metrics; implemented by the trackers of `trainer.monitoring`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values at a number of photos seen."""


@dataclass
class Training:
    """State of a training; `run` is the loop."""

    config: Config
    recipe: Recipe
    cluster: Cluster
    engines: Mapping[str, Engine]
    loader: Loader
    validation: Validation
    checkpoints: Checkpoints
    metrics: Metrics
    screen: Screen
    perceptual: Perceptual | None = None
    progress: Progress = field(default_factory=Progress)
    results: Results | None = None
    """The latest validation."""
    run_id: str = ""
    """The tracking run, kept in checkpoints so that a resumed training continues it."""
    after_validation: AfterValidation = carry_on

    def __post_init__(self) -> None:
        self.watch = Watch(self.config, self.cluster, self.engines, self.screen)
        self._to_lab = lab_converter(compiled=self.config.engine.compile)
        self._refuse_joint_phases()
        self._update = Update(self.config, self.cluster, self.watch, self.screen)

    def _refuse_joint_phases(self) -> None:
        joint = [phase for stage in self.recipe.stages for phase in stage.phases if len(phase.trains) > 1]
        if joint and self.cluster.precision == "fp16":
            raise ValueError(
                f"phase {joint[0].name} trains several networks, which share fp16's one loss scaler; "
                "use bf16 or fp32"
            )
        if any(not self.engines[name].can_share_a_loss for phase in joint for name in phase.trains):
            raise ValueError(
                f"phase {joint[0].name} trains several networks with one loss, which {self.cluster.engine_name} "
                "cannot; use launch/ddp.yaml"
            )

    def run(self, stop: StopRequest) -> bool:
        """Train to the end of the recipe, or until asked to stop.

        Returns:
            Whether the recipe is finished; if not, the state is saved.

        Raises:
            TrainingBroke: the loss was not finite several times in a row.
        """
        while self.progress.stage < len(self.recipe.stages):
            stage = self.recipe.stages[self.progress.stage]
            if not self.train_stage(stage, stop):
                return False
            self._validate(stage)
            self.progress.stage += 1
            self.progress.stage_images = 0
            self.save()
            if self.after_validation(self, stage) or self._asked_to_stop(stop):
                return False
        if self.results is None:  # resumed after the last stage
            self.results = self._measure(stages=self.progress.stage)
        return True

    def validate_again(self) -> Stage | None:
        """Repeat the previous stage's final validation without logging it.

        Returns:
            That stage; None where this one has begun, or there is none before.
        """
        if self.progress.stage_images or not self.progress.stage:
            return None
        self.results = self._measure(stages=self.progress.stage)
        return self.recipe.stages[self.progress.stage - 1]

    def train_stage(self, stage: Stage, stop: StopRequest) -> bool:
        """Train the rest of a stage and save a checkpoint; False if asked to stop.

        Raises:
            TrainingBroke: the loss was not finite several times in a row.
        """
        finished = self._run_stage(stage, stop)
        self.save()
        return finished and not self._asked_to_stop(stop)

    def _asked_to_stop(self, stop: StopRequest) -> bool:
        """Whether any rank was asked to stop; validation may have taken minutes."""
        return self.cluster.agree(finite=True, stop=stop.signal_name is not None).stop

    def save(self) -> None:
        """Write a checkpoint from the main process.

        Raises:
            OSError: it could not be written; every rank raises.
        """
        problem = None
        self.watch.dog.mark("writing a checkpoint")
        engines = {name: engine.state_dict() for name, engine in self.engines.items()}  # with ZeRO from all ranks
        if self.cluster.is_main:
            state = {
                "progress": asdict(self.progress),
                "engines": engines,
                "run_id": self.run_id,
                "data": self._conditions(),
                "micro_batch": self._update.micro_batch,
            }
            try:
                self.checkpoints.save(state, self.progress.images_seen, self.progress.stage)
            except OSError as error:
                problem = str(error)
        self.watch.dog.mark("waiting for the checkpoint")
        problem = self.cluster.share(problem)
        if problem:
            raise OSError(problem)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint that `save` wrote.

        A network that the state does not have keeps its initial weights, as if trained from the beginning: a
        shared pretraining holds ColorNet alone.

        Raises:
            ValueError: the training data or the way it is read are not those that it was written with.
        """
        there, here = state["data"], self._conditions()
        changed = [
            f"{name} was {there.get(name)} and is {here.get(name)}"
            for name in {*there, *here}
            if there.get(name) != here.get(name)
        ]
        if changed:
            raise ValueError(
                f"cannot continue in the middle of an epoch: {'; '.join(sorted(changed))}; start with the same"
            )
        now = self._update.micro_batch
        before = state.get("micro_batch", now)
        if before != now:
            self.screen.warn(
                f"batch norm sees groups of {now} photos from now on, and saw {before} before; "
                f"--engine.micro-batch {before} would go on as before"
            )
        self.progress = Progress(**{item.name: state["progress"][item.name] for item in fields(Progress)})
        for name, saved in state["engines"].items():
            self.engines[name].load_state_dict(saved)

    def take_networks(self, networks: Mapping[str, Any], source: str, wanted: Collection[str] = ()) -> None:
        """Start from another training's networks; those that it lacks keep their initial weights.

        Args:
            networks: their weights and statistics, by name.
            source: where they come from, for messages.
            wanted: which to take; all that are here unless given.

        Raises:
            ValueError: they are of another shape, or none of them is one of this recipe.
        """
        if not any(name in networks for name in self.recipe.networks):
            raise ValueError(f"{source} has {', '.join(networks)}, none of {', '.join(self.recipe.networks)}")
        taken = [name for name in wanted or self.engines if name in networks]
        for name in taken:
            state = self.engines[name].state_dict()
            try:
                self.engines[name].load_state_dict({**state, "network": networks[name]})
            except RuntimeError as error:
                raise ValueError(f"{name} of {source} is another network than this config's: {error}") from error
        if taken:
            fresh = [name for name in wanted or self.engines if name not in taken]
            others = f"; fresh: {', '.join(fresh)}" if fresh else ""
            self.screen.say(f"begins with {', '.join(taken)} of {source}{others}")

    def _conditions(self) -> dict[str, Any]:
        """Settings that a resumed training must share with its first part to repeat it exactly."""
        batch_size = self.config.data.batch_size
        return {**self.loader.signature, "precision": self.cluster.precision, "global batch": batch_size}

    def _run_stage(self, stage: Stage, stop: StopRequest) -> bool:
        """Train the rest of a stage; False if asked to stop before its end."""
        progress, batch_size = self.progress, self.config.data.batch_size
        images = self._images_of(stage)
        between = {images // batch_size * part // stage.parts * batch_size for part in range(1, stage.parts)}
        position = f"[{progress.stage + 1}/{len(self.recipe.stages)}]"
        with (
            self.screen.stage(stage.name, position, images, progress.stage_images) as display,
            self.watch.stage(stage.name),
        ):
            batches = self.loader.batches(progress.images_seen)
            while progress.stage_images < images:
                batch = self.watch.read(batches)
                losses, stopping = self.step(stage, progress.stage_images / images, batch, stop)
                progress.stage_images += batch_size
                progress.images_seen += batch_size
                self._refuse_corrupt_data()
                self._report(stage, display, losses)
                if progress.stage_images in between:
                    self._validate(stage)
                    self.save()
                if stopping:
                    return False
                if progress.images_seen % self.config.run.checkpoint_every < batch_size:
                    self.save()
        return True

    def _images_of(self, stage: Stage) -> int:
        batch_size = self.config.data.batch_size
        return stage.batches(self.loader.samples_per_epoch, batch_size) * batch_size

    def step(
        self, stage: Stage, progress: float, batch: Batch, stop: StopRequest
    ) -> tuple[dict[str, float], bool]:
        """Show one batch to each of the stage's phases in turn, but for those that leave it out."""
        scene, skipped = self._scene(batch), batch.skipped
        labels = {name: values.to(self.cluster.device) for name, values in batch.labels.items()}
        begin, end = self.recipe.span_shares(self.recipe.stages.index(stage))
        number = self.progress.stage_images // self.config.data.batch_size
        logged: dict[str, float] = {}
        stopping = False
        for phase in stage.phases:
            if number % phase.every:
                continue
            trained = {name: self.engines[name] for name in phase.trains}
            lent = [self.engines[name] for name in phase.borrows]
            with train(list(trained.values())), borrow(lent) as modules:
                networks = {**trained, **dict(zip(phase.borrows, modules, strict=True))}
                step = Step(
                    config=self.config.recipe,
                    scene=scene,
                    labels=labels,
                    networks=networks,
                    seed=self.config.seed,
                    images_seen=self.progress.images_seen,
                    progress=progress,
                    span_progress=begin + (end - begin) * progress,
                    perceptual=self.perceptual,
                )
                values, stop_now = self._update(phase, list(trained.values()), step, self.progress, skipped, stop)
                skipped = 0
            logged |= {f"{phase.name}/{name}": value for name, value in values.items()}
            stopping |= stop_now
        return logged, stopping

    def _scene(self, batch: Batch) -> Scene:
        """The batch on the device in Lab, with a noise key for each photo's position in the stream."""
        local = len(batch.rgb)
        first = self.progress.images_seen + self.cluster.rank * local
        keys = sample_keys(self.config.seed, first, local, self.cluster.device)
        return prepare_scene(batch.rgb.to(self.cluster.device, non_blocking=True), keys, self._to_lab)

    def _report(self, stage: Stage, display: StageDisplay, losses: Mapping[str, float]) -> None:
        progress = self.progress
        shown = first_losses(stage, losses)
        counts = {
            "images_seen": progress.images_seen,
            "stage": progress.stage,
            "skipped_steps": progress.skipped_steps,
            "skipped_photos": progress.skipped_photos,
        }
        watched = self.watch.step(losses, counts)
        display.update(progress.stage_images, shown, self.watch.in_words())
        self.screen.line(stage.name, display)
        share = min(progress.stage_images / max(1, display.images), 1.0)
        self.metrics.log_metrics(
            {
                **losses,
                **watched,
                **self.config.recipe.at(share),
                "images_per_second": display.images_per_second,
                "skipped_steps": progress.skipped_steps,
                "skipped_photos": progress.skipped_photos,
                "stage": progress.stage,
            },
            progress.images_seen,
        )

    def _refuse_corrupt_data(self) -> None:
        """Stop all ranks when too many photos were corrupt since the training began, resumed or not.

        At first they are held against one epoch, as in the loader, which checks where it serves a single process.

        Raises:
            ShardError: there are more than `data.corrupt_limit` allows.
        """
        corrupt, seen = self.progress.skipped_photos, self.progress.images_seen
        limit = self.config.data.corrupt_limit
        if corrupt > limit * max(seen, self.loader.samples_per_epoch):
            raise ShardError(
                f"{corrupt} of {seen} photos read are corrupt, more than {limit:.2%}; repair the shards or raise "
                "data.corrupt_limit"
            )

    def _validate(self, stage: Stage) -> None:
        self.results = self._measure(stages=self.progress.stage + 1)
        records, seen = self.results.records, self.progress.images_seen
        self.metrics.log_metrics(
            {f"validation/{one.policy}/{one.metric}_at_{one.clicks}": one.value for one in records}, seen
        )
        self.progress.curve += [
            {
                "stage": self.progress.stage,
                "images_seen": seen,
                "policy": one.policy,
                "metric": one.metric,
                "clicks": one.clicks,
                "value": one.value,
            }
            for one in records
        ]
        where = "after" if self.progress.stage_images == self._images_of(stage) else "in"
        self.screen.say(f"    {where} {stage.name}: {headline(self.results)}")

    def _measure(self, stages: int) -> Results:
        """Validate after a number of stages."""
        for engine in self.engines.values():
            engine.collect()
        phases = [phase for stage in self.recipe.stages[:stages] for phase in stage.phases]
        trained = {name for phase in phases for name in phase.trains}
        with self.watch.validating():
            return self.validation.measure(self.cluster, self.recipe, self.engines, trained, self.watch.dog)


def build_engines(config: Config, recipe: Recipe, cluster: Cluster) -> dict[str, Engine]:
    """The recipe's networks, initialised from the seed alone, each with its engine."""
    engines, optimizers = {}, recipe.optimizers
    for index, (name, build) in enumerate(recipe.networks.items()):
        torch.manual_seed(fold(config.seed, index))
        engines[name] = cluster.engine(name, build(), optimizers.get(name, UNTRAINED), config.engine)
        engines[name].module.eval()
    return engines
