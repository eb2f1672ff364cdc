"""Every setting of a training, one small dataclass per component. The presets are in `trainer.config.presets`."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.recipes import PingPong, RecipeConfig
from trainer.recipes.base import at_least, share


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
        at_least(self, image_size=8, batch_size=1, workers=0, scale_jitter=0, round_photos=0)
        share(self, "photo_share", "corrupt_limit")
        if not self.cache_gb > 0:
            raise ValueError(f"data.cache_gb is {self.cache_gb}; it must be above 0, or leave data.cache empty")


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
        at_least(self, threads=0, timeout=1, micro_batch=0, bucket_mb=1)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The click curve measured after each phase."""

    photos: int = 64
    """Photos to validate on."""
    clicks: tuple[int, ...] = (0, 1, 5, 10, 20)
    """Click budgets at which metrics are taken, increasing."""
    hint_size: int = 1
    """Side of a validation click's patch in pixels."""

    def __post_init__(self) -> None:
        at_least(self, photos=1, hint_size=1)
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
    patience: int = 5
    """Steps in a row without a finite loss after which the training stops."""
    profile: bool = False
    """Write a trace of 10 steps of each kind of stage into the run's folder; the same as --profile."""

    def __post_init__(self) -> None:
        at_least(self, checkpoint_every=1, keep=1, watch_every=1, patience=1)
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
    recipe: RecipeConfig = field(default_factory=PingPong)
    """Which system is trained, and its own settings: see `trainer.recipes.RECIPES`."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        at_least(self, seed=0)
        for name, value in flatten(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; it must be a finite number")
        if self.engine.micro_batch and self.data.batch_size % self.engine.micro_batch:
            raise ValueError(
                f"engine.micro_batch is {self.engine.micro_batch} and data.batch_size {self.data.batch_size}; "
                "give a divisor of the batch"
            )
        if self.data.image_size % self.recipe.multiple:
            fewer = f", or give fewer widths in {' and '.join(self.recipe.deep)}" if self.recipe.deep else ""
            raise ValueError(
                f"data.image_size is {self.data.image_size}; these networks need a multiple of "
                f"{self.recipe.multiple}: change it{fewer}"
            )
        pixels = self.data.image_size**2
        most = max(self.recipe.most_clicks, *self.validation.clicks)
        if most * max(self.recipe.hint_size[1], self.validation.hint_size) ** 2 > pixels:
            raise ValueError(f"{most} clicks do not fit into {pixels} pixels; ask for fewer or smaller clicks")


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with dotted fields replaced, such as {"recipe.loss.entropy": 0.02}; every check runs again.

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


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


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
