"""Bleeding: how much of the color step across a strong edge is smeared over the edge.

Look at the true colors 2 px and 8 px to either side of a pixel, along a row or a column. A strong edge is where
they differ by at least 20 CIE units at 2 px, and still differ the same way at 8 px: a border between two regions,
not a texture. Over all strong edges of a photo, the share of the true step t which the coloring's step c
makes is sum(c . t) / sum(t . t), its least-squares slope, once for the steps at 2 px and once for those at 8 px.

    bleeding = share at 8 px - share at 2 px

0: the coloring's edges are as sharp as the photo's, however pale its colors are (pale colors lower both
shares; grey is 0, because it cannot bleed). Towards 1: regions have their full color, and the step between them
is missing at the edge itself, as after a blur of a few pixels or a border in the wrong place. Below 0: sharper
than the photo. A haze much wider than 8 px lowers both shares and counts as loss of color, which Delta E sees.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from evaluator.metrics.base import at_least_float32, require_side
from kernels.color import AB_SCALE

NEAR, REACH = 2, 8
"""Pixels from the edge at which a step should be complete, and at which it is complete."""

STRONG = 20.0
"""Smallest step of a strong edge, in CIE units of the ab plane."""

BLEEDING_SIDE = 2 * REACH + 1
"""Smallest side of a photo in which there can be such an edge, in pixels."""


class Edges(NamedTuple):
    """The strong edges of a batch of photos: true steps along rows and columns, 0 away from strong edges."""

    near: tuple[Tensor, ...]
    """At `NEAR` pixels, (b, 2, h, w - 16) and (b, 2, h - 16, w)."""
    wide: tuple[Tensor, ...]
    """At `REACH` pixels."""


def bleeding(
    predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"], edges: Edges | None = None
) -> Float64[Tensor, " b"]:
    """Bleeding across strong edges of the true colors, one per photo: 0 is sharp, 1 is fully smeared.

    See the module for the definition. NaN in a photo without strong edges. Half precision is compared in
    float32.

    Args:
        predicted_ab: the coloring.
        truth_ab: the photo's colors.
        edges: `strong_edges(truth_ab)`, where they are known already.

    Raises:
        ValueError: a side of the photo is below 17 pixels.
    """
    edges = edges or strong_edges(truth_ab)
    predicted_ab = at_least_float32(predicted_ab)
    return _share(predicted_ab, edges.wide, REACH) - _share(predicted_ab, edges.near, NEAR)


def strong_edges(truth_ab: Float[Tensor, "b 2 h w"]) -> Edges:
    """Edges where the true colors make a strong and lasting step.

    Raises:
        ValueError: a side of the photo is below 17 pixels.
    """
    require_side("bleeding", truth_ab, BLEEDING_SIDE)
    truth_ab = at_least_float32(truth_ab)
    near, wide = _steps(truth_ab, NEAR), _steps(truth_ab, REACH)
    strong = [_strong(*pair) for pair in zip(near, wide, strict=True)]
    kept = [tuple(step * mask for step, mask in zip(steps, strong, strict=True)) for steps in (near, wide)]
    return Edges(*kept)


def _strong(near: Tensor, wide: Tensor) -> Tensor:
    """Mask of near steps that are strong and at least half kept in the wide step, (b, 1, ...)."""
    square = near.square().sum(1, keepdim=True)
    lasts = (near * wide).sum(1, keepdim=True) >= square / 2
    return ((square >= (STRONG / AB_SCALE) ** 2) & lasts).to(near.dtype)


def _steps(ab: Tensor, distance: int) -> tuple[Tensor, ...]:
    """Color differences between pixels `distance` after and before a pixel, along rows and along columns."""
    return tuple(_step(ab, distance, axis) for axis in (-1, -2))


def _step(ab: Tensor, distance: int, axis: int) -> Tensor:
    """Color differences along one axis, for all pixels at least `REACH` from the border."""
    inside = ab.shape[axis] - 2 * REACH
    return ab.narrow(axis, REACH + distance, inside) - ab.narrow(axis, REACH - distance, inside)


def _share(ab: Tensor, true_steps: tuple[Tensor, ...], distance: int) -> Tensor:
    """Share of the true steps that the colors `ab` make; NaN where there are none."""
    steps = _steps(ab, distance)
    made = sum(_total(step * true) for step, true in zip(steps, true_steps, strict=True))
    return torch.as_tensor(made / sum(_total(true.square()) for true in true_steps))


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.float64)
