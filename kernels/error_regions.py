"""Errors of a colorization: error maps, wrong regions and their centers, target heat maps for EditNet.

Everything here is a constant for training: computed in float32 without gradient, elementwise, so that neither
autocast nor a GPU's TF32 setting changes a number.
"""

import math

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from kernels.clicks import check_some_pixel_is_free, masked_argmax
from kernels.color import AB_SCALE

BLUR_TRUNCATE = 4.0
"""Standard deviations at which `gaussian_blur` cuts its kernel off; scipy's default."""

WRONG_ERROR = 5.0
"""A pixel is never called wrong below this ab error, in CIE units."""

WRONG_PERCENTILE = 70.0
"""A pixel is called wrong only above this percentile of its photo's error."""


@torch.no_grad()
def error_map(
    predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"]
) -> Float32[Tensor, "b h w"]:
    """Euclidean distance between predicted and true ab at each pixel, in CIE units (ab is CIE / 128)."""
    a, b = (predicted_ab.float() - truth_ab.float()).unbind(1)
    return torch.hypot(a, b).mul_(AB_SCALE)


@torch.no_grad()
def distance_to_background(
    mask: Bool[Tensor, "b h w"], limit: int | None = None, *, border: bool = True
) -> Float32[Tensor, "b h w"]:
    """Exact Euclidean distance in pixels from each True pixel to the nearest False one; 0 at False pixels.

    Args:
        mask: the regions.
        limit: cap on the distance, for speed; at least 1. None measures any distance.
        border: whether the pixels around the image count as background. If they do not, the distance in an
            image without any False pixel is `limit`, or infinite without one.

    The time grows with the largest distance that occurs, not with the image's height.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1 pixel, or None")
    along_rows = _row_distance(mask, border=border).square_()
    if limit is not None:
        along_rows.clamp_(max=float(limit**2))
    return _across_rows(along_rows, border=border).sqrt_()


@torch.no_grad()
def gaussian_blur(values: Float[Tensor, "b h w"], sigma: float) -> Float32[Tensor, "b h w"]:
    """Gaussian blur with `sigma` pixels and reflected borders (d c b a | a b c d).

    The kernel is cut off at 4 sigma and normalised: `scipy.ndimage.gaussian_filter` with its defaults. The sum
    of each map is preserved. sigma = 0 returns the map.

    Raises:
        ValueError: sigma is negative or not finite.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; it must be a finite number of pixels, at least 0")
    values = values.float()
    radius = int(BLUR_TRUNCATE * sigma + 0.5)
    if radius == 0:
        return values
    bell = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = bell[0] + 2 * sum(bell[1:])
    weights = [weight / total for weight in bell]
    return _blur_along(_blur_along(values, weights, dim=1), weights, dim=2)


@torch.no_grad()
def error_target(
    error: Float[Tensor, "b h w"], clicked: Bool[Tensor, "b h w"], sigma: float
) -> Float32[Tensor, "b h w"]:
    """The paper's target heat map (section 3.2.2): the error map smoothed by `sigma` pixels, summing to 1.

    It is 0 at clicked pixels, and uniform over the others where the error is 0 everywhere.

    Raises:
        ValueError: a bad sigma, or a photo in which every pixel is clicked.
    """
    return _normalised(gaussian_blur(error, sigma), clicked)


@torch.no_grad()
def region_target(
    error: Float[Tensor, "b h w"],
    clicked: Bool[Tensor, "b h w"],
    *,
    inhibition: int = 3,
    sharpness: float = 4.0,
) -> Float32[Tensor, "b h w"]:
    """A target heat map with its mass at the centers of large wrong regions, summing to 1.

    The mass at a pixel is depth ** sharpness, depth being `region_depth`. A round region of radius R then holds
    mass in proportion to R ** (sharpness + 2): at the default a region 0.7 times as wide as the largest keeps
    12 % of its mass, half as wide 1.6 %, and half of a region's mass lies within 0.26 R of its center. It is 0
    at clicked pixels, and uniform over the others where nothing is wrong outside the inhibited discs.

    Args:
        error: ab error in CIE units, from `error_map`.
        clicked: earlier clicks.
        inhibition: radius in pixels around earlier clicks that counts as not wrong; 0 is the click alone.
        sharpness: above 0; a larger one concentrates the mass in the largest region's center.

    Raises:
        ValueError: sharpness or inhibition out of range, or a photo in which every pixel is clicked.
    """
    if not 0 < sharpness < math.inf:
        raise ValueError(f"sharpness is {sharpness}; it must be finite and above 0")
    depth = region_depth(error, clicked, inhibition=inhibition)
    # Divided by its maximum first: a power of a large depth would lose the others in float32.
    return _normalised(_relative(depth).pow_(sharpness), clicked)


@torch.no_grad()
def region_center(
    error: Float[Tensor, "b h w"], clicked: Bool[Tensor, "b h w"], *, inhibition: int = 3
) -> Int64[Tensor, " b"]:
    """Flat index of the unclicked pixel deepest inside a wrong region: the simulated user's next click.

    Ties go to the first. In a photo where nothing is wrong outside the inhibited discs it is the unclicked pixel
    farthest from all earlier clicks and from the border.

    Raises:
        ValueError: inhibition is negative, or every pixel of some photo is clicked.
    """
    depth = region_depth(error, clicked, inhibition=inhibition)
    nothing_wrong = depth.amax(dim=(1, 2)) == 0
    if nothing_wrong.any():
        depth[nothing_wrong] = distance_to_background(~clicked[nothing_wrong])
    return masked_argmax(depth, clicked)


@torch.no_grad()
def region_depth(
    error: Float[Tensor, "b h w"], clicked: Bool[Tensor, "b h w"], *, inhibition: int = 3
) -> Float32[Tensor, "b h w"]:
    """Depth inside a wrong region: distance in pixels to the nearest pixel that is not wrong.

    Wrong is an error above 5 CIE units and above the 70th percentile of the photo's error, outside the discs of
    radius `inhibition` around earlier clicks. Outside of the image nothing is wrong.

    Raises:
        ValueError: inhibition is negative.
    """
    if inhibition < 0:
        raise ValueError(f"inhibition is {inhibition}; it must be at least 0 pixels")
    error = error.float()
    flat = error.flatten(1)
    rank = math.ceil(flat.shape[1] * WRONG_PERCENTILE / 100)
    threshold = flat.kthvalue(rank, dim=1).values.clamp(min=WRONG_ERROR)
    from_clicks = distance_to_background(~clicked, limit=inhibition + 1, border=False)
    return distance_to_background((error > threshold[:, None, None]) & (from_clicks > inhibition))


def _row_distance(mask: Tensor, *, border: bool) -> Tensor:
    """Distance to the nearest False pixel of the same row; infinite in a row without one."""
    width = mask.shape[-1]
    column = torch.arange(width, device=mask.device, dtype=torch.float32)
    background = torch.where(mask, -math.inf if not border else -1.0, column)
    before = column - background.cummax(dim=-1).values
    background = torch.where(mask, math.inf if not border else float(width), column)
    after = background.flip(-1).cummin(dim=-1).values.flip(-1) - column
    return torch.minimum(before, after)


def _across_rows(along_rows: Tensor, *, border: bool) -> Tensor:
    """Squared distance over all rows: the minimum over row offsets k of the row's squared distance plus k^2."""
    height = along_rows.shape[-2]
    squared = along_rows.clone()
    if border:
        row = torch.arange(height, device=squared.device, dtype=torch.float32)
        outside = torch.minimum(row + 1, height - row).square_()
        squared = torch.minimum(squared, outside[:, None])
    largest = math.inf
    for offset in range(1, height):
        # An offset of k gives at least k^2, which helps nobody once every distance is smaller. Reading the
        # largest makes a GPU wait, hence only at powers of two.
        if offset & (offset - 1) == 0:
            largest = float(squared.max())
        if offset**2 >= largest:
            break
        candidate = along_rows + float(offset**2)
        for target, source in (
            (squared[:, offset:], candidate[:, :-offset]),
            (squared[:, :-offset], candidate[:, offset:]),
        ):
            torch.minimum(target, source, out=target)
    return squared


def _blur_along(values: Tensor, weights: list[float], dim: int) -> Tensor:
    """Convolve with a symmetric kernel, given as its center and one side."""
    size, radius = values.shape[dim], len(weights) - 1
    position = torch.arange(-radius, size + radius, device=values.device) % (2 * size)
    padded = values.index_select(dim, torch.minimum(position, 2 * size - 1 - position))
    blurred = values * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        blurred.add_(padded.narrow(dim, radius - offset, size), alpha=weight)
        blurred.add_(padded.narrow(dim, radius + offset, size), alpha=weight)
    return blurred


def _relative(values: Tensor) -> Tensor:
    """Each photo's map divided by its maximum; an all-zero map stays zero."""
    return values / values.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _normalised(values: Tensor, clicked: Tensor) -> Tensor:
    """Zero at clicked pixels and sum 1; uniform over the unclicked pixels where there is no mass at all."""
    check_some_pixel_is_free(clicked)
    free = ~clicked
    mass = _relative(values * free)
    total = mass.sum(dim=(1, 2), keepdim=True)
    uniform = free / free.sum(dim=(1, 2), keepdim=True)
    # A maximum below float32's normal range makes a total below 1: as good as no mass.
    return torch.where(total >= 1, mass / total.clamp(min=1.0), uniform)
