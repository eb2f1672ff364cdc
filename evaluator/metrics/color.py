"""Delta E 2000 (Sharma, Wu and Dalal 2005) and colorfulness (Hasler and Suesstrunk 2003)."""

import math

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from evaluator.metrics.base import at_least_float32, photo_mean
from kernels.color import AB_SCALE, LIGHTNESS_SCALE, rgb_to_lab

_TURN = 2 * math.pi
_C7 = 25.0**7


def delta_e(
    predicted_rgb: UInt8[Tensor, "b 3 h w"],
    lightness: Float[Tensor, "b 1 h w"],
    truth_ab: Float[Tensor, "b 2 h w"],
) -> Float64[Tensor, " b"]:
    """Mean Delta E 2000 over a photo's pixels, between the displayed picture and the original.

    The prediction is taken as uint8 sRGB, so that a color which no screen shows is judged by what the screen
    shows instead, lightness included. Between 0 and a little above 100.
    """
    return photo_mean(delta_e_2000(*rgb_to_lab(predicted_rgb), lightness, truth_ab))


def delta_e_2000(
    lightness_1: Float[Tensor, "b 1 h w"],
    ab_1: Float[Tensor, "b 2 h w"],
    lightness_2: Float[Tensor, "b 1 h w"],
    ab_2: Float[Tensor, "b 2 h w"],
) -> Float[Tensor, "b h w"]:
    """CIEDE2000 with k_L = k_C = k_H = 1 at each pixel, for Lab in this project's scales (L* / 100, ab / 128).

    Symmetric in its two colors. float64 stays float64, everything else is computed in float32: within 2e-4 of
    float64 but for colors of opposite hue, where the formula itself jumps.
    """
    (l_1, a_1, b_1), (l_2, a_2, b_2) = _cie(lightness_1, ab_1), _cie(lightness_2, ab_2)
    stretch = 1 + 0.5 * (1 - _chroma_weight((torch.hypot(a_1, b_1) + torch.hypot(a_2, b_2)) / 2))
    c_1, h_1 = _polar(a_1 * stretch, b_1)
    c_2, h_2 = _polar(a_2 * stretch, b_2)
    turn, mean_h = _hues(h_1, h_2)
    mean_c = (c_1 + c_2) / 2
    chroma = (c_2 - c_1) / (1 + 0.045 * mean_c)
    hue = 2 * (c_1 * c_2).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * mean_c * _hue_weight(mean_h))
    away = ((l_1 + l_2) / 2 - 50).square()
    light = (l_2 - l_1) / (1 + 0.015 * away / (20 + away).sqrt())
    squares = light.square() + chroma.square() + hue.square() + _rotation(mean_c, mean_h) * chroma * hue
    return squares.clamp(min=0).sqrt()


def _cie(lightness: Tensor, ab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L*, a*, b* in CIE units, (b,h,w) each."""
    a, b = (at_least_float32(ab) * AB_SCALE).unbind(1)
    return at_least_float32(lightness)[:, 0] * LIGHTNESS_SCALE, a, b


def _chroma_weight(chroma: Tensor) -> Tensor:
    """Weight that rises from 0 at grey to 1 at strong colors, around chroma 25."""
    power = chroma**7
    return (power / (power + _C7)).sqrt()


def _polar(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Chroma, and hue in [0, 2 pi)."""
    hue = torch.atan2(b, a)
    return torch.hypot(a, b), torch.where(hue < 0, hue + _TURN, hue)


def _hues(h_1: Tensor, h_2: Tensor) -> tuple[Tensor, Tensor]:
    """Shortest hue rotation from the first to the second color, and the hue in its middle.

    Grey has no hue. The formula's extra rule for it is not needed: both results are only used in products with
    the hue difference, which is 0 there.
    """
    turn, total = h_2 - h_1, h_1 + h_2
    long_way = turn.abs() > math.pi
    turn = torch.where(long_way, turn - _TURN * turn.sign(), turn)
    opposite = torch.where(total < _TURN, total + _TURN, total - _TURN)
    return turn, torch.where(long_way, opposite, total) / 2


def _hue_weight(hue: Tensor) -> Tensor:
    """Term T of the formula."""
    return (
        1
        - 0.17 * torch.cos(hue - math.radians(30))
        + 0.24 * torch.cos(2 * hue)
        + 0.32 * torch.cos(3 * hue + math.radians(6))
        - 0.20 * torch.cos(4 * hue - math.radians(63))
    )


def _rotation(chroma: Tensor, hue: Tensor) -> Tensor:
    """Term R_T of the formula: interaction of chroma and hue differences in blues."""
    from_blue = (hue - math.radians(275)) / math.radians(25)
    return -2 * _chroma_weight(chroma) * torch.sin(math.radians(60) * torch.exp(-from_blue.square()))


def colourfulness(rgb: UInt8[Tensor, "b 3 h w"]) -> Float64[Tensor, " b"]:
    """M^(3) of the paper on uint8 sRGB, one per photo: spread plus 0.3 times the mean of the opponents.

    The opponents rg = R - G and yb = (R + G) / 2 - B keep their signs; with absolute values, as some code has
    them, evenly mixed reds and greens would count as less colorful than they are. Spread and mean are the
    lengths of (sigma_rg, sigma_yb) and (mu_rg, mu_yb). 0 is grey, 59 "quite colorful", 109 "extremely
    colorful" to the paper's viewers.
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
