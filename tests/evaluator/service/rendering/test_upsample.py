from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.transform import resize
from torch import Tensor

from evaluator.service.rendering.upsample import EPSILON, RADIUS, Method, Upsampler, upsample_ab

METHODS: list[Method] = ["detail", "guided", "bilinear"]


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


def functions(ab: Tensor, lightness: Tensor, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and offsets in float64 by scipy, each averaged."""

    def mean(plane: np.ndarray) -> np.ndarray:
        return uniform_filter(plane, 2 * RADIUS[method] + 1, mode="nearest")

    light = lightness[0, 0].double().numpy()
    slopes, offsets = [], []
    for plane in ab[0].double().numpy():
        covariance = mean(plane * light) - mean(plane) * mean(light)
        slope = covariance / (mean(light * light) - mean(light) ** 2 + EPSILON[method])
        slopes.append(mean(slope))
        offsets.append(mean(mean(plane) - slope * mean(light)))
    return np.stack(slopes), np.stack(offsets)


def test_bilinear_is_that_of_scikit_image(small: tuple[Tensor, Tensor]):
    large = random(1, 1, 77, 130, seed=2)
    found = upsample_ab(*small, large, "bilinear")
    assert np.abs(found[0].numpy() - enlarged(small[0], (77, 130))).max() < 1e-5


def test_guided_is_the_published_filter(small: tuple[Tensor, Tensor]):
    large = random(1, 1, 77, 130, seed=2)
    slopes, offsets = (enlarged(torch.from_numpy(p)[None], (77, 130)) for p in functions(*small, "guided"))
    expected = np.clip(slopes * large[0].double().numpy() + offsets, -1, 1)
    assert np.abs(upsample_ab(*small, large, "guided")[0].numpy() - expected).max() < 1e-4


def test_detail_is_bilinear_plus_slopes_times_what_lightness_lacks(small: tuple[Tensor, Tensor]):
    large = random(1, 1, 77, 130, seed=2)
    slopes = enlarged(torch.from_numpy(functions(*small, "detail")[0])[None], (77, 130))
    lacks = large[0].double().numpy() - enlarged(small[1], (77, 130))
    expected = np.clip(enlarged(small[0], (77, 130)) + slopes * lacks, -1, 1)
    assert np.abs(upsample_ab(*small, large, "detail")[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(77, 130), (20, 31), (21, 500), (10, 12)])
def test_strips_are_the_whole(small: tuple[Tensor, Tensor], method, size):
    large = random(1, 1, *size, seed=3)
    whole = upsample_ab(*small, large, method)
    colours = Upsampler(*small, size, method)
    strips = [colours.rows(large[..., top : top + 7, :], top) for top in range(0, size[0], 7)]
    assert torch.allclose(torch.cat(strips, dim=-2), whole, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_photos_have_colours_too(method, side):
    ab = torch.full((1, 2, side, side), 0.25)
    found = upsample_ab(ab, random(1, 1, side, side), random(1, 1, 9, 5), method)
    assert torch.allclose(found, torch.full((1, 2, 9, 5), 0.25), atol=1e-5)


def test_detail_puts_a_colour_edge_where_lightness_has_it():
    """A disc of another colour and lightness, at a place that falls between small pixels."""
    rows, cols = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    inside = ((rows - 121.3).square() + (cols - 130.9).square() < 70**2).float()[None, None]
    lightness, ab = 0.3 + 0.4 * inside, torch.cat((0.5 * inside - 0.2, 0.3 - 0.4 * inside), dim=1)
    small_ab, small = (torch.nn.functional.avg_pool2d(planes, 8) for planes in (ab, lightness))
    errors = {m: float((upsample_ab(small_ab, small, lightness, m) - ab).abs().mean()) for m in METHODS}
    assert errors["detail"] < errors["bilinear"] / 2


def test_colours_stay_in_range(small: tuple[Tensor, Tensor]):
    found = upsample_ab(2 * small[0], small[1], random(1, 1, 50, 50) * 5, "detail")
    assert float(found.abs().max()) <= 1


def test_what_does_not_fit_is_told(small: tuple[Tensor, Tensor]):
    with pytest.raises(ValueError, match="'nearest'"):
        unchecked(Upsampler.__init__)(object.__new__(Upsampler), *small, (50, 50), "nearest")
    with pytest.raises(ValueError, match="one size"):
        unchecked(Upsampler.__init__)(object.__new__(Upsampler), small[0], random(1, 1, 19, 31), (50, 50))
