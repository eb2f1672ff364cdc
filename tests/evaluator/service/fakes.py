"""Networks by formula: a colorizer that spreads clicks, and a guide that looks for detail away from them."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def spread(lightness: Tensor, clicks: Tensor) -> Tensor:
    """Each pixel takes the clicked colours around it; far from all clicks a warm tint by lightness.

    (B,1,h,w) and (B,3,h,w) -> (B,2,h,w) in [-1, 1]. Quick, of any size, and the same in any batch.
    """
    near = _blur(torch.cat([clicks[:, :1], clicks[:, :1] * clicks[:, 1:]], dim=1))
    tint = torch.cat([0.05 * (1 - lightness), 0.15 * lightness - 0.05], dim=1)
    return ((near[:, 1:] + 0.002 * tint) / (near[:, :1] + 0.002)).clamp(-1, 1)


def detail(lightness: Tensor, predicted_ab: Tensor, clicks: Tensor, truth_ab: Tensor | None = None) -> Tensor:
    """Scores (B,h,w): high where the lightness differs from its surroundings and no click is near."""
    return (20 * (lightness - _blur(lightness)).abs() - 50 * _blur(clicks[:, :1]))[:, 0]


def _blur(maps: Tensor) -> Tensor:
    coarse = F.adaptive_avg_pool2d(maps, (8, 8))
    return F.interpolate(coarse, maps.shape[-2:], mode="bilinear", align_corners=False)


def photo(width: int, height: int, seed: int = 0, format: str = "JPEG", **options: object) -> bytes:
    """A file of smooth colours with noise."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    noisy = np.clip(smooth + draw.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, format, **options)
    return file.getvalue()
