"""Trainings that the benchmarks time: plain, ours, and with some of the parts that make a step fast.

Nothing watches them, and nothing of them is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluator.system.interrupts import StopRequest
from trainer.checkpoint import Checkpoints
from trainer.config import Config, override
from trainer.data.batch import Batch
from trainer.data.embedded import EmbeddedLoader, validation_photos
from trainer.engines import Cluster
from trainer.loop import Training, build_engines
from trainer.monitoring.console import Screen
from trainer.monitoring.tracker import NullTracker
from trainer.recipes.base import Phase, Recipe, Stage, Step, Term
from trainer.recipes.lab_batch import Scene, prepare_scene
from trainer.recipes.losses import Perceptual
from trainer.recipes.pingpong import COLOR
from trainer.validation import Validation

NOTHING = {"engine.precision": "fp32", "engine.channels_last": False, "engine.compile": False}
"""Settings of the plain path."""
LOSS_TOLERANCE = 0.02
"""Largest relative difference of two paths' losses; bf16 keeps three decimal digits."""
PROGRESS = 0.25
"""How far a timed step's stage has come."""


class PlainTraining(Training):
    """The trainer with Lab computed on the CPU."""

    def _scene(self, batch: Batch) -> Scene:
        scene = super()._scene(batch)
        plain = prepare_scene(batch.rgb, scene.keys.cpu())
        device = self.cluster.device
        return Scene(plain.lightness.to(device), plain.truth_ab.to(device), plain.rgb.to(device), scene.keys)


def build(config: Config, cluster: Cluster, kind: type[Training], scratch: Path) -> Training:
    """A training that nothing watches."""
    recipe = config.recipe.build()
    photos, names = validation_photos(config.data.image_size, 1)
    return kind(
        config=config,
        recipe=recipe,
        cluster=cluster,
        engines=build_engines(config, recipe, cluster),
        loader=EmbeddedLoader(image_size=config.data.image_size, batch_size=config.data.batch_size),
        validation=Validation.of(photos, names, config),
        checkpoints=Checkpoints(scratch, 1),
        metrics=NullTracker(),
        screen=Screen(enabled=False),
    )


def one_of_each(training: Training) -> list[Stage]:
    """Pretraining of both kinds, ping and pong."""
    return list(training.recipe.stages[:4])


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that may make a step faster."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the config."""
    same_learning: bool = True
    """Whether the same gradients come out, but for rounding."""


LAB = Part(name="Lab on the device")
CHANNELS_LAST = Part(name="channels_last", settings={"engine.channels_last": True})
HALF = Part(name="bf16", settings={"engine.precision": "bf16"})
COMPILE = Part(name="compile", settings={"engine.compile": True})
GRAPHS = Part(name="CUDA graphs")
FUSED = Part(name="fused AdamW")
LPIPS_HALF = Part(name="LPIPS in bf16")
LAST_ONLY = Part(name="no-grad for early interactions", same_learning=False)
PARTS = (LAB, CHANNELS_LAST, HALF, FUSED, LPIPS_HALF, LAST_ONLY, COMPILE, GRAPHS)
"""In the order in which they are added: what compiles comes last, so that it compiles once."""


class HalfNetwork(nn.Module):
    """A network of two pictures under bf16 autocast; its result is float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """As the network itself."""
        with torch.autocast(predicted.device.type, torch.bfloat16):
            return self.network(predicted, truth).float()


@dataclass(frozen=True)
class Variant:
    """A training with some of the parts."""

    name: str
    parts: tuple[Part, ...]
    training: Training

    def step(self, stage: int, batch: Batch) -> dict[str, float]:
        """One step of the stage at this place of the recipe; its losses."""
        if GRAPHS in self.parts:
            torch.compiler.cudagraph_mark_step_begin()
        return self.training.step(self.training.recipe.stages[stage], PROGRESS, batch, StopRequest())[0]


def last_only(loss: Callable[[Step], Mapping[str, Term]]) -> Callable[[Step], Mapping[str, Term]]:
    """Ping's loss with the same value, in which only the last of the K + 1 colorings has a gradient.

    It is another training: each interaction has a loss of its own, and K of K + 1 no longer reach ColorNet.
    """

    def run(step: Step) -> Mapping[str, Term]:
        network, calls = step.networks[COLOR], 0

        def color(*inputs: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            with torch.set_grad_enabled(calls > step.config.clicks.interactions):
                return network(*inputs)

        return loss(replace(step, networks={**step.networks, COLOR: color}))

    return run


def with_last_only(recipe: Recipe) -> Recipe:
    """The recipe with that loss in every ping."""

    def changed(phase: Phase) -> Phase:
        return replace(phase, loss=last_only(phase.loss)) if phase.name == "ping" else phase

    def of(stage: Stage) -> Stage:
        return replace(stage, phases=tuple(changed(phase) for phase in stage.phases))

    return replace(recipe, stages=[of(stage) for stage in recipe.stages])


def missing(part: Part, parts: Sequence[Part], device: torch.device) -> str | None:
    """Why this device cannot have a part, as far as that is known without trying."""
    if part is GRAPHS and device.type != "cuda":
        return f"needs a CUDA device, this is {device.type}"
    if part is GRAPHS and COMPILE not in parts:
        return "needs compile, which does not work here"
    if part is HALF and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU does not compute in bf16"
    return None


def make(config: Config, parts: Sequence[Part], judge: nn.Module, scratch: Path) -> Training:
    """A training with these parts and no others; `judge` is LPIPS' network."""
    settings = {name: value for part in parts for name, value in part.settings.items()}
    config = override(config, {**NOTHING, **settings})
    cluster = Cluster(config.engine)
    training = build(config, cluster, Training if LAB in parts else PlainTraining, scratch)
    if LAST_ONLY in parts:
        training.recipe = with_last_only(training.recipe)
    judge.to(cluster.device)
    training.perceptual = Perceptual(HalfNetwork(judge) if LPIPS_HALF in parts else judge)
    for engine in training.engines.values():
        if GRAPHS in parts:
            engine.module.compile(mode="reduce-overhead")
        if FUSED not in parts:
            unfuse(engine)
    return training


def unfuse(engine: object) -> None:
    """Let an engine's AdamW choose its implementation as PyTorch does by default; before its first step."""
    optimizers = [part for part in vars(engine).values() if isinstance(part, torch.optim.Optimizer)]
    assert len(optimizers) == 1, "an engine has one optimizer"
    for group in optimizers[0].param_groups:
        group["fused"] = None
