"""A recipe of a few lines: two networks that are trained against each other, with settings of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from tests.trainer.recipes.toy_network import Colorizer, Judge, Tint
from trainer.config import Config, DataConfig, EngineConfig, RunConfig, ValidationConfig
from trainer.recipes.base import Optimizer, Phase, Published, Recipe, RecipeConfig, Stage, Step, Term
from trainer.recipes.schedules import Decay


@dataclass(frozen=True, kw_only=True)
class Toy(RecipeConfig):
    """Settings of the toy."""

    name: ClassVar[str] = "toy"
    width: int = 4
    lr: float = 1e-2
    strength: float = 0.1
    """Weight of the judge's opinion."""
    rounds: float = 24 / 4096

    @property
    def in_words(self) -> str:
        return "a tint and its judge"

    def build(self) -> Recipe:
        adam = Optimizer(kind="adam", lr=self.lr, betas=(0.5, 0.999), weight_decay=0.0, clip=10.0)
        decay = Decay(shape="linear", floor=0.0, hold=0.5, until=1.0, over="span")
        tint = Phase(
            name="tint", trains=("tint",), borrows=("judge",), loss=tint_loss, optimizer=adam, schedule=decay
        )
        judge = Phase(
            name="judge",
            trains=("judge",),
            borrows=("tint",),
            loss=judge_loss,
            optimizer=adam,
            schedule=decay,
            every=2,
        )
        published = Published(
            name="tinter", kind="colorizer", network="tint", build=as_colorizer, follows_clicks=False
        )
        return Recipe(
            name=self.name,
            networks={"tint": partial(Tint, self.width), "judge": partial(Judge, self.width)},
            stages=(
                Stage(name="first", phases=(tint, judge), rounds=self.rounds, span="all", parts=2),
                Stage(name="second", phases=(tint, judge), rounds=self.rounds, span="all"),
            ),
            published=(published,),
        )


def as_colorizer(networks: Mapping[str, nn.Module]) -> nn.Module:
    return Colorizer(networks["tint"])


def tint_loss(step: Step) -> Mapping[str, Term]:
    ab = step.networks["tint"](step.scene.lightness)
    opinion = step.networks["judge"](step.scene.lightness, ab)
    return {
        "l1": Term(F.l1_loss(ab.float(), step.scene.truth_ab)),
        "fooled": Term(F.softplus(-opinion).mean(), step.config.strength),
    }


def judge_loss(step: Step) -> Mapping[str, Term]:
    lightness = step.scene.lightness
    false = step.networks["judge"](lightness, step.networks["tint"](lightness).detach())
    true = step.networks["judge"](lightness, step.scene.truth_ab)
    return {"judged": Term(F.softplus(false).mean() + F.softplus(-true).mean())}


def toy() -> Config:
    """16 px, six steps."""
    return Config(
        preset="toy",
        data=DataConfig(image_size=16, batch_size=8, scale_jitter=4),
        recipe=Toy(),
        engine=EngineConfig(precision="fp32", threads=1),
        validation=ValidationConfig(photos=4, clicks=(0, 1, 2)),
        run=RunConfig(checkpoint_every=16),
    )
