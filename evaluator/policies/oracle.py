"""Policies that see the true colors and click where the prediction is wrong: references for guides."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from evaluator.policies.base import State, needed
from kernels.clicks import clicked, masked_argmax
from kernels.error_regions import distance_to_background, error_map, gaussian_blur, region_center

BLUR = 3 / 64
"""Standard deviation of the blur of scores as a share of the shorter side: 3 px at 64 px."""
INHIBITION = 5 / 64
"""Radius around earlier clicks that is avoided, as a share of the shorter side: 5 px at 64 px."""


@dataclass(frozen=True)
class MaxErrorPolicy:
    """The unclicked pixel with the largest ab error; sees the truth, and still loses to random."""

    needs_prediction = True
    needs_truth = True
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Euclidean distance in ab; ties go to the first pixel."""
        return masked_argmax(_error(state), clicked(state.clicks))


@dataclass(frozen=True, kw_only=True)
class BlurredErrorPolicy:
    """The neighborhood with the largest error, away from earlier clicks; sees the truth.

    The error in ab is blurred by a Gaussian, and pixels near earlier clicks are avoided while there are others.
    """

    blur: float = BLUR
    """Standard deviation of the blur as a share of the shorter side."""
    inhibition: float = INHIBITION
    """Radius around earlier clicks that is avoided, as a share of the shorter side."""
    needs_prediction = True
    needs_truth = True
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """See `peak`."""
        return peak(_error(state), clicked(state.clicks), blur=self.blur, inhibition=self.inhibition)


@dataclass(frozen=True, kw_only=True)
class RegionCenterPolicy:
    """The pixel deepest inside a wrongly colored region; sees the truth: a reference for guides."""

    inhibition: int = 3
    """Radius in pixels around earlier clicks that counts as not wrong."""
    needs_prediction = True
    needs_truth = True
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """See `kernels.error_regions.region_center`."""
        return region_center(_error(state), clicked(state.clicks), inhibition=self.inhibition)


def peak(
    scores: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"], *, blur: float, inhibition: float
) -> Int64[Tensor, " b"]:
    """The unclicked pixel with the largest blurred score among those farther than `inhibition` from any click.

    Where no unclicked pixel is that far, the largest among all unclicked ones. Ties go to the first.

    Args:
        scores: at least 0.
        taken: pixels that are clicked already.
        blur: standard deviation of the Gaussian as a share of the shorter side.
        inhibition: radius as a share of the shorter side.

    Raises:
        ValueError: every pixel of some photo is taken.
    """
    side = min(scores.shape[-2:])
    near = _within(taken, inhibition * side)
    barred = near | taken
    barred = barred & ~barred.flatten(1).all(1)[:, None, None] | taken
    return masked_argmax(gaussian_blur(scores, blur * side), barred)


def _within(taken: Tensor, radius: float) -> Tensor:
    """Mask of the pixels within `radius` pixels of a click, (B,H,W)."""
    return distance_to_background(~taken, limit=int(radius) + 1, border=False) <= radius


def _error(state: State) -> Tensor:
    """Distance between the predicted and the true color at each pixel, (B,H,W), in CIE units."""
    return error_map(needed(state.predicted_ab, "predicted_ab"), needed(state.truth_ab, "truth_ab"))
