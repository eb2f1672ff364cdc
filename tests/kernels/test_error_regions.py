import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from torch import Tensor

from kernels.error_regions import (
    distance_to_background,
    error_map,
    error_target,
    gaussian_blur,
    region_center,
    region_depth,
    region_target,
)


def blobs(batch: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random error maps with several maxima, in CIE units."""
    noise = np.random.default_rng(seed).random((batch, size, size))
    smooth = ndimage.gaussian_filter(noise, sigma=(0, size / 16, size / 16), mode="wrap")
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(40 * smooth).float()


def some_clicks(batch: int, size: int, count: int, seed: int = 0) -> Tensor:
    clicked = torch.zeros(batch, size * size, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    clicked[:, torch.randperm(size * size, generator=generator)[:count]] = True
    return clicked.view(batch, size, size)


def edt(mask: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.distance_transform_edt(mask))


def scipy_distance(mask: np.ndarray, *, border: bool) -> np.ndarray:
    padded = np.pad(mask, [(0, 0), (1, 1), (1, 1)], constant_values=not border)
    distances = [edt(image) for image in (padded if border else mask)]
    return np.stack(distances)[:, 1:-1, 1:-1] if border else np.stack(distances)


def scipy_depth(error: Tensor, clicked: Tensor, inhibition: float) -> np.ndarray:
    """The definition of `region_depth`, photo by photo."""
    wrong = []
    for photo, taken in zip(error.numpy(), clicked.numpy(), strict=True):
        threshold = max(5.0, np.percentile(photo, 70, method="inverted_cdf"))
        away = edt(~taken) > inhibition if taken.any() else True
        wrong.append((photo > threshold) & away)
    return scipy_distance(np.stack(wrong), border=True)


def assert_is_target(target: Tensor, clicked: Tensor):
    assert target.dtype == torch.float32
    assert target.isfinite().all()
    assert target.min() >= 0
    assert (target[clicked] == 0).all()
    torch.testing.assert_close(target.double().sum((1, 2)), torch.ones(len(target)).double(), rtol=0, atol=1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12)), st.booleans())
def test_distance_is_exact_for_any_mask(mask: np.ndarray, border: bool):
    if not border:
        mask[:, 0, 0] = False  # scipy's answer without any background has no meaning
    ours = distance_to_background(torch.from_numpy(mask), border=border)
    np.testing.assert_allclose(ours.numpy(), scipy_distance(mask, border=border), rtol=1e-6)


@pytest.mark.parametrize("border", [True, False])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 100), (1, 37), (37, 1)])
def test_distance_is_exact_on_regions_of_every_size(height: int, width: int, border: bool):
    random = np.random.default_rng(height)
    mask = np.stack([random.random((height, width)) < share for share in (0.1, 0.5, 0.9, 0.999)])
    mask[:, height // 2, width // 3] = False
    ours = distance_to_background(torch.from_numpy(mask), border=border)
    np.testing.assert_allclose(ours.numpy(), scipy_distance(mask, border=border), rtol=1e-6)


def test_distance_is_capped_at_the_limit():
    mask = (blobs(3, 48) > 15).numpy()
    expected = scipy_distance(mask, border=False)
    assert expected.max() > 5
    ours = distance_to_background(torch.from_numpy(mask), limit=5, border=False)
    np.testing.assert_allclose(ours.numpy(), np.minimum(expected, 5), rtol=1e-6)


def test_distance_without_any_background_is_the_limit_or_infinite():
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    assert (distance_to_background(mask, limit=4, border=False) == 4).all()
    assert distance_to_background(mask, border=False).isinf().all()
    assert distance_to_background(mask)[0, 2].tolist() == [1, 2, 3, 3, 3, 2, 1]


def test_error_is_the_euclidean_distance_in_cie_units():
    predicted, truth = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    truth[0, :, 0, 1] = torch.tensor([3.0, 4.0]) / 128
    assert error_map(predicted, truth).tolist() == [[[0.0, 5.0]]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert error_map(predicted.bfloat16(), truth).dtype == torch.float32


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 3.0, 20.0])
def test_blur_is_scipys_gaussian_with_reflection(sigma: float):
    values = torch.rand(2, 17, 23, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(
        values.double().numpy(), sigma=(0, sigma, sigma), mode="reflect", truncate=4
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blurred = gaussian_blur(values, sigma)
    np.testing.assert_allclose(blurred.numpy(), expected, rtol=0, atol=2e-6)


def test_blur_keeps_the_sum_of_each_map():
    values = blobs(3, 32)
    torch.testing.assert_close(gaussian_blur(values, 5.0).sum((1, 2)), values.sum((1, 2)), rtol=1e-5, atol=0)


def test_error_target_is_the_smoothed_error_over_unclicked_pixels():
    error, clicked = blobs(2, 32), some_clicks(2, 32, count=9)
    target = error_target(error, clicked, sigma=2.0)
    assert_is_target(target, clicked)
    expected = ndimage.gaussian_filter(error.double().numpy(), sigma=(0, 2, 2)) * ~clicked.numpy()
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(target.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("inhibition", [0, 3])
def test_region_depth_follows_its_definition(inhibition: int):
    error, clicked = blobs(4, 48), some_clicks(4, 48, count=12)
    clicked[0] = False
    depth = region_depth(error, clicked, inhibition=inhibition)
    np.testing.assert_allclose(depth.numpy(), scipy_depth(error, clicked, inhibition), rtol=1e-6)


def test_region_target_is_a_power_of_the_depth():
    error, clicked = blobs(4, 48), some_clicks(4, 48, count=12)
    target = region_target(error, clicked, inhibition=2, sharpness=3.0)
    assert_is_target(target, clicked)
    expected = scipy_depth(error, clicked, 2) ** 3
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(target.numpy(), expected, rtol=1e-4, atol=1e-12)


def two_discs(radii: tuple[int, int]) -> Tensor:
    """Two separate discs of the same error, centered at (32, 20) and (32, 72)."""
    row, col = np.mgrid[:65, :96]
    discs = [(row - 32) ** 2 + (col - center) ** 2 <= r * r for center, r in zip((20, 72), radii, strict=True)]
    return torch.from_numpy(20.0 * (discs[0] | discs[1])).float()[None]


def test_the_largest_region_leads_and_the_next_keeps_mass():
    error, clicked = two_discs((16, 11)), torch.zeros(1, 65, 96, dtype=torch.bool)
    target = region_target(error, clicked)
    assert int(target.flatten(1).argmax()) == 32 * 96 + 20 == int(region_center(error, clicked))
    share = float(target[:, :, 48:].sum())
    assert 0.05 < share < 0.2, "the docstring promises about (11/16)^6 = 11 % of the larger region's mass"


def test_a_click_at_a_center_moves_the_next_one_to_another_region():
    error, clicked = two_discs((16, 13)), torch.zeros(1, 65, 96, dtype=torch.bool)
    clicked[0, 32, 20] = True
    assert int(region_center(error, clicked)) == 32 * 96 + 72
    assert region_target(error, clicked)[0, 29:36, 20].sum() == 0, "inhibited around the click"


def test_a_wide_region_counts_more_than_the_single_worst_pixel():
    error = two_discs((10, 10))
    error[0, 3, 3] = 100
    center = int(region_center(error, torch.zeros(1, 65, 96, dtype=torch.bool)))
    assert divmod(center, 96) in {(32, 20), (32, 72)}


@pytest.mark.parametrize("level", [0.0, 4.0, 1e-44])
def test_nothing_wrong_gives_a_uniform_target_over_unclicked_pixels(level: float):
    error, clicked = torch.full((2, 16, 16), level), some_clicks(2, 16, count=6)
    uniform = (~clicked).float() / 250
    torch.testing.assert_close(region_target(error, clicked), uniform)
    torch.testing.assert_close(error_target(error, clicked, sigma=1.0), uniform)


def test_nothing_wrong_gives_the_pixel_farthest_from_clicks_and_border():
    error, clicked = torch.zeros(1, 21, 41), torch.zeros(1, 21, 41, dtype=torch.bool)
    clicked[0, 10, 10] = True
    free = ~clicked.numpy()
    center = int(region_center(error, clicked))
    distances = scipy_distance(free, border=True)[0].ravel()
    assert distances[center] == distances.max() == 11


def test_targets_hold_at_256_pixels_and_with_extreme_errors():
    error, clicked = blobs(2, 256), some_clicks(2, 256, count=50)
    error[1] *= 1e-37
    for target in (error_target(error, clicked, sigma=3.0), region_target(error, clicked, sharpness=40.0)):
        assert_is_target(target, clicked)


def test_one_free_pixel_gets_all_the_mass_and_the_click():
    clicked = torch.ones(1, 8, 8, dtype=torch.bool)
    clicked[0, 3, 5] = False
    error = blobs(1, 8)
    assert error_target(error, clicked, sigma=1.0)[0, 3, 5] == 1
    assert region_target(error, clicked)[0, 3, 5] == 1
    assert int(region_center(error, clicked)) == 3 * 8 + 5


def test_results_are_constants_in_float32_inside_autocast():
    error, clicked = blobs(1, 16).bfloat16().requires_grad_(), some_clicks(1, 16, count=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for target in (error_target(error, clicked, sigma=1.0), region_target(error, clicked)):
            assert_is_target(target, clicked)
            assert not target.requires_grad


def test_each_photo_is_independent_of_its_batch():
    error, clicked = blobs(5, 32), some_clicks(5, 32, count=4)
    error[2] = 0
    together = region_target(error, clicked), error_target(error, clicked, 2.0), region_center(error, clicked)
    for index in range(5):
        one = slice(index, index + 1)
        alone = region_target(error[one], clicked[one]), error_target(error[one], clicked[one], 2.0)
        assert torch.equal(together[0][one], alone[0])
        assert torch.equal(together[1][one], alone[1])
        assert torch.equal(together[2][one], region_center(error[one], clicked[one]))


def test_bad_settings_are_refused_with_what_to_do():
    error, clicked = blobs(1, 16), some_clicks(1, 16, count=2)
    with pytest.raises(ValueError, match="limit is 0"):
        distance_to_background(clicked, limit=0)
    with pytest.raises(ValueError, match="sigma is -1"):
        gaussian_blur(error, -1.0)
    with pytest.raises(ValueError, match="sharpness is 0"):
        region_target(error, clicked, sharpness=0.0)
    with pytest.raises(ValueError, match="inhibition is -2"):
        region_center(error, clicked, inhibition=-2)
    with pytest.raises(ValueError, match="clicked"):
        error_target(error, torch.ones_like(clicked), sigma=1.0)
