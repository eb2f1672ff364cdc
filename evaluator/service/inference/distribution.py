"""What a split colorizer's palette says of a place: likely colours, and how unsure it is.

The palette is a distribution over bins of ab for each cell of the photo. The features end with two maps made of
it: the entropy as a share of the largest, and the standard deviation of ab.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.registry.contract import FEATURE_CELL
from evaluator.registry.networks import UNCERTAINTIES
from evaluator.service.inference.gamut import shown
from evaluator.service.inference.networks import SplitNetwork
from kernels.color import AB_SCALE

MODE_DISTANCE = 15.0
"""Suggested colours are at least so far apart, in CIE units of ab."""


def distribution_at(
    network: SplitNetwork, features: Float[Tensor, "1 c h w"], row: int, col: int
) -> Float[Tensor, " bins"]:
    """Probability of each of the network's `bins` at a pixel of the working size; they sum to 1.

    Args:
        network: whose features they are.
        features: of the photo's present colouring.
        row: of the pixel.
        col: of the pixel.
    """
    cell = features[0, :, row // FEATURE_CELL, col // FEATURE_CELL]
    return network.palette(cell[None])[0].double().softmax(0)


def modes(
    probability: Float[Tensor, " bins"], bins: Float[Tensor, "bins 2"], lightness: float, count: int
) -> list[tuple[tuple[float, float], float]]:
    """The likeliest colours that a screen can show, `MODE_DISTANCE` apart.

    Non-maximum suppression: the likeliest bin, then the likeliest of those that are not near it, and so on.

    Args:
        probability: of each bin.
        bins: ab / 128; one of them grey, which a screen shows at any lightness.
        lightness: of the pixel, CIE L* / 100.
        count: at most so many.

    Returns:
        ab / 128, and the bin's share of the probability of all bins that can be shown; falling.
    """
    left = probability * shown(lightness, bins)
    left = left / left.sum()
    apart = AB_SCALE * torch.cdist(bins, bins)
    found: list[tuple[tuple[float, float], float]] = []
    while len(found) < count and float(left.max()) > 0.0:
        best = int(left.argmax())
        a, b = bins[best].tolist()
        found.append(((a, b), float(left[best])))
        left = left.masked_fill(apart[best] < MODE_DISTANCE, 0.0)
    return found


def uncertainty(features: Float[Tensor, "1 c h w"], height: int, width: int) -> Float[Tensor, "1 H W"]:
    """How unsure the colorizer is of each pixel: the entropy as a share of the largest, 0 to 1.

    Args:
        features: of the padded photo, at cells.
        height: of the photo at the working size, which is cut out.
        width: of it.
    """
    entropy = features[:, -UNCERTAINTIES][:, None].float()
    pixels = interpolate(entropy, scale_factor=float(FEATURE_CELL), mode="bilinear", align_corners=False)
    return pixels[:, 0, :height, :width].clamp(0.0, 1.0)
