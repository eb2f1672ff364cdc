"""A colorizer without weights and photos without files, for every test of the evaluator."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def spread_clicks(lightness: Tensor, clicks: Tensor) -> Tensor:
    """Color each pixel with the clicked colors, weighted by nearness in place and lightness.

    A made-up colorizer that needs no training and improves with every well placed click.
    """
    batch, _, height, width = lightness.shape
    rows = torch.linspace(0, 1, height).view(-1, 1).expand(height, width)
    cols = torch.linspace(0, 1, width).expand(height, width)
    place = torch.stack([rows, cols]).expand(batch, -1, -1, -1)
    features = torch.cat([4 * place, 6 * lightness], dim=1).flatten(2)
    mask, color = clicks[:, 0].flatten(1), clicks[:, 1:].flatten(2)
    distance = torch.cdist(features.mT, features.mT, compute_mode="donot_use_mm_for_euclid_dist").square()
    weights = torch.exp(-3 * distance) * mask[:, None]
    total = weights.sum(-1)[:, None] + 0.02
    return (color @ weights.mT / total).view(batch, 2, height, width)


def photos_of_regions(count: int, size: int, seed: int = 0) -> Tensor:
    """uint8 photos (count, 3, size, size): smooth regions of different colors with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    noisy = smooth + 0.01 * torch.randn(smooth.shape, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture
def colorizer():
    return spread_clicks


@pytest.fixture
def photos() -> Tensor:
    return photos_of_regions(9, 24)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
