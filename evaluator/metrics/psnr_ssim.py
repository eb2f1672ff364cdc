"""PSNR and SSIM: one number per photo, in float64, never per batch.

PSNR moves by 6 dB with the range that is assumed and by 2.6 dB with how photos are averaged, so both are
fixed here: ab PSNR has range 2 (ab / 128 lies in [-1, 1]), RGB PSNR has peak 255 (uint8), and every mean is a
mean of per-photo values.

SSIM is that of Wang et al. 2004: Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population
covariance, the mean over channels. Only windows that lie wholly inside the photo count, that is, 5 pixels at
each border are cropped, as `skimage.metrics.structural_similarity` does; torchmetrics averages over reflected
borders too. It lies in [-1, 1]; 1 is equality.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from evaluator.metrics.base import at_least_float32, photo_mean, require_side

AB_RANGE = 2.0
"""Width of the interval [-1, 1] in which ab / 128 lies."""

RGB_RANGE = 255.0
"""Width of the interval 0..255 of uint8 RGB."""

_WINDOW_RADIUS = 5
_WINDOW_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03

SSIM_SIDE = 2 * _WINDOW_RADIUS + 1
"""Smallest side of a photo that has an SSIM, in pixels."""


def ab_psnr(predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"]) -> Float64[Tensor, " b"]:
    """PSNR on ab in dB with range 2, one per photo; the mean square is over both channels and all pixels.

    Infinite for a photo without any error. Half precision is compared in float32.
    """
    error = at_least_float32(predicted_ab) - at_least_float32(truth_ab)
    return _psnr(photo_mean(error.square()), AB_RANGE)


def rgb_psnr(
    predicted_rgb: UInt8[Tensor, "b 3 h w"], truth_rgb: UInt8[Tensor, "b 3 h w"]
) -> Float64[Tensor, " b"]:
    """PSNR on uint8 RGB in dB with peak 255, one per photo; the mean square is over channels and pixels.

    The truth is the original photo, the prediction `lab_to_rgb(lightness, predicted_ab)` rounded. Infinite
    for a photo without any error. The sum of squares is exact (integers).
    """
    error = predicted_rgb.int() - truth_rgb.int()
    return _psnr(photo_mean(error.square()), RGB_RANGE)


def ab_ssim(predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"]) -> Float64[Tensor, " b"]:
    """Multi-channel SSIM on ab with range 2 (thesis, section 3.5), one per photo: the mean over a and b.

    Raises:
        ValueError: the photo is smaller than the window.
    """
    return ssim(predicted_ab, truth_ab, AB_RANGE)


def rgb_ssim(
    predicted_rgb: UInt8[Tensor, "b 3 h w"], truth_rgb: UInt8[Tensor, "b 3 h w"]
) -> Float64[Tensor, " b"]:
    """Multi-channel SSIM on uint8 RGB with range 255, one per photo: the mean over R, G and B.

    Raises:
        ValueError: the photo is smaller than the window.
    """
    return ssim(predicted_rgb.float(), truth_rgb.float(), RGB_RANGE)


class Moments(NamedTuple):
    """An image minus `center`, with its mean and variance in each window."""

    values: Tensor
    """(b,c,h,w)."""
    center: Tensor
    """(b,c,1,1)."""
    mean: Tensor
    """(b, c, h - 10, w - 10), as is the variance."""
    variance: Tensor


def window_moments(image: Float[Tensor, "b c h w"], center: Float[Tensor, "b c 1 1"] | None = None) -> Moments:
    """Gaussian-weighted mean and population variance in each window that lies inside the photo.

    Args:
        image: half precision is taken as float32.
        center: where to count values from, so that a variance is not a small difference of large squares: 1e-4 of
            SSIM in a bright sky. None for each channel's mean.

    Raises:
        ValueError: the photo is smaller than the window.
    """
    require_side("SSIM", image, SSIM_SIDE)
    image = at_least_float32(image)
    center = image.mean((2, 3), keepdim=True) if center is None else center
    values = image - center
    mean = _window_means(values)
    return Moments(values, center, mean, _window_means(values.square()).addcmul_(mean, mean, value=-1))


def ssim(
    predicted: Float[Tensor, "b c h w"],
    truth: Float[Tensor, "b c h w"],
    value_range: float,
    of_truth: Moments | None = None,
) -> Float64[Tensor, " b"]:
    """SSIM of images with values in an interval of width `value_range`, the mean over channels and windows.

    Args:
        predicted: half precision is compared in float32.
        truth: the photo.
        value_range: L of the formula.
        of_truth: `window_moments(truth)`, where they are known already.

    Raises:
        ValueError: the photo is smaller than the window.
    """
    y = of_truth or window_moments(truth)
    x = window_moments(predicted, y.center)
    covariance = _window_means(x.values * y.values).addcmul_(x.mean, y.mean, value=-1)
    x_mean, y_mean = x.mean + y.center, y.mean + y.center
    # C1 and C2 keep the quotients finite where a photo is flat.
    c1, c2 = (_K1 * value_range) ** 2, (_K2 * value_range) ** 2
    luminance = (2 * x_mean * y_mean + c1) / (x_mean.square() + y_mean.square() + c1)
    structure = (2 * covariance + c2) / (x.variance + y.variance + c2)
    return photo_mean(luminance * structure)


def _psnr(mean_square: Tensor, value_range: float) -> Tensor:
    return 10.0 * torch.log10(value_range**2 / mean_square)


def _window_means(x: Tensor) -> Tensor:
    """Gaussian-weighted means over the windows inside the photo: (..., H, W) to (..., H - 10, W - 10).

    Eleven shifted sums per axis instead of a convolution, which a GPU would do in TF32: its relative error of
    1e-3 is as large as the variances that are differences of these means. As quick as a convolution on a CPU.
    """
    weights = [math.exp(-0.5 * (k / _WINDOW_SIGMA) ** 2) for k in range(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1)]
    weights = [weight / sum(weights) for weight in weights]
    for axis in (-1, -2):
        inside = x.shape[axis] - 2 * _WINDOW_RADIUS
        total = x.narrow(axis, 0, inside) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            total.add_(x.narrow(axis, shift, inside), alpha=weight)
        x = total
    return x
