"""Components of a training, opened on every rank; none of them needs a run folder."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import UInt8
from torch import Tensor

from evaluator.photos.manifest import ShardError
from trainer.checkpoint import Checkpoints
from trainer.config import Config
from trainer.data.batch import Loader
from trainer.data.loader import open_loader, open_validation
from trainer.engines import Cluster
from trainer.loop import Training, build_engines
from trainer.monitoring.console import Screen
from trainer.monitoring.tracker import NullTracker
from trainer.recipes.base import Recipe
from trainer.recipes.losses import Perceptual, load_perceptual
from trainer.run_folder import as_json
from trainer.validation import Validation

T = TypeVar("T")
_OF_A_MACHINE = (
    "run.work",
    "run.name",
    "run.metrics_file",
    "run.system_metrics",
    "data.train",
    "data.manifest",
    "data.validation",
    "data.cache",
    "data.workers",
    "engine.threads",
)
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
        loader = on_every(
            cluster,
            lambda: open_loader(
                config.data,
                seed=config.seed,
                rank=cluster.rank,
                world_size=cluster.world_size,
                pin_memory=cluster.device.type == "cuda",
            ),
        )
        check_agreement(cluster, {"precision": cluster.precision, **loader.signature, **_shared_settings(config)})
        photos, names = on_every(cluster, lambda: open_validation(config.data, config.validation.photos))
        check_agreement(cluster, {"validation photos": _fingerprint(photos, names)})
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
    """Run a function on the main process; every rank gets its result or its error."""
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


def on_every(cluster: Cluster, work: Callable[[], T]) -> T:
    """Run a function on every process; if it fails on one, it raises on all, so that none waits for another.

    Raises:
        WRONG_INPUT: a process's own error; a ValueError with the rank and the error of another one.
    """
    results, error = [], None
    try:
        results.append(work())
    except WRONG_INPUT as caught:
        error = caught
    problems = cluster.gather(str(error) if error is not None else "")
    if error is not None:
        raise error
    for rank, problem in enumerate(problems):
        if problem:
            raise ValueError(f"process {rank} cannot begin: {problem}")
    return results[0]


def check_agreement(cluster: Cluster, mine: Mapping[str, object]) -> None:
    """Refuse processes whose settings, photos or hardware differ: they would not do the same training.

    Raises:
        ValueError: on every process, with the first that differs from the main one.
    """
    first, *others = cluster.gather(dict(mine))
    for rank, theirs in enumerate(others, start=1):
        if differing := [name for name in first if first[name] != theirs.get(name)]:
            name = differing[0]
            raise ValueError(
                f"process {rank} has {name} {theirs.get(name)!r} and the main one {first[name]!r}; start all with "
                "the same settings and photos, and give engine.precision where their hardware differs"
            )


def _shared_settings(config: Config) -> dict[str, object]:
    """Settings that all processes must share; photos are compared by content, machine paths left out."""
    return {name: value for name, value in as_json(config).items() if not name.startswith(_OF_A_MACHINE)}


def _fingerprint(photos: UInt8[Tensor, "n 3 h w"], names: Sequence[str]) -> str:
    """Hash of the names and pixels of validation photos, of which each rank measures a share."""
    content = hashlib.sha256("\n".join(names).encode())
    content.update(photos.contiguous().numpy().data)
    return f"{len(names)}, sha256 {content.hexdigest()[:16]}"


def perceptual_everywhere(cluster: Cluster, config: Config) -> tuple[Perceptual | None, str]:
    """LPIPS on every rank or on none, with its status; the main process loads first, so only it downloads.

    Raises:
        ValueError: it is required, and some rank cannot have it.
    """
    mode = config.recipe.perceptual_mode
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
        raise ValueError(f"recipe.loss.perceptual is required, but some process cannot have it: {missing[0]}")
    return None, missing[0]
