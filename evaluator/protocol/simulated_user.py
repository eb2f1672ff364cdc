"""Simulated users: who carries out what a policy says. An exact one, or one that misses places and colors.

A user who always hits the pixel and always names its true color overestimates what a person reaches, so a
protocol may state how far its robot is off. Its errors are Philox noise from the photo's key and the click's
number: the same for every policy, batch split and device.
"""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from kernels.clicks import at_places, clicked, hint_colors, nearest_free, no_clicks, place_patches
from kernels.color import AB_SCALE
from kernels.noise import box_muller, uniform

_DRAW = 0x0B07
"""Keeps the simulated user's noise apart from the policies', which comes from the same keys."""


@dataclass(frozen=True, kw_only=True)
class SimulatedUser:
    """A simulated user. The default is exact: it clicks the chosen pixel in the true color of its patch.

    With `position_sigma`, row and column are each off by Gaussian noise, rounded to the nearest pixel and clipped
    to the photo; where that pixel is clicked already, the nearest unclicked one is taken (Euclidean distance,
    ties to the first in reading order). With `colour_sigma`, a* and b* of the true color *at the place that was
    hit* are each off by Gaussian noise, clipped to the range of ab.
    """

    position_sigma: float = 0.0
    """Standard deviation of a click's row and of its column, in pixels of the measured photo."""
    colour_sigma: float = 0.0
    """Standard deviation of a click's a* and of its b*, in CIE units."""

    def __post_init__(self):
        for name in ("position_sigma", "colour_sigma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and at least 0 (0: exact)")

    @property
    def words(self) -> str:
        """How it clicks, for a caption: "true colors", or how far it is off."""
        off = [
            f"{what} off by {sigma:g} {unit}"
            for what, sigma, unit in (
                ("places", self.position_sigma, "px"),
                ("a* and b*", self.colour_sigma, "CIE units"),
            )
            if sigma
        ]
        return f"{' and '.join(off)} (standard deviation)" if off else "true colours"

    def reach(
        self, choice: Int64[Tensor, " b"], taken: Bool[Tensor, "b h w"], keys: Int64[Tensor, " b"], step: int
    ) -> Int64[Tensor, " b"]:
        """The unclicked pixel that is hit when `choice` is meant.

        Args:
            choice: flat indices of unclicked pixels.
            taken: pixels that are clicked already.
            keys: one noise key per photo.
            step: clicks placed before this one.
        """
        if not self.position_sigma:
            return choice
        height, width = taken.shape[-2:]
        miss = self.position_sigma * _normal(keys, step)[:, 0]
        rows = (choice // width + miss[:, 0]).round().long().clamp(0, height - 1)
        cols = (choice % width + miss[:, 1]).round().long().clamp(0, width - 1)
        return nearest_free(rows * width + cols, taken)

    def name_colors(
        self,
        colors: Float[Tensor, "b 2 h w"],
        positions: Int64[Tensor, " b"],
        keys: Int64[Tensor, " b"],
        step: int,
    ) -> Float[Tensor, "b 2"]:
        """The ab, CIE / 128 in [-1, 1], that is given at `positions`.

        Args:
            colors: the true color of a click at each pixel, from `kernels.clicks.hint_colors`.
            positions: flat indices, from `reach`.
            keys: one noise key per photo.
            step: clicks placed before this one.
        """
        named = at_places(colors, positions[:, None])[:, 0]
        if not self.colour_sigma:
            return named
        miss = self.colour_sigma / AB_SCALE * _normal(keys, step)[:, 1]
        return (named + miss).clamp(-1.0, 1.0).to(named.dtype)

    def click(
        self,
        clicks: Float[Tensor, "b 3 h w"],
        colors: Float[Tensor, "b 2 h w"],
        choice: Int64[Tensor, " b"],
        keys: Int64[Tensor, " b"],
        *,
        step: int,
        hint_size: int,
    ) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, " b"]]:
        """The click map with one more click per photo, and where it went. Arguments as above."""
        positions = self.reach(choice, clicked(clicks), keys, step)
        named = self.name_colors(colors, positions, keys, step)
        return place_patches(clicks, positions, named, hint_size), positions

    def click_map(
        self,
        truth_ab: Float[Tensor, "b 2 h w"],
        positions: Int64[Tensor, "b placed"],
        keys: Int64[Tensor, " b"],
        hint_size: int,
    ) -> Float[Tensor, "b 3 h w"]:
        """The click map that this robot left behind when it hit `positions`, in their order.

        Results store where the clicks went; with the photos' keys (`evaluator.protocol.rollout.Photos`) this
        gives the very map that the colorizer saw.
        """
        colors, clicks = hint_colors(truth_ab, hint_size), no_clicks(truth_ab)
        for step, hit in enumerate(positions.unbind(1)):
            clicks = place_patches(clicks, hit, self.name_colors(colors, hit, keys, step), hint_size)
        return clicks


EXACT = SimulatedUser()
"""Always hits, always in the true color."""


def _normal(keys: Tensor, step: int) -> Float64[Tensor, "b 2 2"]:
    """Standard normal numbers of one click: two for the place, two for the color."""
    return box_muller(uniform(keys, step, 4, draw=_DRAW).view(-1, 2, 2))
