"""Photos to Lab with nothing but arithmetic, for `torch.compile`: one pass over the pixels, no table, no power.

`kernels.color.rgb_to_lab` makes some forty passes, which costs nothing on a GPU and most of the time that a CPU
spends on preparing a photo. Compiled, this function reads each byte once and writes Lab. Table look-ups and
powers would keep the compiler from vector instructions, so the gamma is a square root and a polynomial, and the
cube root Halley's method from a guess that divides the exponent bits. Not compiled it is slower than `rgb_to_lab`.
"""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from kernels.color import _XYZ_FROM_RGB, AB_SCALE, LIGHTNESS_SCALE

# s ** 0.8 as a polynomial in s - 0.65, for s from 0.3 to 1 (Chebyshev fit, relative error 6e-7). One degree more
# would be exact, but the compiler stops fusing everything into one pass beyond a certain number of operations.
_CENTRE = 0.65
_POWER_08 = (
    0.708485031,
    0.871980393,
    -0.13414653,
    0.0826937393,
    -0.070163739,
    0.0645561267,
    -0.0668171932,
    0.129244538,
    -0.16586828,
)
_LAST_LINEAR_BYTE = 10
"""Bytes up to here lie on the straight part of the sRGB curve, at most 0.04045."""

# Centres the relative error of the cube root's guess, 3 %.
_CUBE_OFFSET = 709_958_130


def photo_to_lab(
    rgb: UInt8[Tensor, "b 3 h w"],
) -> tuple[Float32[Tensor, "b 1 h w"], Float32[Tensor, "b 2 h w"]]:
    """Convert uint8 sRGB to `(lightness, ab)` like `kernels.color.rgb_to_lab`, to 1e-4 CIE units.

    Not differentiable: bytes have no gradient.
    """
    red, green, blue = (_decode(plane) for plane in rgb.unbind(1))
    fx, fy, fz = (_compress(red * r + green * g + blue * b) for r, g, b in _XYZ_FROM_RGB)
    lightness = fy * (116.0 / LIGHTNESS_SCALE) - 16.0 / LIGHTNESS_SCALE
    ab = torch.stack(((fx - fy) * (500.0 / AB_SCALE), (fy - fz) * (200.0 / AB_SCALE)), dim=1)
    return lightness.unsqueeze(1), ab


def _decode(plane: Tensor) -> Tensor:
    """Undo the sRGB gamma: u ** 2.4 is u ** 2 times the polynomial of u ** 0.5."""
    value = plane.float()
    base = value * (1.0 / (255.0 * 1.055)) + 0.055 / 1.055
    curved = base * base * _power_08(base.sqrt())
    return torch.where(value > _LAST_LINEAR_BYTE, curved, value * (1.0 / (255.0 * 12.92)))


def _power_08(x: Tensor) -> Tensor:
    """x ** 0.8 for x in 0.3 ... 1."""
    offset = x - _CENTRE
    total = offset * _POWER_08[-1] + _POWER_08[-2]
    for coefficient in reversed(_POWER_08[:-2]):
        total = total * offset + coefficient
    return total


def _compress(xyz: Tensor) -> Tensor:
    """Cube root of XYZ relative to white, with CIE's straight line near black."""
    return torch.where(xyz > 0.008856, _cube_root(xyz.clamp(min=0.008856)), xyz * 7.787 + 16.0 / 116.0)


def _cube_root(x: Tensor) -> Tensor:
    # A float's bits, read as an integer, are nearly its logarithm: divide it, and put the exponent's bias back.
    root = (x.view(torch.int32).float() * (1.0 / 3.0) + _CUBE_OFFSET).int().view(torch.float32)
    for _ in range(2):
        cube = root * root * root
        root = root - root * ((cube - x) / (2.0 * cube + x))
    return root
