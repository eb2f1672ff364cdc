"""Settings of the recipe `trainer.recipes.pingpong`, one small dataclass for each of its parts."""

from dataclasses import dataclass, field
from typing import Any, Literal

from kernels.clicks import LARGEST_HINT
from kernels.estimators import EstimatorName
from trainer.recipes.base import Optimizer, above_zero, at_least, share
from trainer.recipes.losses import PerceptualMode
from trainer.recipes.schedules import Decay, Schedule


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """How a click is chosen and written during training."""

    estimator: EstimatorName = "argmax_ste"
    """Gradient estimator of the discrete choice (section 3.3)."""
    temperature: Schedule = field(default_factory=Schedule)
    """T of the heat map softmax(z / T)."""
    tau: Schedule = field(default_factory=lambda: Schedule(shape="exponential", start=2.0, end=0.5))
    """Temperature of the relaxation; without effect for argmax_ste and reinforce. reinmax is exact only at 1."""
    samples: int = 4
    """K of gumbel_rao: conditional noise samples. Of reinforce: clicks tried for each photo, at least 2. Without
    effect for the others."""
    hint_size: tuple[int, int] = (1, 1)
    """Smallest and largest side of a click's patch in pixels; 1 1 is the paper's. Drawn for each random click of
    each photo, and for each of EditNet's clicks once for the batch."""

    def __post_init__(self) -> None:
        low, high = self.hint_size
        if not 1 <= low <= high:
            raise ValueError(f"recipe.choice.hint_size is {self.hint_size}; give 1 <= smallest <= largest")
        if high > LARGEST_HINT:
            raise ValueError(
                f"recipe.choice.hint_size is {self.hint_size}; the largest patch is {LARGEST_HINT} pixels"
            )
        fewest = 2 if self.estimator == "reinforce" else 1
        if self.samples < fewest:
            raise ValueError(f"recipe.choice.samples is {self.samples}; {self.estimator} needs at least {fewest}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and targets of the losses (section 3.2.2)."""

    perceptual: PerceptualMode = "auto"
    """LPIPS in ColorNet's loss. auto: where its weights can be had, said once otherwise; required: or stop."""
    color: Literal["l1", "huber", "log_mse"] = "l1"
    """ColorNet's error. l1: the mean absolute one (the thesis). huber: quadratic below 2.6 CIE units. log_mse: the
    logarithm of each photo's mean squared error, which mean PSNR rewards."""
    base: float = 0.25
    """Weight of the same error before any click, in every step of the split network; without effect for unet."""
    distribution: float = 0.01
    """Weight of the cross-entropy of the split network's color distribution; without effect for unet."""
    lpips: float = 0.1
    """lambda_LPIPS, weight of the perceptual term."""
    recoloured: float = 1.0
    """Weight of the photo's error as it is re-colored with EditNet's click, whose gradient the estimator carries;
    0 leaves that gradient out."""
    heatmap: float = 0.1
    """lambda_heatmap, weight of EditNet's heat-map term; of its entropy alone where the target is `gain`."""
    entropy: float = 0.01
    """lambda_entropy, weight of the entropy inside the heat-map term; higher entropy is rewarded."""
    target: Literal["error", "region", "gain"] = "region"
    """What EditNet learns. error: the paper's smoothed error map. region: centers of large wrong regions. gain: by
    how much a click there lowers the photo's error, tried with the colorizer."""
    gain: float = 1.0
    """Weight of the gain's loss; without effect for the other targets."""
    gain_loss: Literal["list", "centred"] = "list"
    """list: cross-entropy between softmaxes over the tried pixels. centred: squared error of scores less their
    mean."""
    gain_tries: int = 16
    """Pixels that are tried in each state: three in eight are the guide's own best, the others are spread over the
    photo."""
    error_blur: float = 3.0
    """Standard deviation, in pixels, of the blur of the `error` target; without effect for the others."""
    heatmap_in_pretraining: bool = True
    """Apply the heat-map term while EditNet is pretrained too; the paper adds it in ping-pong only (3.5)."""

    def __post_init__(self) -> None:
        at_least(self, lpips=0, heatmap=0, entropy=0, error_blur=0, base=0, distribution=0, recoloured=0)
        at_least(self, gain=0, gain_tries=8)


@dataclass(frozen=True, kw_only=True)
class ClicksConfig:
    """How many clicks a photo sees in each phase."""

    most_random: int = 20
    """Largest number of random clicks: at the end of ColorNet's pretraining with `uniform`, where it grows from 1;
    throughout with `geometric`."""
    law: Literal["uniform", "geometric"] = "uniform"
    """Distribution of the number of random clicks. uniform: 0 to most_random. geometric: 0 is the likeliest, 8 the
    mean, at most most_random."""
    maps: int = 1
    """Sets of random clicks for each photo in ColorNet's pretraining; the split network looks at it once."""
    interactions: int = 2
    """K: clicks that EditNet chooses per batch, with a loss after each."""

    def __post_init__(self) -> None:
        at_least(self, most_random=1, interactions=1, maps=1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a cosine that reaches its minimum at half of each phase (section 3.5)."""

    color_lr: float = 1e-3
    """Peak learning rate of ColorNet's pretraining."""
    edit_lr: float = 1e-3
    """Peak learning rate of EditNet's pretraining."""
    pingpong_factor: float = 0.3
    """Peak learning rates during ping-pong, as a share of the pretraining's."""
    floor: float = 0.05
    """Smallest learning rate, as a share of the peak."""
    decay_until: float = 0.5
    """Share of each phase at which the learning rate has reached its floor (section 3.5: half)."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest L2 norm of a gradient."""

    def phase(self, lr: float) -> dict[str, Any]:
        """A phase's optimizer and schedule, with this peak learning rate."""
        return {
            "optimizer": Optimizer(lr=lr, weight_decay=self.weight_decay, clip=self.clip),
            "schedule": Decay(floor=self.floor, until=self.decay_until),
        }

    def __post_init__(self) -> None:
        at_least(self, weight_decay=0)
        above_zero(self, "color_lr", "edit_lr", "pingpong_factor", "clip", prefix="recipe.optimizer.")
        share(self, "floor", "decay_until")
        if not self.decay_until:
            raise ValueError("recipe.optimizer.decay_until is 0; give a share of the phase above 0, such as 0.5")


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How long each phase lasts, in rounds: one round shows as many photos as the training data has."""

    pretrain_color: float = 2.0
    """ColorNet with random clicks."""
    pretrain_edit: float = 2.0
    """Both EditNets on the frozen ColorNet."""
    ping: float = 2.0
    """ColorNet with EditNet's clicks, in each cycle."""
    pong: float = 2.0
    """Both EditNets on the updated ColorNet, in each cycle."""
    cycles: int = 4
    """Ping-pong cycles."""

    def __post_init__(self) -> None:
        at_least(self, pretrain_color=0, pretrain_edit=0, ping=0, pong=0, cycles=0)
        if not (self.pretrain_color or self.pretrain_edit or (self.cycles and (self.ping or self.pong))):
            raise ValueError(
                "all rounds are 0, so nothing would be trained; give recipe.rounds.pretrain_color, say"
            )
