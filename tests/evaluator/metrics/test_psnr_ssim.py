import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    peak_signal_noise_ratio as torchmetrics_psnr,
)
from torchmetrics.functional.image import (
    structural_similarity_index_measure as torchmetrics_ssim,
)

from evaluator.metrics import EXACT_DB
from evaluator.metrics.psnr_ssim import RGB_RANGE, ab_psnr, ab_ssim, rgb_psnr, rgb_ssim, ssim, window_moments


def smooth_ab(seed: int, batch: int = 3, height: int = 37, width: int = 50) -> torch.Tensor:
    """Color fields with edges, flat parts and noise, like a photo's ab, in [-0.7, 0.7]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 2, 4, 5, generator=generator) * 1.2 - 0.6
    field = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    field[:, :, : height // 3] = field[:, :, :1, :1]
    return (field + 0.02 * torch.randn(field.shape, generator=generator)).clamp(-0.7, 0.7)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    truth = smooth_ab(0)
    # From a small error in the first photo to a large one in the last.
    weights = torch.tensor([0.02, 0.3, 1.0])[:, None, None, None]
    return truth + weights * (smooth_ab(1) - truth), truth


def images(batch: torch.Tensor) -> list[np.ndarray]:
    return [photo.permute(1, 2, 0).double().numpy() for photo in batch]


def test_ab_psnr_agrees_with_scikit_image_photo_by_photo(pair):
    expected = [peak_signal_noise_ratio(t, p, data_range=2) for p, t in zip(*map(images, pair), strict=True)]
    np.testing.assert_allclose(ab_psnr(*pair), expected, atol=1e-4)


def test_ab_psnr_agrees_with_torchmetrics_photo_by_photo(pair):
    expected = torchmetrics_psnr(*pair, data_range=2.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(ab_psnr(*pair), expected.double(), atol=1e-4, rtol=0)


def test_ab_psnr_of_a_known_error():
    truth = torch.zeros(2, 2, 4, 4)
    # An error of 0.2 everywhere is a tenth of the range: 20 dB.
    torch.testing.assert_close(ab_psnr(truth + 0.2, truth), torch.full((2,), 20.0).double(), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def rgb_pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    truth = torch.randint(0, 256, (4, 3, 21, 34), generator=generator, dtype=torch.uint8)
    noise = torch.randint(-40, 41, truth.shape, generator=generator)
    return (truth.int() + noise).clamp(0, 255).to(torch.uint8), truth


def test_rgb_psnr_agrees_with_scikit_image_photo_by_photo(rgb_pair):
    predicted, truth = rgb_pair
    expected = [
        peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=255)
        for p, t in zip(predicted, truth, strict=True)
    ]
    np.testing.assert_allclose(rgb_psnr(predicted, truth), expected, atol=1e-4)


def test_rgb_psnr_agrees_with_torchmetrics_photo_by_photo(rgb_pair):
    predicted, truth = (x.double() for x in rgb_pair)
    expected = torchmetrics_psnr(predicted, truth, data_range=255.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(rgb_psnr(*rgb_pair), expected, atol=1e-6, rtol=0)


def test_the_largest_rgb_error_is_zero_db():
    black, white = (
        torch.zeros(1, 3, 5, 5, dtype=torch.uint8),
        torch.full((1, 3, 5, 5), 255, dtype=torch.uint8),
    )
    assert rgb_psnr(black, white).item() == 0.0
    assert rgb_psnr(white, black).item() == 0.0


def scikit_image_ssim(truth: np.ndarray, predicted: np.ndarray, data_range: float = 2.0) -> float:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    value = structural_similarity(truth, predicted, data_range=data_range, channel_axis=-1, **settings)
    return float(np.asarray(value))


def test_ab_ssim_agrees_with_scikit_image_photo_by_photo(pair):
    expected = [scikit_image_ssim(t, p) for p, t in zip(*map(images, pair), strict=True)]
    assert min(expected) < 0.7 < 0.99 < max(expected)  # the check covers bad and good photos
    np.testing.assert_allclose(ab_ssim(*pair), expected, atol=1e-4)
    np.testing.assert_allclose(ab_ssim(*(x.double() for x in pair)), expected, atol=1e-9)


def test_ab_ssim_agrees_with_torchmetrics_inside_the_border(pair):
    _, full = torchmetrics_ssim(
        *pair, gaussian_kernel=True, sigma=1.5, data_range=2.0, reduction="none", return_full_image=True
    )
    expected = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    torch.testing.assert_close(ab_ssim(*pair), expected.double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (63, 12)])
def test_ab_ssim_of_odd_sizes_agrees_with_scikit_image(size):
    truth, predicted = smooth_ab(2, 2, *size), smooth_ab(3, 2, *size)
    expected = [scikit_image_ssim(t, p) for p, t in zip(images(predicted), images(truth), strict=True)]
    np.testing.assert_allclose(ab_ssim(predicted, truth), expected, atol=1e-4)


@pytest.mark.parametrize("noise", [2, 40])
@pytest.mark.parametrize("size", [(11, 11), (40, 57)])
def test_rgb_ssim_agrees_with_scikit_image_photo_by_photo(size, noise):
    generator = torch.Generator().manual_seed(noise)
    coarse = torch.rand(3, 3, 4, 5, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    smooth[:, :, :15] = 250  # bright and flat, where float32 has the least digits left for variances
    truth = smooth.clamp(0, 255).to(torch.uint8)
    added = torch.randint(-noise, noise + 1, truth.shape, generator=generator)
    predicted = (truth.int() + added).clamp(0, 255).to(torch.uint8)
    expected = [scikit_image_ssim(t, p, 255.0) for p, t in zip(images(predicted), images(truth), strict=True)]
    np.testing.assert_allclose(rgb_ssim(predicted, truth), expected, atol=2e-5)


def test_known_moments_of_the_truth_change_no_ssim(rgb_pair):
    predicted, truth = (x.float() for x in rgb_pair)
    expected = rgb_ssim(*rgb_pair)
    assert torch.equal(ssim(predicted, truth, RGB_RANGE, window_moments(truth)), expected)


@pytest.mark.parametrize("level", [0, 17, 128, 255])
def test_ssim_of_a_flat_photo_with_itself_is_one(level):
    flat = torch.full((2, 3, 16, 16), level, dtype=torch.uint8)
    np.testing.assert_allclose(rgb_ssim(flat, flat), 1.0, atol=1e-6)


def test_ab_ssim_refuses_a_photo_smaller_than_its_window():
    small = torch.zeros(1, 2, 10, 64)
    with pytest.raises(ValueError, match=r"10 x 64 pixels; SSIM needs at least 11 x 11"):
        ab_ssim(small, small)


def test_an_exact_photo_is_infinite_per_photo_and_spares_the_others(pair, rgb_pair):
    predicted, truth = (x.clone() for x in pair)
    predicted[1] = truth[1]
    assert ab_psnr(predicted, truth).isinf().tolist() == [False, True, False]
    assert ab_ssim(predicted, truth)[1].item() == pytest.approx(1.0, abs=1e-6)
    rgb, rgb_truth = (x.clone() for x in rgb_pair)
    rgb[2] = rgb_truth[2]
    assert rgb_psnr(rgb, rgb_truth).isinf().tolist() == [False, False, True, False]


def test_the_ceiling_for_exact_photos_is_far_above_what_rounding_to_uint8_leaves():
    rounding_noise_db = 10 * math.log10(255**2 * 12)
    assert rounding_noise_db + 40 < EXACT_DB


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_measured_in_float32(pair, dtype):
    predicted = pair[0].to(dtype)
    for metric in (ab_psnr, ab_ssim):
        torch.testing.assert_close(metric(predicted, pair[1]), metric(predicted.float(), pair[1]))
