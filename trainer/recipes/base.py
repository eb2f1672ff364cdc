"""A recipe is data: named networks, and stages of phases that say who is trained on what.

Phase   one update of one or more networks per batch, borrowing others frozen
Stage   how long some phases run; each batch is shown to its phases in turn (one phase: plain training;
        generator and discriminator phases: a GAN; one phase with several networks: joint training)
Recipe  networks, stages in order, and what validation and publishing need to know
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kernels.noise import fold
from trainer.config import Config
from trainer.recipes.lab_batch import Scene
from trainer.recipes.losses import Perceptual


@dataclass(frozen=True)
class Term:
    """One part of a loss; the step minimises the sum of weight * value."""

    value: Tensor
    """Scalar, logged as it is."""
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """What a phase's loss sees of one batch."""

    config: Config
    scene: Scene
    """The batch on the device, in Lab."""
    networks: Mapping[str, Callable[..., Any]]
    """The phase's networks by name: trained ones as engines, borrowed ones bare and frozen. They give a tensor,
    the split network also more where it is asked for it."""
    images_seen: int
    """Photos that the whole training had seen before this batch."""
    progress: float
    """How far the stage has come, in [0, 1)."""
    perceptual: Perceptual | None
    """LPIPS, where its weights could be had."""

    def draw(self, purpose: int, low: int, high: int) -> int:
        """An integer in [low, high] that all ranks share: a function of the seed, the purpose and the position.

        What decides how often a network is called must come from here: ranks that differ would wait for ever.
        """
        return low + fold(self.config.seed, purpose, self.images_seen) % (high - low + 1)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One kind of update."""

    name: str
    trains: tuple[str, ...]
    """Networks that are stepped."""
    borrows: tuple[str, ...] = ()
    """Networks that are used frozen."""
    loss: Callable[[Step], Mapping[str, Term]]
    """From a batch to named terms."""
    lr: float
    """Peak learning rate of the stage's cosine."""

    def __post_init__(self) -> None:
        both = set(self.trains) & set(self.borrows)
        if both or not self.trains:
            raise ValueError(f"phase {self.name} trains {self.trains} and borrows {self.borrows}; name each once")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Phases that take turns on the same batches."""

    name: str
    phases: tuple[Phase, ...]
    rounds: float
    """Length, in passes over the training data."""

    def batches(self, samples_per_epoch: int, batch_size: int) -> int:
        """Length in steps, rounded up: at least one unless rounds is 0."""
        return math.ceil(round(self.rounds * samples_per_epoch / batch_size, 6))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training."""

    name: str
    networks: Mapping[str, Callable[[], nn.Module]]
    """Builders by name; each network gets one engine."""
    stages: Sequence[Stage]
    colorizer: str
    """The network that validation colours with."""
    guides: Mapping[str, str]
    """Published name of each guide, to the network's name."""

    def __post_init__(self) -> None:
        for stage in self.stages:
            for phase in stage.phases:
                unknown = {*phase.trains, *phase.borrows} - set(self.networks)
                if unknown:
                    raise ValueError(f"phase {phase.name} names {sorted(unknown)}; have {sorted(self.networks)}")
