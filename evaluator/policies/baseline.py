"""Policies that ignore colors: random, Gaussian around the center, grid, farthest point."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from evaluator.policies.base import State
from kernels.clicks import clicked, masked_argmax, nearest_free, random_choice
from kernels.error_regions import distance_to_background
from kernels.noise import gumbel, uniform

_PLASTIC = 1.32471795724474602596
"""The real root of x^3 = x + 1."""
_FIRST_POINT = 70


@dataclass(frozen=True)
class RandomPolicy:
    """Uniform over the unclicked pixels, the thesis' baseline (section 4.1)."""

    needs_prediction = False
    needs_truth = False
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """The unclicked pixel with the largest noise."""
        height, width = state.clicks.shape[-2:]
        noise = uniform(state.keys, state.step, height * width)
        return random_choice(state.clicks, noise.view(-1, height, width))


@dataclass(frozen=True, kw_only=True)
class GaussianPolicy:
    """A Gaussian around the photo's center, as in RTUG's training (Zhang et al. 2017, 3.2).

    A pixel is drawn among the unclicked ones with a probability proportional to the density at its own center,
    so no mass falls outside of the photo.
    """

    sigma: float = 0.25
    """Standard deviation of the row as a share of the height, and of the column as a share of the width."""
    needs_prediction = False
    needs_truth = False
    needs_colorizer = False

    def __post_init__(self):
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}; it must be above 0, such as 0.25 of the photo's sides")

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """The unclicked pixel with the largest log density plus Gumbel noise, which samples that density."""
        height, width = state.clicks.shape[-2:]
        rows, cols = (self._log_density(size, state.clicks.device) for size in (height, width))
        noise = gumbel(state.keys, state.step, height * width).view(-1, height, width)
        return masked_argmax(noise + rows[:, None] + cols, clicked(state.clicks))

    def _log_density(self, size: int, device: torch.device) -> Tensor:
        """Unnormalised log density of each pixel along one side."""
        centered = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
        return (centered / (self.sigma * size)).square() / -2


@dataclass(frozen=True)
class GridPolicy:
    """A growing grid: the first n clicks are evenly spread for every n, so that no budget must be known.

    Click n is point 70 + n of the R2 sequence (Roberts, "The unreasonable effectiveness of quasirandom sequences",
    2018); where that pixel is clicked already, the nearest unclicked one. Of 300 starts this one leaves the
    smallest holes: in a square of side 1 no place is farther than 1.25 / sqrt(n) from the first n <= 60 clicks,
    against 1.71 / sqrt(n) for the sequence from its beginning. All photos of one size get the same places.
    """

    needs_prediction = False
    needs_truth = False
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """The next point of the sequence."""
        height, width = state.clicks.shape[-2:]
        point = _FIRST_POINT + state.step
        row = int(height * ((0.5 + point / _PLASTIC**2) % 1.0))
        col = int(width * ((0.5 + point / _PLASTIC) % 1.0))
        return nearest_free(torch.full_like(state.keys, row * width + col), clicked(state.clicks))


@dataclass(frozen=True, kw_only=True)
class FarthestPolicy:
    """The pixel farthest from all clicks (Eldar et al. 1997); the first click goes to the middle."""

    border: bool = True
    """Whether the border counts as clicked, so that clicks go to the middle of empty places, not to corners."""
    needs_prediction = False
    needs_truth = False
    needs_colorizer = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """The pixel with the largest Euclidean distance to the nearest click; ties go to the first."""
        taken = clicked(state.clicks)
        border = self.border or not state.step
        return masked_argmax(distance_to_background(~taken, border=border), taken)
