"""The gain of a click: by how much it lowers a photo's error, found by trying it with the colorizer.

The target is the drop of the logarithm of the mean squared error of ab, which is what mean PSNR rewards. Pixels of
one state (photo and clicks) are compared with each other only: most of the variance lies between photos, where no
choice can use it. And it is divided by its usual size after so many clicks, or late clicks would get no gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from kernels.clicks import clicked, place_clicks
from kernels.noise import uniform
from trainer.recipes.coloring import Colored

OWN_SHARE = 0.375
"""Share of the tried pixels that are the guide's own best."""
APART = 5 / 64
"""Smallest distance between them, as a share of the shorter side."""
LARGEST = 6.0
"""Gains beyond so many times the usual size are cut off."""
_SHARPNESS = 2.0
"""Of the softmax over gains that the list loss aims at."""
_FIRST_SIZE, _SHRINKING = 0.23, 0.4
"""Usual size of the gain of the first click; with n clicks on the photo it is 1 / (1 + 0.4 n) of that. A fit to
the standard deviations within a state of a small U-Net: 0.23, 0.05 and 0.026 at 0, 10 and 24 clicks."""
_FLOOR = 1e-6
"""Added to the mean squared error before its logarithm."""


@dataclass(frozen=True)
class Tries:
    """Clicks that were tried."""

    places: Int64[Tensor, "b k"]
    """Flat indices of pixels."""
    drops: Float[Tensor, "b k"]
    """Drop of the logarithm of the mean squared error."""
    clicked: Float[Tensor, " b"]
    """Clicks before."""

    @property
    def gains(self) -> Float[Tensor, "b k"]:
        """Drops less their mean over the state's pixels, in units of their usual size."""
        size = _FIRST_SIZE / (1 + _SHRINKING * self.clicked)
        return ((self.drops - self.drops.mean(1, keepdim=True)) / size[:, None]).clamp(-LARGEST, LARGEST)


@torch.no_grad()
def try_clicks(
    colorize: Callable[[Tensor], Colored],
    present_ab: Float[Tensor, "b 2 h w"],
    clicks: Float[Tensor, "b 3 h w"],
    truth_ab: Float[Tensor, "b 2 h w"],
    logits: Float[Tensor, "b h w"],
    keys: Int64[Tensor, " b"],
    *,
    stream: int,
    draw: int,
    tries: int,
    hint_size: int,
    usual_area: float | None = None,
    known: Tries | None = None,
) -> Tries:
    """Try clicks in their true colors: the guide's own best, and others spread over the photo.

    Args:
        colorize: from a click map to colors.
        present_ab: the colors before.
        clicks: the map before.
        truth_ab: the true colors.
        logits: of the guide.
        keys: noise keys of the photos.
        stream: of the noise.
        draw: number of this state of the photos.
        tries: pixels of each photo.
        hint_size: side of the patch in pixels.
        usual_area: pixels of a click that is there already, by which they are counted; default: of this patch.
        known: tries of another guide at the same states, which stand in for those that are spread.
    """
    taken = clicked(clicks)
    own = round(OWN_SHARE * tries)
    places = best_apart(logits.float().masked_fill(taken, -torch.inf), own)
    if known is None:
        places = torch.cat([places, stratified(keys, stream, tries - own, *logits.shape[-2:], draw=draw)], 1)
    before = _log_mse(present_ab, truth_ab)
    drops = [
        before - _log_mse(colorize(place_clicks(clicks, truth_ab, place, hint_size)).ab, truth_ab)
        for place in places.unbind(1)
    ]
    found = Tries(places, torch.stack(drops, 1), taken.flatten(1).sum(1) / (usual_area or hint_size**2))
    if known is None:
        return found
    places, drops = (
        torch.cat([getattr(part, name) for part in (found, known)], 1) for name in ("places", "drops")
    )
    return Tries(places, drops, found.clicked)


def gain_loss(logits: Float[Tensor, "b h w"], tries: Tries, kind: Literal["list", "centred"]) -> Float[Tensor, ""]:
    """How far scores are from the gains of the tried pixels.

    Args:
        logits: of the guide.
        tries: of the same states.
        kind: `list` is the cross-entropy between softmax(2 gain) and softmax(z) over the tried pixels, so that z
            stays a heat map's logit. `centred` is the squared error of z less its mean: z is an expected gain.
    """
    scores = logits.float().flatten(1).gather(1, tries.places)
    if kind == "list":
        wanted = (_SHARPNESS * tries.gains).softmax(1)
        return -(wanted * F.log_softmax(scores, 1)).sum(1).mean()
    return (scores - scores.mean(1, keepdim=True) - tries.gains).square().mean()


def best_apart(scores: Float[Tensor, "b h w"], count: int) -> Int64[Tensor, "b count"]:
    """The `count` pixels with the largest scores that keep `APART` from each other, the best first."""
    height, width = scores.shape[-2:]
    radius = max(1.0, APART * min(height, width))
    rows, cols = (torch.arange(side, device=scores.device) for side in (height, width))
    left, found = scores.clone(), []
    for _ in range(count):
        best = left.flatten(1).argmax(1)
        found.append(best)
        row, col = best // width, best % width
        away = (rows[:, None] - row[:, None, None]) ** 2 + (cols - col[:, None, None]) ** 2
        left = left.masked_fill(away < radius**2, -torch.inf)
    return torch.stack(found, 1)


def stratified(
    keys: Int64[Tensor, " b"], stream: int, count: int, height: int, width: int, draw: int = 0
) -> Int64[Tensor, "b count"]:
    """Random pixels spread over a photo: of different cells of the smallest square grid that has `count` cells."""
    side = math.isqrt(count - 1) + 1
    noise = uniform(keys, stream, side * side + 2 * count, draw)
    cell = noise[:, : side * side].argsort(1)[:, :count]
    jitter = noise[:, side * side :].unflatten(1, (2, count))
    row = ((cell // side + jitter[:, 0]) * height / side).long().clamp(max=height - 1)
    col = ((cell % side + jitter[:, 1]) * width / side).long().clamp(max=width - 1)
    return row * width + col


def _log_mse(ab: Tensor, truth_ab: Tensor) -> Float[Tensor, " b"]:
    return ((ab - truth_ab).square().mean((1, 2, 3)) + _FLOOR).log()
