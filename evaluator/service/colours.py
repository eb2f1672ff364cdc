"""Ways to propose colours at a pixel from the network's own evidence."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluator.service.engine import Engine
from evaluator.service.networks import Networks
from kernels.color import AB_SCALE, lab_to_rgb, rgb_to_lab

Colour = tuple[tuple[float, float], float | None]
"""ab in CIE / 128, and its probability."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a method may look at."""

    engine: Engine
    networks: Networks
    working: Tensor
    """(1,1,h,w)."""
    clicks: Tensor
    """(1,3,h,w)."""
    predicted_ab: Tensor
    """(1,2,h,w)."""
    row: int
    col: int

    @property
    def lightness(self) -> float:
        """At the pixel, CIE L* / 100."""
        return float(self.working[0, 0, self.row, self.col])

    @property
    def present(self) -> Tensor:
        """(2,), the predicted ab at the pixel."""
        return self.predicted_ab[0, :, self.row, self.col]


async def spread(scene: Scene, count: int) -> list[Colour]:
    """The predicted colour, and others around it."""
    return [(_pair(ab), None) for ab in _ring(scene.present, scene.lightness, count)]


def _ring(present: Tensor, lightness: float, count: int) -> list[Tensor]:
    others = [
        present + 20 / AB_SCALE * torch.tensor([math.cos(angle), math.sin(angle)])
        for angle in torch.linspace(0, 2 * math.pi, count)[:-1].tolist()
    ]
    return [shown(lightness, ab) for ab in [present, *others][:count]]


def shown(lightness: float, ab: Tensor) -> Tensor:
    """The colour of that lightness that a screen shows for ab (2,)."""
    rgb = lab_to_rgb(torch.full((1, 1, 1, 1), lightness), ab.float().view(1, 2, 1, 1))
    return rgb_to_lab(rgb)[1].flatten()


def _pair(ab: Tensor) -> tuple[float, float]:
    a, b = ab.clamp(-1.0, 1.0).tolist()
    return a, b


METHODS: dict[str, Callable[[Scene, int], Awaitable[list[Colour]]]] = {"spread": spread}
"""By name."""
