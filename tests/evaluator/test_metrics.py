"""What holds for every metric: per photo, whatever the batch, in any precision, NaN where undefined."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb

from evaluator.metrics import DEFAULT, METRICS, Comparison, Metric, unavailable
from kernels.clicks import no_clicks, place_clicks
from kernels.color import rgb_to_lab

MEASURABLE = [name for name in METRICS if name != "lpips"]
"""LPIPS needs weights; tests/evaluator/metrics/test_perceptual.py has its tests."""


def photos(batch: int = 5, height: int = 37, width: int = 50, seed: int = 0) -> torch.Tensor:
    """Blocks of colors with a little noise: strong edges, flat parts."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 3, 3, generator=generator)
    field = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    noisy = field + 0.02 * torch.randn(field.shape, generator=generator)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def compare(rgb: torch.Tensor, placed: int = 4, dtype: torch.dtype = torch.float32) -> Comparison:
    """Paler, blurred colors, and random clicks."""
    lightness, truth_ab = rgb_to_lab(rgb)
    height, width = rgb.shape[-2:]
    generator = torch.Generator().manual_seed(height * width)
    positions = torch.stack([torch.randperm(height * width, generator=generator)[:placed] for _ in range(100)])
    positions = positions[: len(rgb)]
    clicks = no_clicks(truth_ab)
    for choice in positions.unbind(1):
        clicks = place_clicks(clicks, truth_ab, choice)
    previous = 0.6 * torch.nn.functional.avg_pool2d(truth_ab, 5, stride=1, padding=2)
    predicted = (previous + 0.1 * lightness).to(dtype)
    return Comparison(lightness, predicted, truth_ab, rgb, clicks, positions, previous)


def cut(at: Comparison, rows: slice | list[int]) -> Comparison:
    values = {one.name: getattr(at, one.name) for one in dataclasses.fields(at)}
    tensors = {name: value[rows] for name, value in values.items() if isinstance(value, torch.Tensor)}
    return dataclasses.replace(at, **tensors, shared={})


@pytest.mark.parametrize("name", MEASURABLE)
def test_every_metric_is_measured_per_photo_whatever_the_batch(name):
    rgb = photos()
    rgb[2] = 90  # a flat grey photo has few defined numbers, and spares the others
    at, metric = compare(rgb), METRICS[name]
    together = metric.measure(at)
    assert together.shape == (5,)
    assert together.dtype == torch.float64
    assert together[[0, 1, 3, 4]].isfinite().all()
    alone = torch.cat([metric.measure(cut(at, [i])) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0, equal_nan=True)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(metric.measure(cut(at, order)), together[order], atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", MEASURABLE)
def test_portions_and_what_is_shared_change_no_number(name, monkeypatch):
    at, metric = compare(photos()), METRICS[name]
    expected = metric.measure(at)
    assert len(at.parts) == 1
    monkeypatch.setattr("evaluator.metrics.base._CACHED_PIXELS", 2 * 37 * 50)
    shared = {}
    for _ in range(2):
        again = dataclasses.replace(at, shared=shared)
        assert [len(part.truth_rgb) for part in again.parts] in ([2, 2, 1], [4, 1], [5])
        torch.testing.assert_close(metric.measure(again), expected, atol=1e-6, rtol=0, equal_nan=True)
        assert torch.equal(again.predicted_rgb, at.predicted_rgb)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEASURABLE)
def test_a_gpu_measures_the_same(name):
    at, metric = compare(photos()), METRICS[name]
    values = {one.name: getattr(at, one.name) for one in dataclasses.fields(at)}
    moved = {key: value.cuda() for key, value in values.items() if isinstance(value, torch.Tensor)}
    found = metric.measure(dataclasses.replace(at, **moved, shared={}))
    assert found.is_cuda
    # A value at the edge between two levels of uint8 may be rounded the other way.
    torch.testing.assert_close(found.cpu(), metric.measure(at), atol=2e-3, rtol=1e-4, equal_nan=True)


def test_what_is_computed_from_the_truth_is_computed_once_for_all_that_share_it():
    at = compare(photos(), 4)
    calls = []
    for comparison in (at, dataclasses.replace(at), compare(photos(), 4)):
        comparison.of_truth("edges", lambda: calls.append(1))
    assert len(calls) == 2  # `replace` shares, a new comparison does not


@pytest.mark.parametrize("name", MEASURABLE)
def test_half_precision_is_measured_in_float32_and_float64_stays(name):
    metric, rgb = METRICS[name], photos()
    half, single = compare(rgb, dtype=torch.bfloat16), compare(rgb)
    same = dataclasses.replace(half, predicted_ab=half.predicted_ab.float())
    torch.testing.assert_close(metric.measure(half), metric.measure(same), rtol=0, atol=0)
    double = dataclasses.replace(single, predicted_ab=single.predicted_ab.double())
    torch.testing.assert_close(metric.measure(double), metric.measure(single), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MEASURABLE)
def test_the_smallest_photo_of_a_metric_is_measured_and_a_smaller_one_is_refused(name):
    metric = METRICS[name]
    smallest = compare(photos(2, metric.smallest, metric.smallest + 3), placed=min(2, metric.smallest))
    assert metric.measure(smallest).shape == (2,)
    if metric.smallest > 1:
        with pytest.raises(ValueError, match=f"needs at least {metric.smallest} x {metric.smallest}"):
            metric.measure(compare(photos(2, metric.smallest - 1, 60)))


@pytest.mark.parametrize("name", MEASURABLE)
def test_a_perfect_coloring_of_a_colorful_photo_has_the_best_value(name):
    at = compare(photos())
    perfect = dataclasses.replace(at, predicted_ab=at.truth_ab, previous_ab=at.truth_ab)
    best = {"ab_psnr": math.inf, "rgb_psnr": math.inf, "ab_ssim": 1.0, "rgb_ssim": 1.0}
    found = METRICS[name].measure(perfect)
    if METRICS[name].higher_is_better is not None and not name.startswith("click_"):
        np.testing.assert_allclose(found, best.get(name, 0.0), atol=1e-5)
    if name == "colourfulness_gap":
        np.testing.assert_allclose(found, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs_clicks])
def test_what_needs_clicks_is_nan_without_clicks_and_refuses_to_guess_them(name):
    metric, at = METRICS[name], compare(photos(), placed=0)
    assert metric.group == "clicks"
    assert metric.measure(dataclasses.replace(at, previous_ab=None)).isnan().all()
    with pytest.raises(ValueError, match=r"needs (clicks|positions); pass it to Comparison"):
        metric.measure(Comparison(at.lightness, at.predicted_ab, at.truth_ab, at.truth_rgb))


@pytest.mark.parametrize("name", [name for name in MEASURABLE if not METRICS[name].needs_clicks])
def test_what_needs_no_clicks_does_not_look_at_them(name):
    at = compare(photos())
    bare = Comparison(at.lightness, at.predicted_ab, at.truth_ab, at.truth_rgb)
    assert torch.equal(METRICS[name].measure(bare), METRICS[name].measure(at))


def test_only_what_says_so_looks_at_the_previous_coloring():
    at = dataclasses.replace(compare(photos()), previous_ab=None)
    for name in MEASURABLE:
        if METRICS[name].needs_previous:
            with pytest.raises(ValueError, match="previous_ab"):
                METRICS[name].measure(at)
        else:
            METRICS[name].measure(at)


def test_the_gap_is_the_coloring_minus_the_photo():
    at = compare(photos())
    truth = dataclasses.replace(at, predicted_ab=at.truth_ab)
    colorful, gap = (METRICS[name].measure for name in ("colourfulness", "colourfulness_gap"))
    torch.testing.assert_close(gap(at), colorful(at) - colorful(truth), atol=1e-9, rtol=0)
    assert (gap(at) < 0).all()  # the coloring is paler


def test_all_but_borrowed_networks_can_be_measured_anywhere():
    assert [name for name in MEASURABLE if unavailable(name)] == []


def test_validation_measures_what_costs_little_and_needs_nothing():
    assert DEFAULT == ("ab_psnr", "ab_ssim", "rgb_psnr")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_states_its_scale_and_says_what_it_is(metric: Metric):
    assert metric.scale in metric.title
    assert metric.unit in metric.title
    assert metric.about.endswith(".")


def test_a_comparison_rounds_the_prediction_as_scikit_image_would():
    generator = torch.Generator().manual_seed(0)
    ab = torch.rand(3, 2, 37, 50, generator=generator) * 1.4 - 0.7
    lightness = torch.linspace(0.0, 1.0, ab[:, :1].numel()).view_as(ab[:, :1])
    at = Comparison(lightness, ab, ab, torch.zeros(3, 3, 37, 50, dtype=torch.uint8))
    lab = torch.cat([lightness * 100, ab * 128], dim=1).permute(0, 2, 3, 1).double().numpy()
    with pytest.warns(UserWarning, match="negative Z"):
        expected = np.rint(lab2rgb(lab) * 255).transpose(0, 3, 1, 2)
    difference = np.abs(at.predicted_rgb.numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # only where a value lies on the edge between two levels
