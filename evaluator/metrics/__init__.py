"""Registry of the metrics: inputs, requirements, unit and wording of each, by name.

A value belongs to one photo and depends on that photo alone, not on the batch around it; every published number
is a mean of per-photo values. Where a value is undefined it is NaN (`click_distance` of one click, `bleeding` in a
photo without strong edges), and the mean is over the other photos.

Zero error. A photo without any error has infinite PSNR, and that is what is measured and stored. A mean over
photos must stay finite, so there, and only there, such a photo counts as `EXACT_DB` = 100 dB (`Metric.ceiling`)
and is counted as exact beside the mean. 100 dB is a root mean square error of 0.003 CIE units on ab and of 0.003
grey levels on RGB, a hundred times less than rounding to uint8 leaves, so no other value moves. A cap at 50 dB, as
some benchmarks have, would move means; leaving exact photos out would punish the policy that got them right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evaluator.metrics import perceptual
from evaluator.metrics.base import Comparison
from evaluator.metrics.bleeding import BLEEDING_SIDE, bleeding, strong_edges
from evaluator.metrics.clicks import click_crowding, click_distance, hint_error, locality, worse_clicks
from evaluator.metrics.color import colourfulness, delta_e
from evaluator.metrics.psnr_ssim import AB_RANGE, RGB_RANGE, SSIM_SIDE, ab_psnr, rgb_psnr, ssim, window_moments

EXACT_DB = 100.0
"""What an infinite PSNR, or any above it, counts as in a mean over photos."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric with its requirements, unit and wording."""

    label: str
    scale: str
    """The range of values that the number assumes, or what it refers to; published beside every number."""
    unit: str
    """Empty for a pure number."""
    decimals: int
    about: str
    """One sentence for a reader of tables."""
    per_photo: Callable[[Comparison], Tensor]
    """One value per photo of a handful, (b,) float64; `measure` takes batches of any size."""
    higher_is_better: bool | None = True
    """None: neither is; the number describes, and nobody wins by it."""
    ceiling: float = math.inf
    """What a larger value counts as in a mean over photos."""
    group: Literal["quality", "clicks"] = "quality"
    """Whether it judges the colors, or what clicks do and where they fall."""
    smallest: int = 1
    """Smallest side of a photo, in pixels; `measure` raises a ValueError below it."""
    needs_clicks: bool = False
    """Whether it looks at `clicks` and `positions`, and is NaN without clicks."""
    needs_previous: bool = False
    """Whether it looks at `previous_ab`, which may cost a call of the colorizer."""
    unavailable: Callable[[], str | None] = lambda: None
    """Why it cannot be measured on this machine, None if it can."""

    @property
    def title(self) -> str:
        """Label, unit and range, for axes and headings."""
        return f"{self.label} ({', '.join(part for part in (self.unit, self.scale) if part)})"

    def measure(self, at: Comparison) -> Tensor:
        """One value per photo, (B,) float64 on the comparison's device.

        Raises:
            ValueError: the photos are too small, or something that the metric needs was not given.
            WeightsUnavailable: see `unavailable`.
        """
        return torch.cat([self.per_photo(part) for part in at.parts])


def unavailable(name: str) -> str | None:
    """Why a metric of `METRICS` cannot be measured on this machine, None if it can."""
    return METRICS[name].unavailable()


def _ab_ssim(at: Comparison) -> Tensor:
    moments = at.of_truth("ab moments", lambda: window_moments(at.truth_ab))
    return ssim(at.predicted_ab, at.truth_ab, AB_RANGE, moments)


def _rgb_ssim(at: Comparison) -> Tensor:
    truth = at.truth_rgb.float()
    moments = at.of_truth("rgb moments", lambda: window_moments(truth))
    return ssim(at.predicted_rgb.float(), truth, RGB_RANGE, moments)


def _lpips(at: Comparison) -> Tensor:
    of_truth = at.of_truth("lpips", lambda: perceptual.features(at.truth_rgb))
    return perceptual.lpips_distance(at.predicted_rgb, at.truth_rgb, of_truth)


def _colorfulness_gap(at: Comparison) -> Tensor:
    return colourfulness(at.predicted_rgb) - at.of_truth("colourfulness", lambda: colourfulness(at.truth_rgb))


def _hint_error(at: Comparison) -> Tensor:
    return hint_error(at.predicted_ab, at.needed("clicks"), at.needed("positions"))


def _bleeding(at: Comparison) -> Tensor:
    return bleeding(at.predicted_ab, at.truth_ab, at.of_truth("edges", lambda: strong_edges(at.truth_ab)))


METRICS: dict[str, Metric] = {
    "ab_psnr": Metric(
        label="ab PSNR",
        scale="range 2",
        unit="dB",
        decimals=2,
        about="Peak signal to noise ratio of the colours alone (ab / 128); the thesis' first metric.",
        per_photo=lambda at: ab_psnr(at.predicted_ab, at.truth_ab),
        ceiling=EXACT_DB,
    ),
    "ab_ssim": Metric(
        label="ab SSIM",
        scale="range 2",
        unit="",
        decimals=4,
        about="Structural similarity of the colours alone (ab / 128), at most 1; the thesis' second metric.",
        per_photo=_ab_ssim,
        smallest=SSIM_SIDE,
    ),
    "rgb_psnr": Metric(
        label="RGB PSNR",
        scale="uint8",
        unit="dB",
        decimals=2,
        about="Peak signal to noise ratio of the picture as it is shown.",
        per_photo=lambda at: rgb_psnr(at.predicted_rgb, at.truth_rgb),
        ceiling=EXACT_DB,
    ),
    "rgb_ssim": Metric(
        label="RGB SSIM",
        scale="uint8",
        unit="",
        decimals=4,
        about="Structural similarity of the picture as it is shown, at most 1; lightness is given, so it is high.",
        per_photo=_rgb_ssim,
        smallest=SSIM_SIDE,
    ),
    "lpips": Metric(
        label="LPIPS",
        scale="AlexNet, sRGB in [-1, 1]",
        unit="",
        decimals=4,
        about="Distance of AlexNet's features, trained on people's judgements; 0 is equality.",
        per_photo=_lpips,
        higher_is_better=False,
        smallest=perceptual.LPIPS_SIDE,
        unavailable=perceptual.unavailable,
    ),
    "delta_e": Metric(
        label="Delta E 2000",
        scale="uint8 sRGB, mean over pixels",
        unit="",
        decimals=2,
        about="How different colours look, pixel by pixel; about 1 is just visible, 100 is black against white.",
        per_photo=lambda at: delta_e(at.predicted_rgb, at.lightness, at.truth_ab),
        higher_is_better=False,
    ),
    "colourfulness": Metric(
        label="Colourfulness",
        scale="Hasler and Suesstrunk, uint8 sRGB",
        unit="",
        decimals=1,
        about="Spread and strength of the colours; 0 is grey, 109 extremely colourful. More is not better.",
        per_photo=lambda at: colourfulness(at.predicted_rgb),
        higher_is_better=None,
    ),
    "colourfulness_gap": Metric(
        label="Colourfulness gap",
        scale="colouring minus photo, uint8 sRGB",
        unit="",
        decimals=1,
        about="Colourfulness of the colouring minus that of the photo: below 0 is too pale, above 0 too strong.",
        per_photo=_colorfulness_gap,
        higher_is_better=None,
    ),
    "bleeding": Metric(
        label="Bleeding",
        scale="share of the true step, 2 px against 8 px from the edge",
        unit="",
        decimals=3,
        about="Colour smeared over strong edges: 0 is as sharp as the photo, towards 1 no step at the edge.",
        per_photo=_bleeding,
        higher_is_better=False,
        smallest=BLEEDING_SIDE,
    ),
    "hint_error": Metric(
        label="Hint error",
        scale="CIE76 on ab, mean over clicks",
        unit="CIE units",
        decimals=2,
        about="How far the colour at a clicked pixel is from the one that was asked for; 0 keeps every colour.",
        per_photo=_hint_error,
        higher_is_better=False,
        group="clicks",
        needs_clicks=True,
    ),
    "locality": Metric(
        label="Change far away",
        scale="ab, beyond 25 % of the diagonal",
        unit="CIE units",
        decimals=3,
        about="How much the newest click changed colours far from itself; smaller is more local.",
        per_photo=lambda at: locality(at.predicted_ab, at.previous_ab, at.needed("positions")),
        higher_is_better=False,
        group="clicks",
        needs_clicks=True,
        needs_previous=True,
    ),
    "worse_clicks": Metric(
        label="Clicks that make it worse",
        scale="share, by mean squared error of ab",
        unit="",
        decimals=3,
        about="Share of photos whose error the newest click raised; 0 is a click that never does harm.",
        per_photo=lambda at: worse_clicks(at.predicted_ab, at.previous_ab, at.truth_ab, at.needed("positions")),
        higher_is_better=False,
        group="clicks",
        needs_clicks=True,
        needs_previous=True,
    ),
    "click_distance": Metric(
        label="Click distance",
        scale="share of the diagonal",
        unit="",
        decimals=4,
        about="Mean distance from a click to the nearest other one.",
        per_photo=lambda at: click_distance(at.needed("positions"), *at.truth_ab.shape[-2:]),
        higher_is_better=None,
        group="clicks",
        needs_clicks=True,
    ),
    "click_crowding": Metric(
        label="Crowded clicks",
        scale="within 3 % of the diagonal",
        unit="",
        decimals=3,
        about="Share of clicks close to an earlier one: 0 is spread out, 1 is all on one spot (a collapse).",
        per_photo=lambda at: click_crowding(at.needed("positions"), *at.truth_ab.shape[-2:]),
        higher_is_better=False,
        group="clicks",
        needs_clicks=True,
    ),
}
"""Every metric by the name it has in results, rows and trackers."""

DEFAULT = ("ab_psnr", "ab_ssim", "rgb_psnr")
"""What is measured unless more is asked for: validation during training."""
