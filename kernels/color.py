"""sRGB <-> CIE Lab (D65, 2 degrees) on batches of photos, with scikit-image's constants.

Everything is elementwise on purpose: a matrix product would be cast to half by autocast and to TF32 by a
GPU's matmul settings, and either costs far more than the 1e-4 CIE units that this module promises.
"""

from functools import cache

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

AB_SCALE = 128.0
"""CIE units of a* and b* per unit of `ab`."""

LIGHTNESS_SCALE = 100.0
"""CIE units of L* per unit of `lightness`."""

Matrix = tuple[tuple[float, float, float], ...]
Planes = list[Tensor]
"""Three (B,H,W) tensors; a plane at a time keeps the temporaries small, which is what costs time on a CPU."""

# Linear RGB -> XYZ relative to the white point (0.95047, 1, 1.08883), and the inverse of that matrix.
_XYZ_FROM_RGB: Matrix = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)


def _inverse(m: Matrix) -> Matrix:
    """Inverse of a 3x3 matrix in double precision, by cofactors."""
    cofactors = [
        [
            m[(row + 1) % 3][(col + 1) % 3] * m[(row + 2) % 3][(col + 2) % 3]
            - m[(row + 1) % 3][(col + 2) % 3] * m[(row + 2) % 3][(col + 1) % 3]
            for row in range(3)
        ]
        for col in range(3)
    ]
    determinant = sum(m[0][col] * cofactors[col][0] for col in range(3))
    first, second, third = ((a / determinant, b / determinant, c / determinant) for a, b, c in cofactors)
    return first, second, third


_RGB_FROM_XYZ = _inverse(_XYZ_FROM_RGB)


def rgb_to_lab(
    rgb: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"],
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 2 h w"]]:
    """Convert sRGB to `(lightness, ab)`.

    `rgb` is uint8 in 0..255 or floating point in [0, 1]. `lightness` (B,1,H,W) is L* / 100 in [0, 1]; `ab`
    (B,2,H,W) is (a*, b*) / 128, inside [-1, 1] for every sRGB color. float64 stays float64; everything else
    is computed and returned in float32, inside autocast too. Within 1e-4 CIE units of scikit-image's float64.
    Differentiable, with finite gradients at every color including black.

    Raises:
        ValueError: another dtype or number of channels.
    """
    _require_channels("rgb", rgb, 3)
    fx, fy, fz = (_compress(plane) for plane in _combine(_XYZ_FROM_RGB, _linear(rgb)))
    lightness = fy * (116.0 / LIGHTNESS_SCALE) - 16.0 / LIGHTNESS_SCALE
    # Difference first: it is nearly exact, a difference of scaled numbers is not.
    ab = torch.stack(((fx - fy) * (500.0 / AB_SCALE), (fy - fz) * (200.0 / AB_SCALE)), dim=1)
    return lightness.unsqueeze(1), ab


def lab_to_rgb(lightness: Float[Tensor, "b 1 h w"], ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert `(lightness, ab)` to sRGB in [0, 1], clipped to the gamut.

    Scales and dtypes as in `rgb_to_lab`. Colors that no screen shows are clipped the way scikit-image clips
    them: a negative cube-root coordinate of Z becomes 0, and after the gamma encoding R, G and B are each
    clipped to [0, 1]. Clipping changes such a color's lightness and hue; the gradient of a clipped channel
    is zero, and every gradient is finite.

    Raises:
        ValueError: another number of channels, or a dtype that is not floating point.
    """
    _require_channels("lightness", lightness, 1)
    _require_channels("ab", ab, 2)
    fy = (_at_least_float32(lightness)[:, 0] * LIGHTNESS_SCALE + 16.0) * (1.0 / 116.0)
    a, b = _at_least_float32(ab).unbind(1)
    fx = fy + a * (AB_SCALE / 500.0)
    fz = (fy - b * (AB_SCALE / 200.0)).clamp(min=0.0)
    xyz = [_expand(plane) for plane in (fx, fy, fz)]
    return torch.stack([_encode(plane).clamp_(0.0, 1.0) for plane in _combine(_RGB_FROM_XYZ, xyz)], dim=1)


def to_uint8(rgb: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Round sRGB in [0, 1] to the nearest of 0..255; values outside [0, 1] are clipped."""
    return (_at_least_float32(rgb).detach().clamp(0.0, 1.0) * 255.0).round_().to(torch.uint8)


def lab_to_uint8(lightness: Float[Tensor, "b 1 h w"], ab: Float[Tensor, "b 2 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """`to_uint8(lab_to_rgb(lightness, ab))` by a table in float32, a few times faster on a CPU.

    Linear RGB is rounded to 16 bits before its gamma: a value may lie one level beside the exact one where that is
    near the middle between two levels. No gradient.

    Raises:
        ValueError: as `lab_to_rgb`.
    """
    _require_channels("lightness", lightness, 1)
    _require_channels("ab", ab, 2)
    with torch.no_grad():
        fy = (_at_least_float32(lightness).float()[:, 0] * LIGHTNESS_SCALE + 16.0) * (1.0 / 116.0)
        a, b = _at_least_float32(ab).float().unbind(1)
        fx = torch.add(fy, a, alpha=AB_SCALE / 500.0)
        fz = torch.sub(fy, b, alpha=AB_SCALE / 200.0).clamp_(min=0.0)
        table = _encoded_levels(fy.device)
        rgb = torch.empty((fy.shape[0], 3, *fy.shape[1:]), dtype=torch.uint8, device=fy.device)
        for channel, plane in enumerate(_combine(_RGB_FROM_XYZ, [_expand(f) for f in (fx, fy, fz)])):
            level = plane.clamp_(0.0, 1.0).mul_(_LEVELS - 1).round_().to(torch.int32)
            rgb[:, channel] = table.index_select(0, level.view(-1)).view(level.shape)
    return rgb


_LEVELS = 65536


@cache
def _encoded_levels(device: torch.device) -> Tensor:
    """Table of the uint8 sRGB value of every 16-bit level of linear RGB."""
    linear = torch.arange(_LEVELS, dtype=torch.float64) / (_LEVELS - 1)
    return (_encode(linear).clamp(0.0, 1.0) * 255.0).round_().to(device, torch.uint8)


def _require_channels(name: str, value: Tensor, channels: int) -> None:
    if value.ndim != 4 or value.shape[1] != channels:
        shape = tuple(value.shape)
        raise ValueError(f"{name} has shape {shape}; pass (batch, {channels}, height, width)")


def _at_least_float32(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise ValueError(f"a colour has dtype {value.dtype}; pass floating point, or uint8 RGB to rgb_to_lab")
    return value if value.dtype == torch.float64 else value.float()


def _linear(rgb: Tensor) -> Planes:
    """Undo the sRGB gamma; uint8 by a table of 256 entries, 4x faster than a power per value."""
    if rgb.dtype != torch.uint8:
        return [_decode(plane) for plane in _at_least_float32(rgb).unbind(1)]
    table = _decode(torch.arange(256, device=rgb.device, dtype=torch.float32) / 255.0)
    return [table.index_select(0, plane.reshape(-1).int()).view(plane.shape) for plane in rgb.unbind(1)]


# In the four curves below a power is taken only of values clamped to its own side of the knee: `where`
# discards the other side's value, but its gradient (infinite at 0) times zero would be NaN.


def _decode(rgb: Tensor) -> Tensor:
    """Undo the sRGB gamma."""
    power = rgb.clamp(min=0.04045).add_(0.055).mul_(1.0 / 1.055).pow_(2.4)
    return torch.where(rgb > 0.04045, power, rgb * (1.0 / 12.92))


def _encode(linear: Tensor) -> Tensor:
    """Apply the sRGB gamma."""
    power = linear.clamp(min=0.0031308).pow_(1.0 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear > 0.0031308, power, linear * 12.92)


def _compress(xyz: Tensor) -> Tensor:
    """Cube root of XYZ relative to white, with CIE's straight line near black."""
    root = xyz.clamp(min=0.008856).pow_(1.0 / 3.0)
    return torch.where(xyz > 0.008856, root, xyz.mul(7.787).add_(16.0 / 116.0))


def _expand(f: Tensor) -> Tensor:
    """Undo `_compress`."""
    return torch.where(f > 0.2068966, f.square().mul_(f), f.sub(16.0 / 116.0).mul_(1.0 / 7.787))


def _combine(matrix: Matrix, planes: Planes) -> Planes:
    """Multiply three planes (B,H,W) by a 3x3 matrix."""
    first, second, third = planes
    return [first.mul(a).add_(second, alpha=b).add_(third, alpha=c) for a, b, c in matrix]


# s ** 0.8 as a polynomial in s - 0.65, for s from 0.3 to 1 (Chebyshev fit, relative error 6e-7). One degree more
# would be exact, but the compiler stops fusing everything into one pass beyond a certain number of operations.
_CENTER = 0.65
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

# Centers the relative error of the cube root's guess, 3 %.
_CUBE_OFFSET = 709_958_130


def photo_to_lab(
    rgb: UInt8[Tensor, "b 3 h w"],
) -> tuple[Float32[Tensor, "b 1 h w"], Float32[Tensor, "b 2 h w"]]:
    """Convert uint8 sRGB to `(lightness, ab)` in one compilable pass; agrees with `rgb_to_lab` to 1e-4 CIE units.

    Not differentiable: bytes have no gradient.
    """
    red, green, blue = (_decode_byte(plane) for plane in rgb.unbind(1))
    fx, fy, fz = (_compress_fused(red * r + green * g + blue * b) for r, g, b in _XYZ_FROM_RGB)
    lightness = fy * (116.0 / LIGHTNESS_SCALE) - 16.0 / LIGHTNESS_SCALE
    ab = torch.stack(((fx - fy) * (500.0 / AB_SCALE), (fy - fz) * (200.0 / AB_SCALE)), dim=1)
    return lightness.unsqueeze(1), ab


def _decode_byte(plane: Tensor) -> Tensor:
    """Undo the sRGB gamma: u ** 2.4 is u ** 2 times the polynomial of u ** 0.5."""
    value = plane.float()
    base = value * (1.0 / (255.0 * 1.055)) + 0.055 / 1.055
    curved = base * base * _power_08(base.sqrt())
    return torch.where(value > _LAST_LINEAR_BYTE, curved, value * (1.0 / (255.0 * 12.92)))


def _power_08(x: Tensor) -> Tensor:
    """x ** 0.8 for x in 0.3 ... 1, by a polynomial."""
    offset = x - _CENTER
    total = offset * _POWER_08[-1] + _POWER_08[-2]
    for coefficient in reversed(_POWER_08[:-2]):
        total = total * offset + coefficient
    return total


def _compress_fused(xyz: Tensor) -> Tensor:
    """Cube root of XYZ relative to white, with CIE's straight line near black."""
    return torch.where(xyz > 0.008856, _cube_root(xyz.clamp(min=0.008856)), xyz * 7.787 + 16.0 / 116.0)


def _cube_root(x: Tensor) -> Tensor:
    # A float's bits, read as an integer, are nearly its logarithm: divide it, and put the exponent's bias back.
    root = (x.view(torch.int32).float() * (1.0 / 3.0) + _CUBE_OFFSET).int().view(torch.float32)
    for _ in range(2):
        cube = root * root * root
        root = root - root * ((cube - x) / (2.0 * cube + x))
    return root
