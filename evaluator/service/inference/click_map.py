"""From a list of clicks to the click map that the networks see."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.clicks import LARGEST_HINT


class PlacedClick(NamedTuple):
    """A color at a pixel of the working size."""

    row: int
    col: int
    ab: tuple[float, float]
    """CIE / 128, in [-1, 1]."""
    size: int
    """Side of its patch in pixels, 1 to 31."""


def click_map(clicks: Sequence[PlacedClick], height: int, width: int) -> Float[Tensor, "1 3 h w"]:
    """The click map of `kernels.clicks`: later clicks cover earlier ones, patches are cut off at the border.

    The numbers of `kernels.clicks.place_patches`, written into one map, which that would copy for each click.

    Raises:
        ValueError: a click outside the photo, a size outside 1 to 31, or an ab outside [-1, 1].
    """
    written = torch.zeros(1, 3, height, width)
    pixels = written[0].numpy()  # shares the memory; its slices are ten times quicker than a tensor's
    for number, click in enumerate(clicks):
        _check(number, click, height, width)
        before, after = (click.size - 1) // 2, click.size // 2
        rows = slice(max(0, click.row - before), click.row + after + 1)
        cols = slice(max(0, click.col - before), click.col + after + 1)
        pixels[0, rows, cols] = 1.0
        pixels[1, rows, cols], pixels[2, rows, cols] = click.ab
    return written


def _check(number: int, click: PlacedClick, height: int, width: int) -> None:
    if not (0 <= click.row < height and 0 <= click.col < width):
        raise ValueError(
            f"click {number} is at row {click.row}, column {click.col} of {height} x {width} working pixels; "
            "place it inside"
        )
    if not 1 <= click.size <= LARGEST_HINT:
        raise ValueError(f"click {number} has size {click.size}; give 1 to {LARGEST_HINT} working pixels")
    if not all(-1.0 <= value <= 1.0 for value in click.ab):
        raise ValueError(f"click {number} has ab {click.ab}; give CIE / 128, in -1 to 1")
