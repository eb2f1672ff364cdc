"""Colourfulness of a picture (Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images")."""

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor


def colourfulness(rgb: UInt8[Tensor, "b 3 h w"]) -> Float64[Tensor, " b"]:
    """The M^(3) of the paper on uint8 sRGB, one per photo: spread plus 0.3 times the mean of the opponents.

    The opponents rg = R - G and yb = (R + G) / 2 - B keep their signs; with absolute values, as some code has
    them, evenly mixed reds and greens would count as less colourful than they are. Spread and mean are the
    lengths of (sigma_rg, sigma_yb) and (mu_rg, mu_yb). 0 is grey, 59 "quite colourful", 109 "extremely
    colourful" to the paper's viewers.
    """
    red, green, blue = rgb.int().unbind(1)
    red_green, yellow_blue = _spread_and_mean(red - green), _spread_and_mean(red + green - 2 * blue)
    # Twice yb, to stay with integers.
    spread = torch.hypot(red_green[0], yellow_blue[0] / 2)
    return spread + 0.3 * torch.hypot(red_green[1], yellow_blue[1] / 2)


def _spread_and_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Population standard deviation and mean over pixels of integers (b,h,w), in float64."""
    values = values.flatten(1)
    mean = values.mean(1, dtype=torch.float64)
    square = values.square().mean(1, dtype=torch.float64)
    return (square - mean.square()).clamp(min=0).sqrt(), mean
