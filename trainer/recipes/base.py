"""A recipe is data: named networks, and stages of phases that say who is trained on what.

Phase   one update of one or more networks per batch, borrowing others frozen
Stage   how long some phases run; each batch is shown to its phases in turn (one phase: plain training;
        generator and discriminator phases: a GAN; one phase with several networks: joint training)
Recipe  networks, stages in order, and what is published of them

A system is a network, and a file here with its settings (a `RecipeConfig`) and its losses;
`trainer.recipes.RECIPES` names it. Nothing else of the trainer or the tuner knows one system from another.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from kernels.noise import fold
from trainer.recipes.lab_batch import Scene
from trainer.recipes.losses import Perceptual, PerceptualMode
from trainer.recipes.schedules import Decay, Schedule


@dataclass(frozen=True)
class Term:
    """One part of a loss; the step minimises the sum of weight * value."""

    value: Tensor
    """Scalar, logged as it is."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a phase's loss sees of one batch."""

    config: Any
    """The recipe's own settings."""
    scene: Scene
    """The batch on the device, in Lab."""
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """Further members of the batch's samples, on the device."""
    networks: Mapping[str, Callable[..., Any]]
    """The phase's networks by name: trained ones as engines, borrowed ones bare and frozen. They give a tensor,
    the split network also more where it is asked for it."""
    seed: int
    """Of the whole training."""
    images_seen: int
    """Photos that the whole training had seen before this batch."""
    progress: float
    """How far the stage has come, in [0, 1)."""
    span_progress: float
    """How far the stage's span has come, in [0, 1); the same as `progress` for a stage without one."""
    perceptual: Perceptual | None
    """LPIPS, where its weights could be had."""

    def draw(self, purpose: int, low: int, high: int) -> int:
        """An integer in [low, high] that all ranks share: a function of the seed, the purpose and the position.

        What decides how often a network is called must come from here: ranks that differ would wait for ever.
        """
        return low + fold(self.seed, purpose, self.images_seen) % (high - low + 1)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam's family, as a phase steps its networks with it."""

    kind: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay. adam: added to the gradient (Kingma and Ba 2015)."""
    lr: float
    """Peak learning rate of the phase."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest L2 norm of a network's gradient."""

    def __post_init__(self) -> None:
        above_zero(self, "lr", "clip")
        at_least(self, weight_decay=0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; give two numbers from 0 to below 1")

    def same_but_for_lr(self, other: "Optimizer") -> bool:
        """Whether one optimizer state can serve both."""
        mine, theirs = ((one.kind, one.betas, one.weight_decay, one.clip) for one in (self, other))
        return mine == theirs


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
    optimizer: Optimizer
    schedule: Decay = field(default_factory=Decay)
    """Of the learning rate."""
    every: int = 1
    """It takes one in so many of the stage's batches."""

    def __post_init__(self) -> None:
        at_least(self, every=1)
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
    span: str = ""
    """Stages that follow each other under one name share `Step.span_progress`, for schedules over all of them."""
    parts: int = 1
    """Validations during the stage, evenly spaced; the last one is at its end."""

    def __post_init__(self) -> None:
        at_least(self, parts=1)
        if all(phase.every > 1 for phase in self.phases):
            raise ValueError(f"stage {self.name}: every phase leaves batches out; one must take all of them")

    def batches(self, samples_per_epoch: int, batch_size: int) -> int:
        """Length in steps, rounded up: at least one unless rounds is 0."""
        return math.ceil(round(self.rounds * samples_per_epoch / batch_size, 6))


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is exported and registered at the end of a training."""

    name: str
    """In the registry, and among the policies of a validation."""
    kind: Literal["colorizer", "guide"]
    network: str
    """Which of the recipe's networks it is, or is mainly made of: published once that has been trained."""
    build: Callable[[Mapping[str, nn.Module]], nn.Module] | None = None
    """From the recipe's networks to a module behind the house's call (see `evaluator.registry.networks`), with a
    `multiple`; None: the network itself."""
    follows_clicks: bool = True
    """Whether a colorizer uses clicks at all; one that does not is measured at 0 clicks."""
    temperature: float | None = None
    """T of a guide's heat map when it is used."""

    def module(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """The module out of trained networks."""
        return self.build(networks) if self.build else networks[self.network]


@dataclass(frozen=True, kw_only=True)
class SharedPrefix:
    """The first stage, where trainings that differ in later things may share it."""

    unread: tuple[str, ...]
    """Beginnings of the names of recipe settings that it does not read."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training."""

    name: str
    networks: Mapping[str, Callable[[], nn.Module]]
    """Builders by name; each network gets one engine."""
    stages: Sequence[Stage]
    published: tuple[Published, ...]
    """The colorizer that validation colors with comes first."""
    objective: str = ""
    """Published name of the guide that searches look at; empty: random clicks."""
    shared_prefix: SharedPrefix | None = None

    def __post_init__(self) -> None:
        for stage in self.stages:
            for phase in stage.phases:
                unknown = {*phase.trains, *phase.borrows} - set(self.networks)
                if unknown:
                    raise ValueError(f"phase {phase.name} names {sorted(unknown)}; have {sorted(self.networks)}")
        kinds = [one.kind for one in self.published]
        if kinds.count("colorizer") != 1 or kinds[0] != "colorizer":
            raise ValueError(f"recipe {self.name} publishes {kinds}; give one colorizer, and then its guides")
        if self.shared_prefix and self.stages and self.stages[0].span:
            raise ValueError(f"recipe {self.name} shares its first stage, which cannot be part of a span then")
        self.optimizers  # noqa: B018  refuses those that contradict each other

    @property
    def colorizer(self) -> Published:
        """What validation colors with."""
        return self.published[0]

    @property
    def guides(self) -> tuple[Published, ...]:
        """What says where to click."""
        return self.published[1:]

    @property
    def trained(self) -> set[str]:
        """Names of the networks that some stage trains."""
        return {name for stage in self.stages for phase in stage.phases for name in phase.trains}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """By network: that of the first phase which trains it; later ones change its learning rate alone.

        Raises:
            ValueError: two phases want to step one network in different ways.
        """
        found: dict[str, tuple[str, Optimizer]] = {}
        for phase in (phase for stage in self.stages for phase in stage.phases):
            for name in phase.trains:
                before, optimizer = found.setdefault(name, (phase.name, phase.optimizer))
                if not optimizer.same_but_for_lr(phase.optimizer):
                    raise ValueError(
                        f"phases {before} and {phase.name} step {name} with {optimizer} and {phase.optimizer}; a "
                        "network has one optimizer, whose learning rate alone may change"
                    )
        return {name: optimizer for name, (_, optimizer) in found.items()}

    def span_shares(self, index: int) -> tuple[float, float]:
        """Where a stage begins and ends within its span, as shares of the span's rounds."""
        stage = self.stages[index]
        if not stage.span:
            return 0.0, 1.0
        first = last = index
        while first and self.stages[first - 1].span == stage.span:
            first -= 1
        while last + 1 < len(self.stages) and self.stages[last + 1].span == stage.span:
            last += 1
        rounds = [one.rounds for one in self.stages[first : last + 1]]
        before = sum(rounds[: index - first])
        return before / sum(rounds), (before + stage.rounds) / sum(rounds)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(ABC):
    """A recipe's own settings. A subclass for each system; a preset decides which one a training has."""

    name: ClassVar[str]
    begin_with: str = ""
    """Folder of a run whose networks this training begins with; other settings than their widths may differ."""

    @abstractmethod
    def build(self) -> Recipe:
        """The recipe with these settings."""

    @property
    @abstractmethod
    def in_words(self) -> str:
        """The networks in a line."""

    @property
    def tags(self) -> dict[str, object]:
        """By which runs are grouped in MLflow."""
        return {"recipe": self.name}

    @property
    def perceptual_mode(self) -> PerceptualMode:
        """Whether LPIPS is wanted."""
        return "off"

    @property
    def perceptual_weight(self) -> float:
        """Of LPIPS in the losses."""
        return 0.0

    @property
    def resolved(self) -> tuple[str, ...]:
        """Beginnings of settings whose effect on a shared stage is told from what becomes of them."""
        return ("begin_with",)

    @property
    def hint_size(self) -> tuple[int, int]:
        """Smallest and largest side of a click's hint patch in training, in pixels."""
        return 1, 1

    @property
    def most_clicks(self) -> int:
        """The most clicks that a photo has at once in training."""
        return 0

    @property
    def multiple(self) -> int:
        """The divisor of the photos' sides in pixels."""
        return 1

    @property
    def deep(self) -> tuple[str, ...]:
        """Settings whose smaller values would allow a smaller `multiple`."""
        return ()

    def at(self, progress: float) -> dict[str, float]:
        """Values that change over a stage and are logged with it, by name."""
        return {}

    def schedules(self, stage: str) -> dict[str, Schedule]:
        """What changes over a stage of this name, by a label for figures."""
        return {}

    def without_effect(self) -> dict[str, str]:
        """Why settings do nothing here, by the beginning of their names within the recipe; empty: they do."""
        return {}


def at_least(config: Any, **smallest: int) -> None:
    """Refuse fields that are below a bound.

    Raises:
        ValueError: one is, or is NaN.
    """
    for name, bound in smallest.items():
        if not getattr(config, name) >= bound:  # so that NaN is refused too
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {bound}")


def above_zero(config: Any, *names: str, prefix: str = "") -> None:
    """Refuse fields that are not above 0.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{prefix}{name} is {getattr(config, name)}; it must be above 0")


def share(config: Any, *names: str) -> None:
    """Refuse fields outside [0, 1].

    Raises:
        ValueError: one is.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it is a share, from 0 to 1")
