"""Networks by formula: a colorizer that spreads clicks, and a guide that looks for detail away from them."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from evaluator.registry.contract import pad_to_multiple


def spread(lightness: Tensor, clicks: Tensor) -> Tensor:
    """Each pixel takes the clicked colors around it; far from all clicks a warm tint by lightness.

    (B,1,h,w) and (B,3,h,w) -> (B,2,h,w) in [-1, 1]. Quick, of any size, and the same in any batch.
    """
    near = _blur(torch.cat([clicks[:, :1], clicks[:, :1] * clicks[:, 1:]], dim=1))
    tint = torch.cat([0.05 * (1 - lightness), 0.15 * lightness - 0.05], dim=1)
    return ((near[:, 1:] + 0.002 * tint) / (near[:, :1] + 0.002)).clamp(-1, 1)


def detail(lightness: Tensor, predicted_ab: Tensor, clicks: Tensor, truth_ab: Tensor | None = None) -> Tensor:
    """Scores (B,h,w): high where the lightness differs from its surroundings and no click is near."""
    return (20 * (lightness - _blur(lightness)).abs() - 50 * _blur(clicks[:, :1]))[:, 0]


class Split:
    """`spread` as a split colorizer: photos are embedded, and colors near the predicted one are likely."""

    source = "split by formula"
    bins = torch.cartesian_prod(*2 * [torch.arange(-60.0, 61.0, 10.0)]) / 128

    def __init__(self) -> None:
        self.embedded = self.colored = 0

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.color(self.embed(lightness), lightness, clicks)[0]

    def embed(self, lightness: Tensor) -> tuple[Tensor, ...]:
        self.embedded += 1
        return lightness, lightness.new_zeros(1)

    def color(self, embedding: Sequence[Tensor], lightness: Tensor, clicks: Tensor) -> tuple[Tensor, Tensor]:
        """Features: mean ab, entropy and spread of each cell of 4 x 4 pixels of the photo padded to 32."""
        self.colored += 1
        assert torch.equal(embedding[0], lightness)
        ab = spread(lightness, clicks)
        cells = F.avg_pool2d(pad_to_multiple(ab, 32, 64), 4)
        flat = cells.permute(0, 2, 3, 1).reshape(-1, 2)
        probability = self.palette(torch.cat([flat, flat], 1)).softmax(1)
        entropy = torch.special.entr(probability).sum(1) / math.log(len(self.bins))
        height, width = cells.shape[-2:]
        unsure = entropy.view(-1, 1, height, width)
        return ab, torch.cat([cells, unsure, 0 * unsure], 1)

    def palette(self, features: Tensor) -> Tensor:
        """A Gaussian of 10 CIE units around the cell's color."""
        return -(torch.cdist(features[:, :2], self.bins) * 12.8).square() / 2

    def distribution(self, cells: Tensor) -> Tensor:
        """Its probabilities."""
        return self.palette(cells).softmax(1)


class Head:
    """`detail` as a guide that reads `Split`'s features: it prefers cells that are unsure."""

    source = "head by formula"
    reads_features = True

    def __call__(self, lightness: Tensor, predicted_ab: Tensor, clicks: Tensor, *, features: Tensor) -> Tensor:
        height, width = lightness.shape[-2:]
        unsure = F.interpolate(features[:, -2:-1], scale_factor=4.0)[:, 0, :height, :width]
        return detail(lightness, predicted_ab, clicks) + unsure


def _blur(maps: Tensor) -> Tensor:
    coarse = F.adaptive_avg_pool2d(maps, (8, 8))
    return F.interpolate(coarse, maps.shape[-2:], mode="bilinear", align_corners=False)


def photo(width: int, height: int, seed: int = 0, format: str = "JPEG", **options: object) -> bytes:
    """A file of smooth colors with noise."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    noisy = np.clip(smooth + draw.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, format, **options)
    return file.getvalue()
