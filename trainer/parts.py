"""What a training is put together from, opened on every rank; a run folder is not needed for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evaluator.photos.manifest import ShardError
from trainer.checkpoints import Checkpoints
from trainer.config import Config
from trainer.console import Screen
from trainer.data.batch import Loader
from trainer.data.sources import open_loader, open_validation
from trainer.engines import Cluster
from trainer.loop import Training, build_engines
from trainer.null_tracker import NullTracker
from trainer.perceptual import Perceptual, load_perceptual
from trainer.recipes import Recipe
from trainer.validation import Validation

T = TypeVar("T")
WRONG_INPUT = (ValueError, OSError, ShardError)
"""What opening raises for something that a person can mend (a lost connection is an OSError)."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Data, processes and losses of a config."""

    config: Config
    cluster: Cluster
    screen: Screen
    loader: Loader
    validation: Validation
    perceptual: Perceptual | None
    perceptual_status: str
    """In a few words; for the console and MLflow."""

    @classmethod
    def of(cls, config: Config, *, quiet: bool = False, metrics: Sequence[str] = ()) -> "Parts":
        """Open everything that the config names, on every rank.

        Args:
            config: of the training.
            quiet: print nothing.
            metrics: what validation measures beside the default.

        Raises:
            WRONG_INPUT: see its docstring; the message says what to do.
        """
        cluster = Cluster(config.engine)
        loader = open_loader(
            config.data,
            seed=config.seed,
            rank=cluster.rank,
            world_size=cluster.world_size,
            pin_memory=cluster.device.type == "cuda",
        )
        photos, names = open_validation(config.data, config.validation.photos)
        perceptual, status = perceptual_everywhere(cluster, config)
        return cls(
            config=config,
            cluster=cluster,
            screen=Screen(enabled=cluster.is_main and not quiet),
            loader=loader,
            validation=Validation.of(photos, names, config, metrics),
            perceptual=perceptual,
            perceptual_status=status,
        )

    def training(self, recipe: Recipe, checkpoints: Checkpoints) -> Training:
        """A training of this recipe at its beginning, without a tracker."""
        return Training(
            config=self.config,
            recipe=recipe,
            cluster=self.cluster,
            engines=build_engines(self.config, recipe, self.cluster),
            loader=self.loader,
            validation=self.validation,
            checkpoints=checkpoints,
            metrics=NullTracker(),
            screen=self.screen,
            perceptual=self.perceptual,
        )


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
