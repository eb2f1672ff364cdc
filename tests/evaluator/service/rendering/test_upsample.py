from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.transform import resize
from torch import Tensor

from evaluator.service.rendering.upsample import EPSILON, RADIUS, Upsampler, upsample_ab


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def unchecked(function: Callable) -> Callable:
    """Without the type check that tests put in front."""
    return getattr(function, "__wrapped__", function)


@pytest.fixture(scope="module")
def small() -> tuple[Tensor, Tensor]:
    """ab and lightness."""
    return random(1, 2, 20, 31) - 0.5, random(1, 1, 20, 31, seed=1)


def enlarged(planes: Tensor, size: tuple[int, int]) -> np.ndarray:
    """By scikit-image."""
    return np.stack(
        [np.asarray(resize(plane, size, order=1, mode="edge")) for plane in planes[0].double().numpy()]
    )


def averaged_slopes(ab: Tensor, lightness: Tensor) -> np.ndarray:
    """In float64 by scipy."""

    def mean(plane: np.ndarray) -> np.ndarray:
        return uniform_filter(plane, 2 * RADIUS + 1, mode="nearest")

    light = lightness[0, 0].double().numpy()
    slopes = []
    for plane in ab[0].double().numpy():
        covariance = mean(plane * light) - mean(plane) * mean(light)
        slopes.append(mean(covariance / (mean(light * light) - mean(light) ** 2 + EPSILON)))
    return np.stack(slopes)


def test_it_is_bilinear_plus_slopes_times_what_lightness_lacks(small: tuple[Tensor, Tensor]):
    large = random(1, 1, 77, 130, seed=2)
    slopes = enlarged(torch.from_numpy(averaged_slopes(*small))[None], (77, 130))
    lacks = large[0].double().numpy() - enlarged(small[1], (77, 130))
    expected = np.clip(enlarged(small[0], (77, 130)) + slopes * lacks, -1, 1)
    assert np.abs(upsample_ab(*small, large)[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(77, 130), (20, 31), (21, 500), (10, 12)])
def test_strips_are_the_whole(small: tuple[Tensor, Tensor], size: tuple[int, int]):
    large = random(1, 1, *size, seed=3)
    whole = upsample_ab(*small, large)
    colours = Upsampler(*small, size)
    strips = [colours.rows(large[..., top : top + 7, :], top) for top in range(0, size[0], 7)]
    assert torch.allclose(torch.cat(strips, dim=-2), whole, atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_photos_have_colors_too(side: int):
    ab = torch.full((1, 2, side, side), 0.25)
    found = upsample_ab(ab, random(1, 1, side, side), random(1, 1, 9, 5))
    assert torch.allclose(found, torch.full((1, 2, 9, 5), 0.25), atol=1e-5)


def test_a_color_edge_comes_where_lightness_has_it():
    """A disc of another color and lightness, at a place that falls between small pixels."""
    rows, cols = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    inside = ((rows - 121.3).square() + (cols - 130.9).square() < 70**2).float()[None, None]
    lightness, ab = 0.3 + 0.4 * inside, torch.cat((0.5 * inside - 0.2, 0.3 - 0.4 * inside), dim=1)
    small_ab, small = (torch.nn.functional.avg_pool2d(planes, 8) for planes in (ab, lightness))
    bilinear = torch.from_numpy(enlarged(small_ab, (256, 256)))
    ours = float((upsample_ab(small_ab, small, lightness) - ab).abs().mean())
    assert ours < float((bilinear - ab).abs().mean()) / 2


def test_colors_stay_in_range(small: tuple[Tensor, Tensor]):
    found = upsample_ab(2 * small[0], small[1], random(1, 1, 50, 50) * 5)
    assert float(found.abs().max()) <= 1


def test_what_does_not_fit_is_told(small: tuple[Tensor, Tensor]):
    with pytest.raises(ValueError, match="one size"):
        unchecked(Upsampler.__init__)(object.__new__(Upsampler), small[0], random(1, 1, 19, 31), (50, 50))
