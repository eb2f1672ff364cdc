"""Colorization using optimization (Levin, Lischinski and Weiss 2004): like neighbors get like colors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from evaluator.baselines.base import Baseline

if TYPE_CHECKING:
    from scipy.sparse import coo_array
else:  # a stand-in for the annotation
    coo_array = Any

_STEPS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


@dataclass(frozen=True, kw_only=True)
class Levin(Baseline):
    """Every unclicked pixel has the weighted mean color of its 8 neighbors; clicked pixels keep their color.

    The weight of neighbor s of pixel r is exp(-(Y(r) - Y(s))^2 / (2 sigma_r^2)) (the paper's equation 2), with
    the variance as in the authors' published program: 2 sigma_r^2 is `share` of the variance of lightness over the
    3 x 3 pixels around r, raised until the most alike neighbor has a weight of at least `least_weight`, and to
    `floor`.
    Weights are divided by their sum, which makes the colors a mean of clicked ones, so nothing leaves their range.

    The sparse system over all unclicked pixels is solved exactly, in float64 on the CPU, with scipy's SuperLU.
    """

    name: ClassVar[str] = "levin"

    share: float = 0.6
    """Of the variance around a pixel."""
    least_weight: float = 0.01
    """Of the most alike neighbor before weights are divided by their sum, in (0, 1)."""
    floor: float = 2e-6
    """Smallest 2 sigma^2, in squares of lightness (CIE L* / 100)."""

    def __post_init__(self) -> None:
        for field in ("share", "floor"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be above 0")
        if not 0 < self.least_weight < 1:
            raise ValueError(f"least_weight is {self.least_weight}; it must be above 0 and below 1, such as 0.01")

    def color(
        self, lightness: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"], hints: Float[Tensor, "2 h w"]
    ) -> Float[Tensor, "2 h w"]:
        """Solve the linear system for the unclicked pixels."""
        from scipy import sparse  # the service's image has no scipy, and needs none
        from scipy.sparse.linalg import splu

        known = mask.flatten().cpu().numpy()
        ab = hints.flatten(1).T.double().cpu().numpy()
        unknown = ~known
        if unknown.any():
            means = self.means(lightness.double().cpu().numpy()).tocsr()[unknown]
            system = (sparse.identity(unknown.sum(), format="csc") - means[:, unknown]).tocsc()
            # Patterns are symmetric, pivots on the diagonal are safe (an M-matrix).
            factors = splu(
                system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
            ab[unknown] = factors.solve(means[:, known] @ ab[known])
        return torch.from_numpy(ab.T).float().view_as(hints).to(hints.device)

    def means(self, lightness: Float64[np.ndarray, "h w"]) -> coo_array:
        """The matrix (H W, H W) that replaces each pixel's value by the weighted mean of its neighbors'."""
        from scipy import sparse

        height, width = lightness.shape
        pixel, neighbor = neighbor_pairs(height, width)
        flat, count = lightness.ravel(), lightness.size
        around = np.bincount(pixel, minlength=count) + 1
        apart = flat[neighbor] - flat[pixel]
        mean = np.bincount(pixel, apart, count) / around  # of the 3 x 3 pixels, less the middle one
        variance = np.bincount(pixel, apart**2, count) / around - mean**2
        most_alike = np.full(count, np.inf)
        np.minimum.at(most_alike, pixel, apart**2)
        scale = np.maximum.reduce([self.share * variance, most_alike / -np.log(self.least_weight)])
        weight = np.exp(-(apart**2) / np.maximum(scale, self.floor)[pixel])
        weight /= np.bincount(pixel, weight, count)[pixel]
        return sparse.coo_array((weight, (pixel, neighbor)), shape=(count, count))


def neighbor_pairs(height: int, width: int) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """Flat indices of every pixel and each of its (up to 8) neighbors."""
    rows, cols = np.indices((height, width)).reshape(2, -1)
    pairs = []
    for down, right in _STEPS:
        row, col = rows + down, cols + right
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        pairs.append(((rows * width + cols)[inside], (row * width + col)[inside]))
    pixel, neighbor = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    return pixel, neighbor
