"""A whole training that takes seconds, in this process or as a program that tests start and kill.

Program: `python tests/trainer/small_training.py FOLDER KILL_AT [dotted.setting=JSON ...]` trains in FOLDER, from
its checkpoint if there is one, kills itself with SIGKILL once KILL_AT photos are seen (0: never), and writes the
weights at the end.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evaluator.system.interrupts import StopRequest
from trainer.checkpoint import Checkpoints
from trainer.config import (
    Config,
    DataConfig,
    EngineConfig,
    RunConfig,
    ValidationConfig,
    override,
)
from trainer.data.batch import Batch, Loader
from trainer.data.loader import open_loader, open_validation
from trainer.engines import Cluster
from trainer.loop import Training, build_engines
from trainer.monitoring.console import Screen
from trainer.recipes.base import Recipe, Step, Term
from trainer.recipes.lab_batch import Scene
from trainer.recipes.pingpong import PingPong
from trainer.recipes.pingpong_settings import ClicksConfig, LossConfig, RoundsConfig
from trainer.validation import Validation

WEIGHTS_FILE = "weights.pt"
SMALL_UNET = (
    *[
        "--recipe.network",
        "unet",
        "--recipe.guide",
        "own",
        "--recipe.color-widths",
        "8",
        "8",
        "16",
        "--recipe.edit-widths",
        "4",
        "8",
        "8",
    ],
    *["--recipe.loss.color", "l1", "--recipe.loss.target", "region", "--recipe.loss.perceptual", "off"],
    *["--recipe.clicks.law", "uniform", "--recipe.clicks.maps", "1", "--recipe.clicks.most-random", "4"],
    *("--data.image-size", "16"),
)
"""What makes a preset's training on the command line like that of `small_config`."""
SPLIT: dict[str, Any] = {
    "data__image_size": 32,
    "recipe__network": "split",
    "recipe__photo_widths": (8, 8, 8, 8),
    "recipe__click_widths": (8, 8, 8),
    "recipe__guide": "head",
    "recipe__guide_widths": (8, 8, 8),
    "recipe__loss__color": "log_mse",
    "recipe__loss__target": "gain",
    "recipe__loss__gain_tries": 8,
    "recipe__clicks__law": "geometric",
    "recipe__clicks__maps": 2,
}
"""Settings of `small_config` for a split network and guides that are its heads and learn gains."""


class Recorder:
    """Keeps metrics in memory; may kill the process to test that this costs nothing."""

    def __init__(self, kill_at: int = 0) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self._kill_at = kill_at

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))
        if self._kill_at and step >= self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Hanging:
    """A loader that gives one rank some batches and then nothing for ever."""

    def __init__(self, loader: Loader, this_rank: int, rank: int, after: int, stopped: int) -> None:
        self._loader, self._hangs, self._after, self._stopped = loader, this_rank == rank, after, stopped
        self.samples_per_epoch, self.signature = loader.samples_per_epoch, loader.signature
        self.close = loader.close

    def batches(self, images_seen: int) -> Iterator[Batch]:
        for number, batch in enumerate(self._loader.batches(images_seen)):
            if self._hangs and number == self._after:
                if self._stopped:
                    os.kill(os.getpid(), signal.SIGSTOP)
                threading.Event().wait()
            yield batch


class Slow:
    """A loader that lets one rank wait for every batch."""

    def __init__(self, loader: Loader, this_rank: int, rank: int, seconds: float) -> None:
        self._loader, self._seconds = loader, seconds if this_rank == rank else 0.0
        self.samples_per_epoch, self.signature = loader.samples_per_epoch, loader.signature
        self.close = loader.close

    def batches(self, images_seen: int) -> Iterator[Batch]:
        for batch in self._loader.batches(images_seen):
            threading.Event().wait(self._seconds)
            yield batch


def small_config(folder: Path, **settings: Any) -> Config:
    """16 px, three-level networks, one cycle; every stage a few steps."""
    config = Config(
        preset="test",
        data=DataConfig(image_size=16, batch_size=8, scale_jitter=4),
        recipe=PingPong(
            color_widths=(8, 8, 16),
            edit_widths=(4, 8, 8),
            loss=LossConfig(perceptual="off"),
            clicks=ClicksConfig(most_random=4, interactions=2),
            rounds=RoundsConfig(pretrain_color=0.012, pretrain_edit=0.008, ping=0.008, pong=0.008, cycles=1),
        ),
        engine=EngineConfig(precision="fp32", threads=1),
        validation=ValidationConfig(photos=4, clicks=(0, 1, 2)),
        run=RunConfig(work=str(folder), name="run", checkpoint_every=16, publish=False),
    )
    return override(config, {name.replace("__", "."): value for name, value in settings.items()})


def own(config: Config) -> PingPong:
    """The settings of a config's recipe, with their type."""
    assert isinstance(config.recipe, PingPong)
    return config.recipe


def step_on(
    config: Config,
    scene: Scene,
    networks: Mapping[str, Callable[..., Any]],
    images_seen: int = 0,
    progress: float = 0.5,
) -> Step:
    """What a phase's loss sees of a batch."""
    return Step(
        config=config.recipe,
        scene=scene,
        networks=networks,
        seed=config.seed,
        images_seen=images_seen,
        progress=progress,
        span_progress=progress,
        perceptual=None,
    )


def build(config: Config, folder: Path, *, kill_at: int = 0, recipe: Recipe | None = None) -> Training:
    """A training without tracker, resumed from what is in the folder."""
    cluster = Cluster(config.engine)
    recipe = recipe or config.recipe.build()
    photos, names = open_validation(config.data, config.validation.photos)
    training = Training(
        config=config,
        recipe=recipe,
        cluster=cluster,
        engines=build_engines(config, recipe, cluster),
        loader=open_loader(
            config.data, seed=config.seed, rank=cluster.rank, world_size=cluster.world_size, pin_memory=False
        ),
        validation=Validation.of(photos, names, config),
        checkpoints=Checkpoints(folder / "checkpoints", config.run.keep),
        metrics=Recorder(kill_at),
        screen=Screen(enabled=False),
    )
    state = training.checkpoints.load()
    if state:
        training.restore(state)
    return training


def weights(training: Training) -> dict[str, dict[str, torch.Tensor]]:
    """Every network's weights and statistics."""
    return {name: engine.module.state_dict() for name, engine in training.engines.items()}


def poison(recipe: Recipe, rank: int, images_seen: int) -> Recipe:
    """The recipe with a first phase whose loss is NaN on one rank, at one place."""
    stage = recipe.stages[0]

    def spoiled(step: Step) -> Mapping[str, Term]:
        terms = dict(stage.phases[0].loss(step))
        if step.images_seen == images_seen and int(os.environ["RANK"]) == rank:
            terms["spoiled"] = Term(terms["l1"].value * float("nan"))
        else:
            terms["spoiled"] = Term(terms["l1"].value * 0)
        return terms

    phase = replace(stage.phases[0], loss=spoiled)
    return replace(recipe, stages=[replace(stage, phases=(phase,)), *recipe.stages[1:]])


def main(folder: Path, kill_at: int, settings: dict[str, Any]) -> None:
    """Train, and write the weights where the training came to its end.

    The setting `poison=[RANK, PHOTOS]` makes one rank's loss NaN at one place, `hang=[RANK, BATCHES, STOPPED]`
    has one rank's loader never give its next batch after so many; STOPPED: the whole process stops.
    `slow=[RANK, SECONDS]` has one rank wait for every batch.
    """
    poisoned, hanging, slow = (settings.pop(name, None) for name in ("poison", "hang", "slow"))
    config = small_config(folder, **settings)
    recipe = poison(config.recipe.build(), *poisoned) if poisoned else None
    training = build(config, folder, kill_at=kill_at, recipe=recipe)
    if hanging:
        training.loader = Hanging(training.loader, training.cluster.rank, *hanging)
    if slow:
        training.loader = Slow(training.loader, training.cluster.rank, *slow)
    if training.cluster.is_main:
        print(f"begins at photo {training.progress.images_seen}")
    with training.watch:
        assert training.run(StopRequest())
    if training.cluster.is_main:
        torch.save(weights(training), folder / WEIGHTS_FILE)
        print(f"skipped steps: {training.progress.skipped_steps}")
        print(f"watched: {training.watch.in_words()}")
    training.loader.close()
    training.cluster.close()


if __name__ == "__main__":
    pairs = (word.partition("=") for word in sys.argv[3:])
    parsed = {name: json.loads(value) for name, _, value in pairs}
    lists_as_tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in parsed.items()}
    main(Path(sys.argv[1]), int(sys.argv[2]), lists_as_tuples)
