"""Trainings that the benchmarks time: nothing watches them, and nothing of them is kept."""

from pathlib import Path

from trainer.checkpoint import Checkpoints
from trainer.config import Config
from trainer.data.batch import Batch
from trainer.data.embedded import EmbeddedLoader, validation_photos
from trainer.engines import Cluster
from trainer.loop import Training, build_engines
from trainer.monitoring.console import Screen
from trainer.monitoring.tracker import NullTracker
from trainer.recipes.base import Stage
from trainer.recipes.lab_batch import Scene, prepare_scene
from trainer.validation import Validation

NOTHING = {"engine.precision": "fp32", "engine.channels_last": False, "engine.compile": False}
"""Settings of the plain path."""
LOSS_TOLERANCE = 0.02
"""Largest relative difference of two paths' losses; bf16 keeps three decimal digits."""
PROGRESS = 0.25
"""How far a timed step's stage has come."""


class PlainTraining(Training):
    """The trainer with Lab computed on the CPU."""

    def _scene(self, batch: Batch) -> Scene:
        scene = super()._scene(batch)
        plain = prepare_scene(batch.rgb, scene.keys.cpu())
        device = self.cluster.device
        return Scene(plain.lightness.to(device), plain.truth_ab.to(device), plain.rgb.to(device), scene.keys)


def build(config: Config, cluster: Cluster, kind: type[Training], scratch: Path) -> Training:
    """A training that nothing watches."""
    recipe = config.recipe.build()
    photos, names = validation_photos(config.data.image_size, 1)
    return kind(
        config=config,
        recipe=recipe,
        cluster=cluster,
        engines=build_engines(config, recipe, cluster),
        loader=EmbeddedLoader(image_size=config.data.image_size, batch_size=config.data.batch_size),
        validation=Validation.of(photos, names, config),
        checkpoints=Checkpoints(scratch, 1),
        metrics=NullTracker(),
        screen=Screen(enabled=False),
    )


def one_of_each(training: Training) -> list[Stage]:
    """Pretraining of both kinds, ping and pong."""
    return list(training.recipe.stages[:4])
