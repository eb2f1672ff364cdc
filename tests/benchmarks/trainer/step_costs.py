"""What a step costs on any machine: floating-point operations, operator calls, and the bytes that ranks share.

The recipe's own losses run on tensors without memory (torch's fake tensors), forward and backward, so nothing here
repeats what a phase does. Convolutions and matrix products are counted (torch.utils.flop_counter: a multiplication
and an addition are two operations); everything else is only a call.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import Config, override
from trainer.recipes.base import Phase, Step
from trainer.recipes.lab_batch import Scene
from trainer.recipes.losses import Perceptual
from trainer.step import total

PHOTOS = 2
"""Photos in the counted batch; all counts but the calls grow in proportion."""
PROGRESS = 0.25
GRADIENT_ITEM = 4
"""Bytes of a gradient's element: weights and gradients are float32 in every precision that the trainer has."""


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """One parameter's gradient."""

    size: int
    """Bytes in float32."""
    left: float
    """Operations of the backward, per photo, that are still to do when it is ready to be shared."""


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """What one update of a phase costs."""

    phase: str
    """Of the recipe."""
    forward_flops: float
    """Per photo, LPIPS and borrowed networks included."""
    backward_flops: float
    """Per photo."""
    operators: int
    """Operator calls that make tensors, forward and backward, for a batch of any size. Counted without memory, an
    upper bound, as calls within calls are counted too: 1,284 where a small network makes 579."""
    gradients: tuple[Gradient, ...]
    """In the order in which the backward finishes them."""
    statistics: int
    """Bytes of batch-norm statistics, which are averaged after the step."""

    @property
    def flops(self) -> float:
        """Per photo, forward and backward."""
        return self.forward_flops + self.backward_flops

    @property
    def gradient_bytes(self) -> int:
        """Of all gradients, in float32."""
        return sum(gradient.size for gradient in self.gradients)


class _Calls(TorchDispatchMode):
    """Counts operators that make tensors, and answers a question about a value with zero: nothing is known of it.

    The losses ask one thing, whether some photo is full of clicks; zero says no.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0
        self.made += not func.is_view
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True)
class RecipeCost:
    """The phases of a training's first four stages (both pretrainings, ping, pong), by the stage's name.

    Each interaction costs the same, so that one and two of them say what any number costs.
    """

    one: Mapping[str, tuple[PhaseCost, ...]]
    """With one interaction (`recipe.clicks.interactions`)."""
    two: Mapping[str, tuple[PhaseCost, ...]]
    """With two."""

    def at(self, interactions: int) -> dict[str, tuple[PhaseCost, ...]]:
        """The cost with so many interactions."""
        return {
            stage: tuple(_extend(*pair, interactions - 1) for pair in zip(phases, self.two[stage], strict=True))
            for stage, phases in self.one.items()
        }

    def write(self, file: Path) -> None:
        """Keep it in a file, one line per phase."""
        lines = [
            json.dumps([interactions, stage, asdict(phase)])
            for interactions, stages in ((1, self.one), (2, self.two))
            for stage, phases in stages.items()
            for phase in phases
        ]
        file.write_text("[\n" + ",\n".join(lines) + "\n]\n")

    @classmethod
    def read(cls, file: Path) -> "RecipeCost":
        """What `write` wrote."""
        found: dict[int, dict[str, tuple[PhaseCost, ...]]] = {1: {}, 2: {}}
        for interactions, stage, phase in json.loads(file.read_text()):
            phase["gradients"] = tuple(Gradient(**gradient) for gradient in phase["gradients"])
            found[interactions][stage] = (*found[interactions].get(stage, ()), PhaseCost(**phase))
        return cls(one=found[1], two=found[2])


def _extend(one: PhaseCost, two: PhaseCost, more: int) -> PhaseCost:
    """The cost of `1 + more` interactions; the backward takes the first one last, and finishes gradients there."""
    return replace(
        one,
        forward_flops=one.forward_flops + more * (two.forward_flops - one.forward_flops),
        backward_flops=one.backward_flops + more * (two.backward_flops - one.backward_flops),
        operators=one.operators + more * (two.operators - one.operators),
    )


def count_recipe(config: Config, *, fake: bool = True) -> RecipeCost:
    """Count a config's phases for any number of interactions; `fake` as in `count_stages`."""
    one, two = (
        count_stages(override(config, {"recipe.clicks.interactions": number}), fake=fake) for number in (1, 2)
    )
    return RecipeCost(one=one, two=two)


def count_stages(
    config: Config, *, perceptual: bool = True, stages: slice = slice(4), fake: bool = True
) -> dict[str, tuple[PhaseCost, ...]]:
    """Count a config's phases with its own number of interactions.

    Args:
        config: of the training.
        perceptual: with LPIPS in ColorNet's loss.
        stages: which of the recipe's.
        fake: on tensors without memory, as large networks need it; small ones are counted sooner with memory.
    """
    recipe = config.recipe.build()
    with FakeTensorMode() if fake else nullcontext():
        networks = {name: build() for name, build in recipe.networks.items()}
        judge = untrained_perceptual() if perceptual else None
        found = {}
        for stage in recipe.stages[stages]:  # phases of a stage share a batch and what one has tried on it
            step = step_of(config, _scene(config.data.image_size), networks, judge)
            found[stage.name] = tuple(count_phase(phase, step, networks) for phase in stage.phases)
        return found


def step_of(
    config: Config, scene: Scene, networks: Mapping[str, nn.Module], perceptual: Perceptual | None
) -> Step:
    """What a phase's loss sees, in the middle of its stage."""
    return Step(
        config=config.recipe,
        scene=scene,
        networks=networks,
        seed=config.seed,
        images_seen=0,
        progress=PROGRESS,
        span_progress=PROGRESS,
        perceptual=perceptual,
    )


def count_phase(phase: Phase, step: Step, networks: Mapping[str, nn.Module]) -> PhaseCost:
    """Count one update on the step's batch, whose tensors may be fake."""
    for name, network in networks.items():
        network.train(name in phase.trains).requires_grad_(name in phase.trains)
    trained = [networks[name] for name in phase.trains]
    photos = len(step.scene)
    ready: list[tuple[int, int]] = []
    with _Calls() as calls, FlopCounterMode(display=False) as counter:
        loss = total(phase.loss(step))
        forward = counter.get_total_flops()
        note = _noter(ready, counter.get_total_flops)
        hooks = [
            parameter.register_post_accumulate_grad_hook(note)
            for network in trained
            for parameter in network.parameters()
        ]
        loss.backward()
        done = counter.get_total_flops()
    for hook in hooks:
        hook.remove()
    for network in trained:
        network.zero_grad(set_to_none=True)
    return PhaseCost(
        phase=phase.name,
        forward_flops=forward / photos,
        backward_flops=(done - forward) / photos,
        operators=calls.made,
        gradients=tuple(Gradient(size=size, left=(done - at) / photos) for size, at in ready),
        statistics=sum(
            buffer.numel() * buffer.element_size()
            for network in trained
            for buffer in network.buffers()
            if buffer.is_floating_point()
        ),
    )


def _noter(ready: list[tuple[int, int]], flops: Callable[[], int]) -> Callable[[Tensor], None]:
    def note(parameter: Tensor) -> None:
        ready.append((parameter.numel() * GRADIENT_ITEM, flops()))

    return note


def _scene(side: int) -> Scene:
    lightness, ab = (torch.zeros(PHOTOS, channels, side, side) for channels in (1, 2))
    photos = torch.zeros(PHOTOS, 3, side, side, dtype=torch.uint8)
    return Scene(lightness, ab, photos, torch.zeros(PHOTOS, dtype=torch.int64))


def untrained_perceptual() -> Perceptual:
    """LPIPS with random weights: it costs what the real one costs, and needs no download."""
    import lpips

    with warnings.catch_warnings():
        # lpips 0.1.4 passes torchvision's old `pretrained` argument.
        warnings.filterwarnings("ignore", message=".*(pretrained|weight enum).*", category=UserWarning)
        network = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False)
    return Perceptual(network.eval().requires_grad_(False))
