"""Gaussian noise out of the uniform noise of `kernels.noise`."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def box_muller(numbers: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n 2"]:
    """Two independent standard normal numbers for every two uniform ones in (0, 1) (Box and Muller 1958).

    In float64, so that devices whose logarithms differ in the last bit round to the same pixel.
    """
    first, second = numbers.double().unbind(-1)
    radius, angle = first.log().mul(-2).sqrt(), 2 * math.pi * second
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
