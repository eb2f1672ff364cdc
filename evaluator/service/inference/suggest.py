"""Where the next click helps most, which colors are plausible there, and where the colorizer is unsure.

All of it without the true colors.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.registry.contract import FEATURE_CELL
from evaluator.registry.networks import UNCERTAINTIES
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.networks import Networks
from evaluator.service.inference.suggest_colors import Scene, covering_colors, modes_in_gamut
from kernels.clicks import clicked

NEIGHBORHOOD = 5 / 64
"""Radius of a place's neighborhood as a share of the shorter side: 5 px at 64 px."""


@dataclass(frozen=True)
class Place:
    """Where a click helps, in pixels of the working size."""

    row: int
    col: int
    probability: float
    """Share of the heat map in its neighborhood that no earlier place has."""


@dataclass(frozen=True)
class Suggested:
    """A plausible color."""

    ab: tuple[float, float]
    """CIE / 128, in [-1, 1]."""
    probability: float
    """How likely, of all colors that a screen can show there."""


async def places(
    engine: Engine,
    working: Float[Tensor, "1 1 h w"],
    clicks: Float[Tensor, "1 3 h w"],
    count: int,
    predicted_ab: Float[Tensor, "1 2 h w"] | None = None,
    networks: Networks | None = None,
    avoid: Sequence[tuple[int, int]] = (),
    features: Tensor | None = None,
) -> list[Place]:
    """The `count` best places for the next click, the best first, a neighborhood's radius apart.

    The first is what `evaluator.policies.guide.GuidePolicy` clicks. Fewer where no pixel is left.

    Args:
        engine: the networks.
        working: the photo's lightness.
        clicks: the click map so far.
        count: at least 1.
        predicted_ab: the present colors, where they are known already.
        networks: a pair to use; default: the present one.
        avoid: row and column of places whose neighborhoods are left out.
        features: of the present colors, where they are known already and the guide reads them.

    Raises:
        Overloaded: too many requests wait.
    """
    pair = networks or engine.networks
    if predicted_ab is None or (features is None and pair.guide.reads_features):
        predicted_ab, features = await engine.look(working, clicks, pair)
    logits = await engine.logits(working, predicted_ab, clicks, pair, features)
    return await asyncio.to_thread(peaks, logits[0], clicked(clicks)[0], count, avoid)


def peaks(
    logits: Float[Tensor, "h w"], taken: Tensor, count: int, avoid: Sequence[tuple[int, int]] = ()
) -> list[Place]:
    """The largest logits one after the other; each keeps others out of its neighborhood.

    Args:
        logits: z / T.
        taken: (h, w), True at pixels that are clicked.
        count: at least 1.
        avoid: row and column of places whose neighborhoods are left out.
    """
    height, width = logits.shape
    heat = logits.double().flatten().softmax(0).view_as(logits)
    free = logits.masked_fill(taken, -math.inf)
    radius = max(1.0, NEIGHBORHOOD * min(height, width))
    rows, cols = torch.arange(height)[:, None], torch.arange(width)

    def near_to(row: int, col: int) -> Tensor:
        return (rows - row).square() + (cols - col).square() <= radius**2

    for place in avoid:
        free = free.masked_fill(near_to(*place), -math.inf)
    found: list[Place] = []
    while len(found) < count and float(free.max()) > -math.inf:
        row, col = divmod(int(free.argmax()), width)
        near = near_to(row, col)
        found.append(Place(row, col, float(heat[near].sum())))
        heat = heat.masked_fill(near, 0.0)
        free = free.masked_fill(near, -math.inf)
    return found


def uncertainty(features: Float[Tensor, "1 c h w"], height: int, width: int) -> Float[Tensor, "1 H W"]:
    """How unsure a split colorizer is of each pixel: the entropy as a share of the largest, 0 to 1.

    Its features end with two maps made of its palette: that entropy, and the standard deviation of ab.

    Args:
        features: of the padded photo, at cells.
        height: of the photo at the working size, which is cut out.
        width: of it.
    """
    entropy = features[:, -UNCERTAINTIES][:, None].float()
    pixels = interpolate(entropy, scale_factor=float(FEATURE_CELL), mode="bilinear", align_corners=False)
    return pixels[:, 0, :height, :width].clamp(0.0, 1.0)


async def colors_at(
    engine: Engine,
    working: Float[Tensor, "1 1 h w"],
    clicks: Float[Tensor, "1 3 h w"],
    predicted_ab: Float[Tensor, "1 2 h w"],
    row: int,
    col: int,
    count: int,
    *,
    networks: Networks | None = None,
    features: Tensor | None = None,
) -> list[Suggested]:
    """At most `count` plausible colors at a pixel of the working size, the likeliest first.

    The modes of a split colorizer's palette; where there is no palette, those that cover the evidence. Both have
    the best measured hit rates of their kind: docs/results/color_suggestions.md.

    Args:
        engine: the networks.
        working: the photo's lightness.
        clicks: the click map so far.
        predicted_ab: the present colors.
        row: of the pixel.
        col: of the pixel.
        count: at least 1.
        networks: a pair to use; default: the present one.
        features: of the present colors, where they are known already and the colorizer is a split one.

    Raises:
        ValueError: a pixel outside the photo.
        Overloaded: too many requests wait.
    """
    height, width = working.shape[-2:]
    if not (0 <= row < height and 0 <= col < width):
        raise ValueError(f"row {row}, column {col} is outside of the {height} x {width} working pixels")
    pair = networks or engine.networks
    split = pair.colorizer.split
    scene = Scene(working, clicks, predicted_ab, row, col)
    if split is None:
        found = covering_colors(scene, count)
    else:
        if features is None:
            features = (await engine.look(working, clicks, pair)).features
        assert features is not None, "a split colorizer gives features"
        likely = split.distribution(features[:, :, row // FEATURE_CELL, col // FEATURE_CELL])[0]
        found = modes_in_gamut(likely, split.bins, scene.lightness, count)
    return [Suggested(ab, probability) for ab, probability in found]
