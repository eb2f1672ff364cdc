"""Colors as people write them, and those that a screen can show at a lightness."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.color import AB_SCALE, LIGHTNESS_SCALE, lab_to_rgb, rgb_to_lab, to_uint8

IN_GAMUT = 1.0
"""A color counts as shown when sRGB gives it back within this distance, in CIE units."""


@lru_cache(maxsize=32)  # some half a MiB each with the finest step
def in_gamut(lightness: float | int, step: int) -> tuple[tuple[float, float, str], ...]:
    """The colors `(a, b, hex)` of a lightness that sRGB can show, on a grid of multiples of `step`.

    Args:
        lightness: CIE L*, 0 to 100.
        step: of the grid, in CIE units.

    Raises:
        ValueError: a lightness outside 0 to 100, or a step outside 1 to 128.
    """
    if not 0 <= lightness <= LIGHTNESS_SCALE:
        raise ValueError(f"lightness is {lightness}; give 0 to 100")
    if not 1 <= step <= AB_SCALE:
        raise ValueError(f"step is {step}; give 1 to 128")
    most = int(AB_SCALE // step)
    side = torch.arange(-most, most + 1, dtype=torch.float64) * step
    a, b = (plane.reshape(-1) for plane in torch.meshgrid(side, side, indexing="ij"))
    rgb, kept = _converted(lightness / LIGHTNESS_SCALE, torch.stack((a, b), 1) / AB_SCALE)
    codes = [_hex(color) for color in to_uint8(rgb)[0, :, 0].T.tolist()]
    return tuple(
        entry
        for entry, is_shown in zip(zip(a.tolist(), b.tolist(), codes, strict=True), kept.tolist(), strict=True)
        if is_shown
    )


def shown(lightness: float, ab: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """Which colors (ab / 128) of a lightness (CIE L* / 100) a screen can show."""
    return _converted(lightness, ab)[1]


def _converted(lightness: float, ab: Float[Tensor, "n 2"]) -> tuple[Tensor, Bool[Tensor, " n"]]:
    """sRGB (1, 3, 1, n) of n colors, and whether each comes back from it."""
    planes = ab.T.reshape(1, 2, 1, -1)
    light = torch.full_like(planes[:, :1], lightness)
    rgb = lab_to_rgb(light, planes)
    back, back_ab = rgb_to_lab(rgb)
    apart = torch.cat([(back - light) * LIGHTNESS_SCALE, (back_ab - planes) * AB_SCALE], dim=1)
    return rgb, (apart.norm(dim=1) <= IN_GAMUT).flatten()


def ab_of(color: Any) -> tuple[float, float]:
    """The ab (CIE / 128) of a color: one of `hex` "#rrggbb", `rgb` 0 to 255, `lab` in CIE units.

    Args:
        color: a mapping with one of these keys, or an object with one of these attributes.

    Raises:
        ValueError: none of them, several, or a value out of range.
    """
    named = color if isinstance(color, Mapping) else vars(color)
    given = {name: named[name] for name in ("hex", "rgb", "lab") if named.get(name) is not None}
    if len(given) != 1:
        raise ValueError(f"the colour has {sorted(given) or 'none of hex, rgb, lab'}; give exactly one of them")
    ((name, value),) = given.items()
    if name == "lab":
        return _ab_of_lab(value)
    return _ab_of_rgb(tuple(_rgb_of_hex(value) if name == "hex" else value))


def hex_of(lightness: float | int, ab: tuple[float, float]) -> str:
    """A color (CIE L*, ab / 128) as "#rrggbb", clipped to what a screen shows."""
    light = torch.full((1, 1, 1, 1), lightness / LIGHTNESS_SCALE, dtype=torch.float64)
    rgb = lab_to_rgb(light, torch.tensor(ab, dtype=torch.float64).view(1, 2, 1, 1))
    return _hex(to_uint8(rgb).flatten().tolist())


def _ab_of_lab(lab: Any) -> tuple[float, float]:
    if len(lab) != 3 or not all(-AB_SCALE <= value <= AB_SCALE for value in lab[1:]):
        raise ValueError(f"lab is {list(lab)}; give [L, a, b] with a and b in -128 to 128")
    return float(lab[1]) / AB_SCALE, float(lab[2]) / AB_SCALE


@lru_cache(maxsize=4096)  # a client sends all of its clicks each time
def _ab_of_rgb(rgb: tuple[int | float, ...]) -> tuple[float, float]:
    if len(rgb) != 3 or not all(0 <= value <= 255 for value in rgb):
        raise ValueError(f"rgb is {list(rgb)}; give three numbers from 0 to 255")
    pixel = torch.tensor(list(rgb), dtype=torch.float64).view(1, 3, 1, 1) / 255
    a, b = rgb_to_lab(pixel)[1].flatten().tolist()
    return a, b


def _rgb_of_hex(text: str) -> list[int]:
    digits = text.removeprefix("#")
    if len(digits) != 6 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"hex is {text[:20]!r}; write it like #b5651d")
    return list(bytes.fromhex(digits))


def _hex(rgb: list[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
