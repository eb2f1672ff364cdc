"""Policies by the colorizer's own uncertainty, without true colors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evaluator.policies.base import State, needed
from evaluator.policies.oracle import BLUR, INHIBITION, peak
from kernels.clicks import at_places, clicked, nearest_free, place_patches
from kernels.color import AB_SCALE
from kernels.noise import box_muller, uniform

_DRAW = 0x0CCA
"""Keeps the imagined clicks apart from other noise of the same keys and step."""


@dataclass(frozen=True, kw_only=True)
class Imagination:
    """Ensemble of colorings with a few imagined clicks beside the real ones.

    Colors that the real clicks have settled hardly move. An imagined click lies on a random unclicked pixel and
    has its present color plus noise. Costs `members` colorizer calls.
    """

    members: int = 8
    """Times that the photo is colored with other imagined clicks."""
    imagined: int = 3
    """Imagined clicks of each."""
    sigma: float = 20.0
    """Standard deviation of their a* and of their b* around the present color, in CIE units."""

    def __post_init__(self):
        for name in ("members", "imagined"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def changes(self, state: State) -> Iterator[Float[Tensor, "b 2 h w"]]:
        """Change of every pixel's ab, for each member. Raises a ValueError when no pixel is left."""
        colorize = needed(state.colorize, "colorize")
        present = needed(state.predicted_ab, "predicted_ab")
        numbers = uniform(state.keys, state.step, 4 * self.imagined * self.members, draw=_DRAW)
        for of_member in numbers.view(-1, self.members, self.imagined, 4).unbind(1):
            clicks = state.clicks
            for of_click in of_member.unbind(1):
                clicks = self._imagine(state, present, clicks, of_click)
            yield colorize(state.lightness, clicks) - present

    def _imagine(self, state: State, present: Tensor, clicks: Tensor, numbers: Tensor) -> Tensor:
        """Add an imagined click per photo, on a pixel that is free in the state."""
        height, width = present.shape[-2:]
        rows, cols = (numbers[:, 0] * height).long(), (numbers[:, 1] * width).long()
        places = nearest_free(rows * width + cols, clicked(state.clicks))
        noise = self.sigma / AB_SCALE * box_muller(numbers[:, 2:]).to(present.dtype)
        colors = at_places(present, places[:, None])[:, 0] + noise
        return place_patches(clicks, places, colors.clamp(-1.0, 1.0), state.hint_size)


@dataclass(frozen=True, kw_only=True)
class UncertaintyPolicy:
    """The most uncertain neighborhood, away from earlier clicks.

    Where the colorizer has an uncertainty of its own (`given`), that is asked. Where it has none, a pixel's is the
    mean square change of its ab under imagined clicks.
    """

    imagination: Imagination = field(default_factory=Imagination)
    given: Callable[[Tensor, Tensor], Tensor] | None = None
    """`given(lightness, clicks) -> (B,H,W)`, at least 0, of a colorizer that has its own; None: imagine."""
    blur: float = BLUR
    """Standard deviation of the blur as a share of the shorter side."""
    inhibition: float = INHIBITION
    """Radius around earlier clicks that is avoided, as a share of the shorter side."""
    needs_truth = False

    @property
    def needs_prediction(self) -> bool:
        """False if the colorizer provides an uncertainty."""
        return self.given is None

    @property
    def needs_colorizer(self) -> bool:
        """False if the colorizer provides an uncertainty."""
        return self.given is None

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """See `evaluator.policies.oracle.peak`."""
        uncertainty = self.given(state.lightness, state.clicks) if self.given else self._imagined(state)
        return peak(uncertainty, clicked(state.clicks), blur=self.blur, inhibition=self.inhibition)

    def _imagined(self, state: State) -> Float[Tensor, "b h w"]:
        total = torch.zeros_like(state.clicks[:, 0])
        for change in self.imagination.changes(state):
            total += change.square().sum(1)
        return total / self.imagination.members
