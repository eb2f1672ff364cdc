"""Photos to Lab in one Triton kernel: bytes are read once, mirrored where asked, and written as Lab.

A candidate that nothing but `tests/benchmarks/kernels/color.py` uses: it replaces the compiled `kernels.color` on
GPUs once that benchmark has shown it to be 1.3 times as fast on one. Until then there is no such figure.

15 bytes a pixel leave a GPU little time to compute: the gamma is a table of 256 numbers that stays in the first
cache, and the cube root has no division. On a CPU the kernel runs only under Triton's interpreter
(TRITON_INTERPRET=1).
"""

from contextlib import nullcontext
from functools import cache
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from kernels import color

_TILE_PIXELS = 1024
_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}

_XYZ_FROM_RGB = tl.constexpr(color._XYZ_FROM_RGB)
_LIGHTNESS_SLOPE = tl.constexpr(116.0 / color.LIGHTNESS_SCALE)
_LIGHTNESS_OFFSET = tl.constexpr(16.0 / color.LIGHTNESS_SCALE)
_A_SLOPE = tl.constexpr(500.0 / color.AB_SCALE)
_B_SLOPE = tl.constexpr(200.0 / color.AB_SCALE)
_KNEE = tl.constexpr(0.008856)
_INVERSE_CUBE_BITS = tl.constexpr(0x54A21000)
"""Minus a third of a float's bits, this is its inverse cube root, within 4 %."""


def photo_to_lab(
    rgb: UInt8[Tensor, "b 3 h w"], flip: Bool[Tensor, " b"]
) -> tuple[Float32[Tensor, "b 1 h w"], Float32[Tensor, "b 2 h w"]]:
    """Mirror the photos whose `flip` is set left to right, and convert all to `(lightness, ab)`.

    Values as `kernels.color.rgb_to_lab`'s, to 1e-4 CIE units. `rgb` may have any strides. Not differentiable.
    """
    batch, _, height, width = rgb.shape
    lightness = torch.empty(batch, 1, height, width, dtype=torch.float32, device=rgb.device)
    ab = torch.empty(batch, 2, height, width, dtype=torch.float32, device=rgb.device)
    if rgb.numel() == 0:
        return lightness, ab
    cols = min(_TILE_PIXELS, triton.next_power_of_2(width))
    rows = min(_TILE_PIXELS // cols, triton.next_power_of_2(height))
    tiles = triton.cdiv(height, rows) * triton.cdiv(width, cols)
    with torch.cuda.device(rgb.device) if rgb.is_cuda else nullcontext():
        photo_to_lab_kernel[(tiles, batch)](
            rgb, flip.contiguous().view(torch.uint8), _linear_table(rgb.device), lightness, ab, height, width,
            *rgb.stride(), ROWS=rows, COLS=cols, **_OPTIONS,
        )  # fmt: skip
    return lightness, ab


@cache
def _linear_table(device: torch.device) -> Tensor:
    """Linear light of each byte."""
    return color._decode(torch.arange(256, dtype=torch.float64) / 255.0).float().to(device)


@triton.jit
@no_type_check  # the tests' type checker would hide the kernel from Triton
def photo_to_lab_kernel(
    rgb, flip, linear, lightness, ab, height, width, photo_stride, plane_stride, row_stride, col_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Convert tile program_id(0) of photo program_id(1), ROWS x COLS pixels.

    `rgb` has the given strides, `flip` is one byte for each photo, `linear` a table of 256; `lightness` and `ab`
    are contiguous.
    """
    photo = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(width, COLS)
    row = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    col = (tl.program_id(0) % across) * COLS + tl.arange(0, COLS)[None, :]
    inside = (row < height) & (col < width)
    # Reading is what is mirrored: the three bytes of a pixel, not the twelve that are written.
    source_col = tl.where(tl.load(flip + photo) != 0, width - 1 - col, col).to(tl.int64)
    source = rgb + photo * photo_stride + row * row_stride + source_col * col_stride
    red = tl.load(linear + tl.load(source, mask=inside, other=0))
    green = tl.load(linear + tl.load(source + plane_stride, mask=inside, other=0))
    blue = tl.load(linear + tl.load(source + plane_stride + plane_stride, mask=inside, other=0))
    fx = _compress(red * _XYZ_FROM_RGB[0][0] + green * _XYZ_FROM_RGB[0][1] + blue * _XYZ_FROM_RGB[0][2])
    fy = _compress(red * _XYZ_FROM_RGB[1][0] + green * _XYZ_FROM_RGB[1][1] + blue * _XYZ_FROM_RGB[1][2])
    fz = _compress(red * _XYZ_FROM_RGB[2][0] + green * _XYZ_FROM_RGB[2][1] + blue * _XYZ_FROM_RGB[2][2])
    place = row * width + col  # int64, like photo: a launch turns a height or width of 1 into a plain number
    tl.store(lightness + photo * height * width + place, fy * _LIGHTNESS_SLOPE - _LIGHTNESS_OFFSET, mask=inside)
    tl.store(ab + 2 * photo * height * width + place, (fx - fy) * _A_SLOPE, mask=inside)
    tl.store(ab + (2 * photo + 1) * height * width + place, (fy - fz) * _B_SLOPE, mask=inside)


@triton.jit
@no_type_check
def _compress(xyz):
    """Cube root of XYZ relative to white, with CIE's straight line near black."""
    return tl.where(xyz > _KNEE, _cube_root(xyz), xyz * 7.787 + 16.0 / 116.0)


@triton.jit
@no_type_check
def _cube_root(x):
    # y is nearly x ** (-1/3), and r = 1 - x y**3 its error: x ** (-1/3) = y (1 - r) ** (-1/3), a series in r.
    y = (x.to(tl.int32, bitcast=True) // -3 + _INVERSE_CUBE_BITS).to(tl.float32, bitcast=True)
    r = 1.0 - (x * y) * (y * y)
    y = y * (1.0 + r * (1.0 / 3.0 + r * (2.0 / 9.0 + r * (14.0 / 81.0))))
    root = x * (y * y)
    return root + root * ((1.0 - root * y) * (2.0 / 3.0))
