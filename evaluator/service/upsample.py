"""Colours of a small photo for a large one whose lightness is known."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

Method = Literal["guided", "bilinear"]
RADIUS, EPSILON = 2, 1e-3


class Upsampler:
    """Colours for any rows of the large photo, so that a photo of any size takes little memory.

    Guided: the fast guided filter (He and Sun 2015, "Fast Guided Filter", arXiv 1505.00996). Around each pixel of
    the small photo ab is fitted as a linear function of lightness; the functions are averaged, enlarged, and
    applied to the large photo's lightness, so that colours end where the lightness says that things end.
    """

    def __init__(
        self,
        ab: Float[Tensor, "1 2 h w"],
        lightness_small: Float[Tensor, "1 1 h w"],
        size: tuple[int, int],
        method: Method = "guided",
    ) -> None:
        """Prepare colours for a photo of `size` (height, width).

        Raises:
            ValueError: an unknown method, or sizes of ab and lightness that differ.
        """
        if method not in get_args(Method):
            raise ValueError(f"method is {method!r}; take one of {', '.join(get_args(Method))}")
        if ab.shape[-2:] != lightness_small.shape[-2:]:
            sizes = f"{tuple(ab.shape[-2:])} and {tuple(lightness_small.shape[-2:])}"
            raise ValueError(f"ab and small lightness have sizes {sizes}; they must be one size")
        self._size, self._guided = size, method == "guided"
        self._planes = _linear_functions(ab, lightness_small) if self._guided else ab

    def rows(self, lightness: Float[Tensor, "1 1 rows width"], first: int) -> Float[Tensor, "1 2 rows width"]:
        """The ab of the rows that begin at `first`, from their lightness."""
        planes = _enlarged_rows(self._planes, first, lightness.shape[-2], self._size)
        if not self._guided:
            return planes
        return torch.addcmul(planes[:, 2:], planes[:, :2], lightness).clamp_(-1, 1)


def upsample_ab(
    ab: Float[Tensor, "1 2 h w"],
    lightness_small: Float[Tensor, "1 1 h w"],
    lightness_large: Float[Tensor, "1 1 H W"],
    method: Method = "guided",
) -> Float[Tensor, "1 2 H W"]:
    """Colours (CIE / 128) at the size of `lightness_large`; see `Upsampler`."""
    height, width = lightness_large.shape[-2:]
    return Upsampler(ab, lightness_small, (height, width), method).rows(lightness_large, 0)


def _linear_functions(ab: Tensor, lightness: Tensor) -> Float[Tensor, "1 4 h w"]:
    """Two slopes and two offsets at each small pixel."""
    mean_l, mean_ab = _mean(lightness), _mean(ab)
    variance = _mean(lightness.square()) - mean_l.square()
    slopes = (_mean(ab * lightness) - mean_ab * mean_l) / (variance + EPSILON)
    return _mean(torch.cat((slopes, mean_ab - slopes * mean_l), dim=1))


def _mean(planes: Tensor) -> Tensor:
    """Over windows of 2 * `RADIUS` + 1 pixels."""
    framed = pad(planes, (RADIUS,) * 4, mode="replicate")
    return avg_pool2d(framed, 2 * RADIUS + 1, stride=1)


def _enlarged_rows(planes: Tensor, first: int, rows: int, size: tuple[int, int]) -> Tensor:
    """Some rows of the bilinear enlargement of planes to `size`."""
    small = planes.shape[-2]
    place = (torch.arange(first, first + rows, dtype=torch.float64) + 0.5) * small / size[0] - 0.5
    place = place.clamp(0, small - 1)
    above = place.floor().long()
    share = (place - above).to(planes.dtype)[:, None]
    lines = torch.lerp(planes[..., above, :], planes[..., (above + 1).clamp(max=small - 1), :], share)
    return interpolate(lines, size=(rows, size[1]), mode="bilinear", align_corners=False)
