"""Colors of a small photo for a large one whose lightness is known."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

RADIUS = 1
"""Of the windows in which ab is fitted to lightness, in small pixels; found on photos of the training set."""
EPSILON = 4e-3
"""Variance of lightness (L* / 100) below which a window counts as flat."""


class Upsampler:
    """Colors for any rows of the large photo, so that a photo of any size takes little memory.

    ab is fitted as a linear function of lightness around each pixel of the small photo. The result is bilinear,
    plus the enlarged slopes times what the small photo's lightness, enlarged in the same way, lacks of the large
    one's. Colors end where the lightness says that things end, and all else stays as it is. The guided filter's
    way, which applies the enlarged functions themselves, loses to it (`tests.benchmarks.evaluator.upsampling`).
    """

    def __init__(
        self, ab: Float[Tensor, "1 2 h w"], lightness_small: Float[Tensor, "1 1 h w"], size: tuple[int, int]
    ) -> None:
        """Prepare colors for a photo of `size` (height, width).

        Raises:
            ValueError: sizes of ab and lightness that differ.
        """
        if ab.shape[-2:] != lightness_small.shape[-2:]:
            sizes = f"{tuple(ab.shape[-2:])} and {tuple(lightness_small.shape[-2:])}"
            raise ValueError(f"ab and small lightness have sizes {sizes}; they must be one size")
        self._height = size[0]
        slopes, _ = linear_fit(ab, lightness_small, RADIUS, EPSILON)
        planes = torch.cat((ab, window_mean(slopes, RADIUS), lightness_small), dim=1)
        # Along the rows once for all; half the work of doing it after the other axis.
        row_size = (ab.shape[-2], size[1])
        self._planes = interpolate(planes, size=row_size, mode="bilinear", align_corners=False)

    def rows(self, lightness: Float[Tensor, "1 1 rows w"], first: int) -> Float[Tensor, "1 2 rows w"]:
        """The ab of the rows that begin at `first`, from their lightness."""
        planes = _rows_between(self._planes, first, lightness.shape[-2], self._height)
        offsets, slopes, enlarged = planes.split((2, 2, 1), dim=1)
        return offsets.addcmul_(slopes, lightness - enlarged).clamp_(-1, 1)


def upsample_ab(
    ab: Float[Tensor, "1 2 h w"],
    lightness_small: Float[Tensor, "1 1 h w"],
    lightness_large: Float[Tensor, "1 1 H W"],
) -> Float[Tensor, "1 2 H W"]:
    """Colors (CIE / 128) at the size of `lightness_large`; see `Upsampler`."""
    height, width = lightness_large.shape[-2:]
    return Upsampler(ab, lightness_small, (height, width)).rows(lightness_large, 0)


def linear_fit(
    ab: Float[Tensor, "1 2 h w"], lightness: Float[Tensor, "1 1 h w"], radius: int, epsilon: float
) -> tuple[Float[Tensor, "1 2 h w"], Float[Tensor, "1 2 h w"]]:
    """Slopes and offsets of ab as a linear function of lightness in the window around each pixel."""
    means = window_mean(torch.cat((lightness, ab, lightness.square(), ab * lightness), dim=1), radius)
    mean_l, mean_ab, mean_square, mean_product = means.split((1, 2, 1, 2), dim=1)
    variance = (mean_square - mean_l.square()).clamp_(min=0)
    slopes = (mean_product - mean_ab * mean_l) / (variance + epsilon)
    return slopes, mean_ab - slopes * mean_l


def window_mean(planes: Float[Tensor, "1 c h w"], radius: int) -> Float[Tensor, "1 c h w"]:
    """Over square windows, along columns and then along rows; sums of slices are quicker than a pooling here."""
    width = 2 * radius + 1
    for axis, frame in ((-2, (0, 0, radius, radius)), (-1, (radius, radius, 0, 0))):
        framed = pad(planes, frame, mode="replicate")
        total = framed.narrow(axis, 0, planes.shape[axis]).clone()
        for place in range(1, width):
            total += framed.narrow(axis, place, planes.shape[axis])
        planes = total.mul_(1 / width)
    return planes


def _rows_between(planes: Tensor, first: int, rows: int, height: int) -> Tensor:
    """Some rows of the linear enlargement of planes to `height`."""
    small = planes.shape[-2]
    place = (torch.arange(first, first + rows, dtype=torch.float64) + 0.5) * small / height - 0.5
    place = place.clamp(0, small - 1)
    above = place.floor().long()
    share = (place - above).to(planes.dtype)[:, None]
    below = (above + 1).clamp(max=small - 1)
    return planes.index_select(-2, above).lerp_(planes.index_select(-2, below), share)
