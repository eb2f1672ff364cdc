"""Colours of a small photo for a large one whose lightness is known."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

Method = Literal["detail", "guided", "bilinear"]
RADIUS = {"detail": 1, "guided": 2}
"""Of the windows in which ab is fitted to lightness, in small pixels; found on photos of the training set."""
EPSILON = {"detail": 4e-3, "guided": 1e-3}
"""Variance of lightness (L* / 100) below which a window counts as flat."""


class Upsampler:
    """Colours for any rows of the large photo, so that a photo of any size takes little memory.

    `bilinear`: as it says. The others fit ab as a linear function of lightness around each pixel of the small
    photo.

    `guided`: the fast guided filter (He and Sun 2015, "Fast Guided Filter", arXiv 1505.00996): the functions are
    averaged, enlarged, and applied to the large photo's lightness. What ab does within a window and lightness does
    not is lost, which costs more than the sharper edges are worth (`tests.benchmarks.evaluator.upsampling`).

    `detail`: bilinear, plus the enlarged slopes times what the small photo's lightness, enlarged in the same way,
    lacks of the large one's. Colours end where the lightness says that things end, and all else stays as it is.
    """

    def __init__(
        self,
        ab: Float[Tensor, "1 2 h w"],
        lightness_small: Float[Tensor, "1 1 h w"],
        size: tuple[int, int],
        method: Method = "detail",
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
        self._size, self._method = size, method
        # Along the rows once for all; half the work of doing it after the other axis.
        self._planes = interpolate(
            _planes(ab, lightness_small, method),
            size=(ab.shape[-2], size[1]),
            mode="bilinear",
            align_corners=False,
        )

    def rows(self, lightness: Float[Tensor, "1 1 rows w"], first: int) -> Float[Tensor, "1 2 rows w"]:
        """The ab of the rows that begin at `first`, from their lightness."""
        planes = _rows_between(self._planes, first, lightness.shape[-2], self._size[0])
        if self._method == "bilinear":
            return planes
        offsets, slopes = planes[:, :2], planes[:, 2:4]
        guide = lightness - planes[:, 4:] if self._method == "detail" else lightness
        return offsets.addcmul_(slopes, guide).clamp_(-1, 1)


def upsample_ab(
    ab: Float[Tensor, "1 2 h w"],
    lightness_small: Float[Tensor, "1 1 h w"],
    lightness_large: Float[Tensor, "1 1 H W"],
    method: Method = "detail",
) -> Float[Tensor, "1 2 H W"]:
    """Colours (CIE / 128) at the size of `lightness_large`; see `Upsampler`."""
    height, width = lightness_large.shape[-2:]
    return Upsampler(ab, lightness_small, (height, width), method).rows(lightness_large, 0)


def _planes(ab: Tensor, lightness: Tensor, method: Method) -> Float[Tensor, "1 planes h w"]:
    """What is enlarged: two offsets, then two slopes, then lightness, as far as the method needs them."""
    if method == "bilinear":
        return ab
    radius = RADIUS[method]
    means = _mean(torch.cat((lightness, ab, lightness.square(), ab * lightness), dim=1), radius)
    mean_l, mean_ab, mean_square, mean_product = means.split((1, 2, 1, 2), dim=1)
    variance = (mean_square - mean_l.square()).clamp_(min=0)
    slopes = (mean_product - mean_ab * mean_l) / (variance + EPSILON[method])
    if method == "guided":
        return _mean(torch.cat((mean_ab - slopes * mean_l, slopes), dim=1), radius)
    return torch.cat((ab, _mean(slopes, radius), lightness), dim=1)


def _mean(planes: Tensor, radius: int) -> Tensor:
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
