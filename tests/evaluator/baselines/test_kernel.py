"""The kernel against loops over pixels and clicks in float64, and what a click's weight must not depend on."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluator.baselines import Kernel, kernel
from evaluator.baselines.kernel import click_shares
from kernels.clicks import hint_colors, no_clicks, place_patches

HEIGHT, WIDTH = 13, 21


def photo(seed: int, batch: int = 1, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lightness = torch.rand(batch, 1, height, width, generator=generator)
    return lightness, torch.rand(batch, 2, height, width, generator=generator) - 0.5


def clicked_map(truth: Tensor, positions: list[int], hint_size: int) -> Tensor:
    clicks, colors = no_clicks(truth), hint_colors(truth, hint_size).flatten(2)
    for position in positions:
        at = torch.full((len(truth),), position)
        clicks = place_patches(clicks, at, colors[:, :, position], hint_size)
    return clicks


def by_loops(
    lightness: np.ndarray, patches: list[tuple[list[tuple[int, int]], np.ndarray]], k: Kernel
) -> np.ndarray:
    """The definition. Each click is given with its pixels, which no colorizer is told."""
    height, width = lightness.shape
    side = (height + width) / 2
    ab = np.zeros((2, height, width))
    for row in range(height):
        for col in range(width):
            colors, weights = np.zeros(2), 0.0
            for pixels, color in patches:
                each = [
                    math.exp(
                        -(((row - y) ** 2 + (col - x) ** 2) / side**2) / (2 * k.spread**2)
                        - (lightness[row, col] - lightness[y, x]) ** 2 / (2 * k.tone**2)
                    )
                    for y, x in pixels
                ]
                weight = sum(each) / len(each)
                colors, weights = colors + weight * color, weights + weight
            ab[:, row, col] = colors / (weights + k.null)
    return ab


def pixels_of(clicks: Tensor, truth: Tensor, positions: list[int], hint_size: int):
    """Pixels that each click still covers, newest on top."""
    owner = -np.ones((HEIGHT, WIDTH), int)
    low, high = -((hint_size - 1) // 2), hint_size // 2 + 1
    for number, position in enumerate(positions):
        row, col = divmod(position, WIDTH)
        owner[max(0, row + low) : row + high, max(0, col + low) : col + high] = number
    colors = hint_colors(truth, hint_size).flatten(2)[0].double().numpy()
    owned = [(list(zip(*np.nonzero(owner == n), strict=True)), colors[:, p]) for n, p in enumerate(positions)]
    return [(pixels, color) for pixels, color in owned if pixels]


@pytest.mark.parametrize("hint_size", [1, 2, 3, 4])
@pytest.mark.parametrize("settings", [{}, {"spread": 0.3, "tone": 0.05, "null": 0.5}])
def test_the_kernel_is_the_mean_over_clicks_that_loops_find(hint_size: int, settings: dict[str, float]):
    """With patches that the border cuts off, that touch and that overlap."""
    lightness, truth = photo(1)
    positions = [0, 5 * WIDTH + 9, 5 * WIDTH + 12, 7 * WIDTH + 10, HEIGHT * WIDTH - 1, 11 * WIDTH]
    clicks = clicked_map(truth, positions, hint_size)
    found = Kernel(**settings)(lightness, clicks)
    patches = pixels_of(clicks, truth, positions, hint_size)
    expected = by_loops(lightness[0, 0].double().numpy(), patches, Kernel(**settings))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-6)


def test_memory_is_bounded_by_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch):
    lightness, truth = photo(2)
    clicks = clicked_map(truth, [7, 100, 200], 3)
    whole = Kernel()(lightness, clicks)
    monkeypatch.setattr(kernel, "_WEIGHTS_AT_ONCE", 5 * HEIGHT * WIDTH)
    torch.testing.assert_close(Kernel()(lightness, clicks), whole, atol=1e-6, rtol=0)
    monkeypatch.setattr(kernel, "_WEIGHTS_AT_ONCE", 1)
    torch.testing.assert_close(Kernel()(lightness, clicks), whole, atol=1e-6, rtol=0)


def test_a_larger_hint_of_the_same_color_does_not_weigh_more():
    """On a photo of one lightness; far from the patches, which are of other sizes there."""
    lightness, truth = torch.full((1, 1, 64, 64), 0.5), torch.full((1, 2, 64, 64), 0.3)
    small, large = (Kernel()(lightness, clicked_map(truth, [32 * 64 + 32], size)) for size in (1, 5))
    torch.testing.assert_close(large, small, rtol=0.06, atol=1e-3)
    assert small[0, 0, 32, 32] == pytest.approx(0.3 / 1.03, abs=1e-6)


def test_distances_are_measured_alike_on_both_axes():
    lightness, truth = torch.full((1, 1, 10, 30), 0.5), torch.full((1, 2, 10, 30), 0.3)
    found = Kernel()(lightness, clicked_map(truth, [5 * 30 + 15], 1))[0, 0]
    assert found[5 + 3, 15].item() == pytest.approx(found[5, 15 + 3].item(), abs=1e-7)
    torch.testing.assert_close(Kernel()(lightness.mT, clicked_map(truth.mT, [15 * 10 + 5], 1))[0, 0], found.T)


def test_clicks_are_told_apart_by_their_colors_and_by_gaps():
    mask, hints = torch.zeros(6, 8, dtype=torch.bool), torch.zeros(2, 6, 8)
    mask[0, :2], hints[0, 0, :2] = True, 0.5  # 2 pixels
    mask[0, 2], hints[0, 0, 2] = True, 0.25  # touches it, in another color
    mask[2, 0], hints[0, 2, 0] = True, 0.5  # the first one's color, apart from it
    mask[3:6, 5:8], hints[1, 3:6, 5:8] = True, 0.5  # 9 pixels
    mask[2, 4], hints[1, 2, 4] = True, 0.5  # joined to them by a corner
    expected = [1 / 2, 1 / 2, 1, 1, *[1 / 10] * 10]
    torch.testing.assert_close(click_shares(mask, hints), torch.tensor(expected))
    all_of_it = click_shares(torch.ones(40, 50, dtype=torch.bool), torch.zeros(2, 40, 50))
    torch.testing.assert_close(all_of_it, torch.full((2000,), 1 / 2000))


def test_a_patch_that_winds_is_one_click():
    snake = torch.zeros(41, 41, dtype=torch.bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    assert click_shares(snake, torch.ones(2, 41, 41)).unique().numel() == 1


def test_a_photo_s_colors_do_not_depend_on_its_batch_and_grey_stays_grey():
    lightness, truth = photo(3, batch=3)
    clicks = clicked_map(truth, [30, 60, 200], 3)
    clicks[1] = 0
    together = Kernel()(lightness, clicks)
    assert together.dtype == torch.float32
    assert not together[1].any()
    for row in range(3):
        assert torch.equal(Kernel()(lightness[row : row + 1], clicks[row : row + 1])[0], together[row])


def test_every_pixel_clicked_and_sides_of_one_pixel_are_fine():
    for height, width in ((1, 1), (1, 9), (9, 1), (6, 5)):
        lightness, truth = photo(4, height=height, width=width)
        found = Kernel()(lightness, torch.cat([torch.ones_like(lightness), truth], dim=1))
        assert found.isfinite().all()
        assert found.abs().max() <= truth.abs().max()


def test_autocast_does_not_round_it():
    lightness, truth = photo(5)
    clicks = clicked_map(truth, [30, 200], 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Kernel()(lightness, clicks), Kernel()(lightness, clicks).float())
        inside = Kernel()(lightness, clicks)
    assert torch.equal(inside, Kernel()(lightness, clicks))


@pytest.mark.parametrize("field", ["spread", "tone", "null"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_settings_that_are_not_positive_are_named(field: str, value: float):
    with pytest.raises(ValueError, match=f"{field} is .*must be above 0"):
        Kernel(**{field: value})


def test_inputs_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"kernel: clicks has shape \(1, 3, 4, 5\)"):
        Kernel()(torch.zeros(1, 1, 5, 5), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ValueError, match="kernel: lightness has shape"):
        Kernel()(torch.zeros(1, 2, 5, 5), torch.zeros(1, 3, 5, 5))
