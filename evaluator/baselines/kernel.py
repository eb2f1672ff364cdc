"""Kernel baseline: every pixel takes the clicks' colors, weighted by distance in position and lightness.

The Nadaraya-Watson regression of color on (row, col, lightness) with a Gaussian kernel, as the joint bilateral
filter has it (Petschnigg et al. 2004), and a constant weight of grey for places that no click is near to.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from evaluator.baselines.base import Baseline

_WEIGHTS_AT_ONCE = 2**21
"""Pairs of a clicked pixel and a pixel that are held in memory at a time: 8 MiB of float32, and as much again."""
_NEXT = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Four of the eight neighbors; the other four are the same pairs."""


@dataclass(frozen=True, kw_only=True)
class Kernel(Baseline):
    """Weights exp(-d^2 / (2 spread^2) - dl^2 / (2 tone^2)), divided by their sum plus `null`.

    A **click** is a connected patch of pixels with one color, as `kernels.clicks.place` writes it, and its weight
    at a pixel is the mean over its patch, so that a click counts the same with every hint size. Counting each of
    the nine pixels of a 3 x 3 hint patch against a `null` of 0.27 comes to the same: that is 0.03 per click. Two
    touching clicks of exactly equal colors are one; a click cut off by the border, or covered in part by a later
    one, has its full weight.

    A clicked pixel does not keep exactly the clicked color: it is a mean like every other.
    """

    name: ClassVar[str] = "kernel"

    spread: float = 0.15
    """Standard deviation in place, in mean sides (height + width) / 2 of the photo, alike along both axes."""
    tone: float = 0.13
    """Standard deviation in lightness, CIE L* / 100."""
    null: float = 0.03
    """Weight of grey, in clicks: a pixel whose clicks together weigh as much gets half of their color."""

    def __post_init__(self) -> None:
        for field in ("spread", "tone", "null"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be above 0")

    def color(
        self, lightness: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"], hints: Float[Tensor, "2 h w"]
    ) -> Float[Tensor, "2 h w"]:
        """Weighted means of the clicks' colors; float32 also under autocast."""
        rows, cols = mask.nonzero(as_tuple=True)
        share = click_shares(mask, hints)
        colors = hints[:, rows, cols]
        weighted = torch.cat([colors, torch.ones_like(share)[None]]) * share  # (3, clicked)
        total = torch.zeros(3, lightness.numel(), device=lightness.device)
        at_once = max(1, _WEIGHTS_AT_ONCE // lightness.numel())
        with torch.autocast(lightness.device.type, enabled=False):
            for part in torch.arange(len(rows), device=rows.device).split(at_once):
                total += weighted[:, part] @ self._weights(lightness, rows[part], cols[part]).flatten(1)
        return (total[:2] / (total[2] + self.null)).view_as(hints)

    def _weights(
        self, lightness: Float[Tensor, "h w"], rows: Int64[Tensor, " n"], cols: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n h w"]:
        """Weight of each clicked pixel at every pixel, in [0, 1]."""
        height, width = lightness.shape
        unit = self.spread * (height + width) / 2

        def axis(size: int, at: Tensor) -> Tensor:
            return ((torch.arange(size, device=at.device) - at[:, None]) / unit).square()

        other = (lightness - lightness[rows, cols][:, None, None]).div_(self.tone).square_()
        other += axis(height, rows)[:, :, None]
        other += axis(width, cols)[:, None, :]
        return other.mul_(-0.5).exp_()


def click_shares(mask: Bool[Tensor, "h w"], hints: Float[Tensor, "2 h w"]) -> Float[Tensor, " clicked"]:
    """One over the number of pixels of the click that each clicked pixel belongs to, in the order of `nonzero`.

    Clicks are the connected patches (8 neighbors) of clicked pixels with exactly equal colors.
    """
    count = int(mask.sum())
    number = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    number[mask] = torch.arange(count, device=mask.device)
    pairs = torch.cat([_equal_neighbors(number, hints, *step) for step in _NEXT], dim=1)
    first = torch.arange(count, device=mask.device)
    while True:  # every pixel takes the smallest number that a neighbor has, and jumps to where that points
        smallest = first[pairs].amin(0)
        later = first.scatter_reduce(0, first[pairs].flatten(), smallest.repeat(2), "amin")
        later = later.scatter_reduce(0, pairs.flatten(), smallest.repeat(2), "amin")
        later = later[later]
        if torch.equal(later, first):
            return 1.0 / torch.bincount(first, minlength=count)[first].float()
        first = later


def _equal_neighbors(
    number: Int64[Tensor, "h w"], hints: Float[Tensor, "2 h w"], down: int, right: int
) -> Int64[Tensor, "2 pairs"]:
    """Index pairs of clicked pixels and their neighbors in one direction that have the same color."""
    height, width = number.shape
    left, over = max(0, -right), max(0, right)
    here = slice(0, height - down), slice(left, width - over)
    there = slice(down, height), slice(left + right, width - over + right)
    both = (number[here] >= 0) & (number[there] >= 0) & (hints[:, *here] == hints[:, *there]).all(0)
    return torch.stack([number[here][both], number[there][both]])
