"""Presets of sweeps: a base training, a space and a budget."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from kernels.estimators import EstimatorName
from trainer.config import Config, DataConfig, RunConfig, ValidationConfig, override
from trainer.config.presets import paper, tiny
from trainer.config.presets import small as small_training
from trainer.recipes.pingpong import WITHOUT_TAU, PingPong
from trainer.recipes.pingpong_settings import ChoiceConfig, ClicksConfig, LossConfig, OptimizerConfig, RoundsConfig
from trainer.recipes.schedules import Schedule
from tuner.search.space import Domain

ESTIMATORS: tuple[EstimatorName, ...] = get_args(EstimatorName)
RELAXED = tuple(name for name in ESTIMATORS if name not in WITHOUT_TAU)
"""Estimators that have a tau."""
MOVING = ("exponential", "warmup_cosine")
"""Shapes of a schedule that have an end."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults of a sweep; options replace each of them."""

    base: Config
    domains: tuple[Domain, ...]
    budget: str
    search: str = "tpe"
    scheduler: str = "asha"
    gpus: float = 0.0
    """Of each trial."""


def whole_space() -> tuple[Domain, ...]:
    """Space of all questions of the project: entropy weight, schedules, estimator, and what they depend on.

    ColorNet's own learning rate is left out: it would change the pretraining that all trials share.
    """
    moving = {"recipe.choice.temperature.shape": MOVING}
    relaxed = {"recipe.choice.estimator": RELAXED}
    return (
        Domain(path="recipe.choice.estimator", kind="choice", values=ESTIMATORS),
        Domain(path="recipe.loss.entropy", kind="log_uniform", low=1e-4, high=0.3, extra=(0.0,)),
        Domain(path="recipe.loss.heatmap", kind="log_uniform", low=0.01, high=1.0),
        Domain(path="recipe.choice.temperature.shape", kind="choice", values=("constant", *MOVING)),
        Domain(path="recipe.choice.temperature.start", kind="log_uniform", low=0.25, high=4.0),
        Domain(path="recipe.choice.temperature.end", kind="log_uniform", low=0.1, high=2.0, when=moving),
        Domain(
            path="recipe.choice.temperature.warmup",
            kind="uniform",
            low=0.02,
            high=0.4,
            when={"recipe.choice.temperature.shape": ("warmup_cosine",)},
        ),
        Domain(path="recipe.choice.tau.start", kind="log_uniform", low=0.5, high=4.0, when=relaxed),
        Domain(path="recipe.choice.tau.end", kind="log_uniform", low=0.1, high=1.0, when=relaxed),
        Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=3),
        Domain(path="recipe.optimizer.edit_lr", kind="log_uniform", low=3e-4, high=1e-2),
        Domain(path="recipe.optimizer.pingpong_factor", kind="log_uniform", low=0.1, high=1.0),
    )


def question_space() -> tuple[Domain, ...]:
    """Space of the three main questions: estimator, entropy weight, temperature schedule."""
    return (
        Domain(
            path="recipe.choice.estimator",
            kind="choice",
            values=("argmax_ste", "gumbel_softmax", "gumbel_softmax_soft"),
        ),
        Domain(path="recipe.loss.entropy", kind="log_uniform", low=1e-3, high=0.3, extra=(0.0,)),
        Domain(path="recipe.choice.temperature.shape", kind="choice", values=("constant", *MOVING)),
        Domain(path="recipe.choice.temperature.start", kind="log_uniform", low=0.5, high=2.0),
        Domain(
            path="recipe.choice.temperature.end",
            kind="log_uniform",
            low=0.1,
            high=1.0,
            when={"recipe.choice.temperature.shape": MOVING},
        ),
    )


THESIS = {
    "recipe.network": "unet",
    "recipe.guide": "own",
    "recipe.loss.color": "l1",
    "recipe.loss.target": "region",
    "recipe.loss.recoloured": 1.0,
    "recipe.clicks.law": "uniform",
    "recipe.clicks.maps": 1,
    "recipe.clicks.most_random": 20,
    "recipe.optimizer.decay_until": 0.5,
}
"""Sweeps over estimators are about the thesis' networks; the split network takes no soft clicks."""


def smoke() -> Preset:
    """32 px, eight trials, minutes on two CPU cores: shows that everything works, and finds nothing out."""
    base = Config(
        preset="tiny",
        data=DataConfig(image_size=32, batch_size=16, scale_jitter=4),
        recipe=PingPong(
            color_widths=(8, 16, 32, 32),
            edit_widths=(8, 16, 16),
            choice=ChoiceConfig(hint_size=(3, 3), temperature=Schedule(shape="constant")),
            loss=LossConfig(perceptual="off"),
            clicks=ClicksConfig(most_random=10, interactions=1),
            optimizer=OptimizerConfig(color_lr=3e-3, edit_lr=3e-3),
            rounds=RoundsConfig(pretrain_color=0.5, pretrain_edit=0.125, ping=0.0625, pong=0.0625, cycles=2),
        ),
        validation=ValidationConfig(photos=32, clicks=(0, 1, 5, 10), hint_size=3),
        run=RunConfig(publish=False),
    )
    return Preset(base=base, domains=question_space(), budget="8 trials")


def small() -> Preset:
    """64 px and the whole space: an evening on two CPU cores, minutes on a GPU."""
    own = {"recipe.rounds.pretrain_color": 4.0, "recipe.rounds.pretrain_edit": 0.6, "recipe.rounds.ping": 0.25}
    return Preset(base=override(tiny(), {**THESIS, **own}), domains=whole_space(), budget="2h")


def medium() -> Preset:
    """128 px and the whole space, several trials on each GPU."""
    own = {"recipe.optimizer.color_lr": 1e-3, "recipe.optimizer.edit_lr": 1e-3}
    base = override(small_training(), {**THESIS, **own})
    return Preset(base=base, domains=whole_space(), budget="12h", gpus=0.25)


def full() -> Preset:
    """The thesis' training, one GPU for each trial."""
    return Preset(base=paper(), domains=whole_space(), budget="40 trials", gpus=1.0)


PRESETS: dict[str, Callable[[], Preset]] = {"smoke": smoke, "small": small, "medium": medium, "full": full}
