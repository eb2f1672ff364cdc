"""How close a coloured photo is to the original: one number per photo, never per batch.

PSNR moves by 6 dB with the range that is assumed and by 2.6 dB with how photos are averaged, so both are
fixed here: ab PSNR has range 2 (ab / 128 lies in [-1, 1]), RGB PSNR has peak 255 (uint8), and every mean is a
mean of per-photo values.

Zero error. A photo without any error has infinite PSNR, and the functions below return exactly that: they cap
nothing. A mean over photos must stay finite, so there, and only there, such a photo counts as `EXACT_DB` =
100 dB (`Metric.ceiling`) and is counted as exact beside the mean. 100 dB is a root mean square error of 0.003
CIE units on ab and of 0.003 grey levels on RGB, a hundred times less than rounding to uint8 leaves, so no
other value moves. A cap at 50 dB, as some benchmarks have, would move means; leaving exact photos out would
punish the policy that got them right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from kernels.color import lab_to_rgb, to_uint8

AB_RANGE = 2.0
"""Width of the interval [-1, 1] in which ab / 128 lies."""

RGB_RANGE = 255.0
"""Width of the interval 0..255 of uint8 RGB."""

EXACT_DB = 100.0
"""What an infinite PSNR, or any above it, counts as in a mean over photos."""

_WINDOW_RADIUS = 5
_WINDOW_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def ab_psnr(predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, " b"]:
    """PSNR on ab in dB with range 2, one per photo; the mean square is over both channels and all pixels.

    Infinite for a photo without any error. float64 stays float64, everything else is computed in float32.
    """
    error = _at_least_float32(predicted_ab) - _at_least_float32(truth_ab)
    return _psnr(error.square().flatten(1).mean(1), AB_RANGE)


def rgb_psnr(predicted_rgb: UInt8[Tensor, "b 3 h w"], truth_rgb: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """PSNR on uint8 RGB in dB with peak 255, one per photo; the mean square is over channels and pixels.

    The truth is the original photo, the prediction `lab_to_rgb(lightness, predicted_ab)` rounded. Infinite
    for a photo without any error. The sum of squares is exact (integers).
    """
    error = predicted_rgb.int() - truth_rgb.int()
    total = error.square().flatten(1).sum(1, dtype=torch.int64)
    return _psnr(total.double() / math.prod(error.shape[1:]), RGB_RANGE).float()


def ab_ssim(predicted_ab: Float[Tensor, "b 2 h w"], truth_ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, " b"]:
    """Multi-channel SSIM on ab with range 2 (thesis, section 3.5), one per photo: the mean over a and b.

    Wang et al. 2004: Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance.
    Only windows that lie wholly inside the photo count, that is, 5 pixels at each border are cropped, as
    `skimage.metrics.structural_similarity` does; torchmetrics averages over reflected borders too. float64
    stays float64, everything else is computed in float32.

    Raises:
        ValueError: the photo is smaller than the window.
    """
    side = 2 * _WINDOW_RADIUS + 1
    if min(predicted_ab.shape[-2:]) < side:
        height, width = predicted_ab.shape[-2:]
        raise ValueError(f"a photo of {height} x {width} pixels; SSIM needs at least {side} x {side}")
    x, y = _at_least_float32(predicted_ab), _at_least_float32(truth_ab)
    mean_x, mean_y, square_x, square_y, product = _window_means(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    # Variances and the covariance; C1, C2 keep the quotients finite where a photo is flat.
    var_x, var_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    covariance = product - mean_x * mean_y
    c1, c2 = (_K1 * AB_RANGE) ** 2, (_K2 * AB_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A batch of predictions beside the truth: what every metric is computed from."""

    lightness: Float[Tensor, "b 1 h w"]
    predicted_ab: Float[Tensor, "b 2 h w"]
    truth_ab: Float[Tensor, "b 2 h w"]
    truth_rgb: UInt8[Tensor, "b 3 h w"]
    """The original photo, not its round trip through Lab."""
    clicks: Float[Tensor, "b 3 h w"] | None = None
    """The click map that was given to the colorizer."""
    positions: Int64[Tensor, "b placed"] | None = None
    """Flat index row * width + col of each click, in the order in which they were placed."""
    previous_ab: Float[Tensor, "b 2 h w"] | None = None
    """The colours just before the newest click; only there for a metric that `needs_previous`."""

    @cached_property
    def predicted_rgb(self) -> UInt8[Tensor, "b 3 h w"]:
        """The coloured photo, clipped to sRGB and rounded."""
        return to_uint8(lab_to_rgb(self.lightness, self.predicted_ab))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and how to write it down."""

    label: str
    scale: str
    """The range of values that the number assumes; published beside every number."""
    unit: str
    """Empty for a pure number."""
    decimals: int
    measure: Callable[[Comparison], Tensor]
    """One value per photo, (B,)."""
    higher_is_better: bool = True
    ceiling: float = math.inf
    """What a larger value counts as in a mean over photos."""
    needs_previous: bool = False
    """Whether it looks at `Comparison.previous_ab`, which may cost one more call of the colorizer per budget."""

    @property
    def title(self) -> str:
        """For axes and headings: label, unit and range."""
        return f"{self.label} ({', '.join(part for part in (self.unit, self.scale) if part)})"


METRICS: dict[str, Metric] = {
    "ab_psnr": Metric(
        label="ab PSNR",
        scale="range 2",
        unit="dB",
        decimals=2,
        ceiling=EXACT_DB,
        measure=lambda at: ab_psnr(at.predicted_ab, at.truth_ab),
    ),
    "ab_ssim": Metric(
        label="ab SSIM",
        scale="range 2",
        unit="",
        decimals=4,
        measure=lambda at: ab_ssim(at.predicted_ab, at.truth_ab),
    ),
    "rgb_psnr": Metric(
        label="RGB PSNR",
        scale="uint8",
        unit="dB",
        decimals=2,
        ceiling=EXACT_DB,
        measure=lambda at: rgb_psnr(at.predicted_rgb, at.truth_rgb),
    ),
}
"""Every metric by the name it has in results, rows and trackers."""


def _psnr(mean_square: Tensor, value_range: float) -> Tensor:
    return 10.0 * torch.log10(value_range**2 / mean_square)


def _at_least_float32(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


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
