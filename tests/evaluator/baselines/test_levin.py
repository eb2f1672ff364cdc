"""Levin's optimization against a dense solve of loops over pixels, and what it must do on simple photos."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluator.baselines import Levin


def dense_solution(lightness: np.ndarray, mask: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """The published program's loops, with a dense solve; ab (2, h, w)."""
    height, width = lightness.shape
    system, right = np.zeros((height * width,) * 2), np.zeros((height * width, 2))
    for row in range(height):
        for col in range(width):
            here = row * width + col
            system[here, here] = 1
            if mask[row, col]:
                right[here] = ab[:, row, col]
                continue
            near = [
                (y, x)
                for y in range(max(0, row - 1), min(height, row + 2))
                for x in range(max(0, col - 1), min(width, col + 2))
                if (y, x) != (row, col)
            ]
            values = np.array([lightness[place] for place in near])
            scale = 0.6 * np.var([*values, lightness[row, col]])
            scale = max(scale, -min((values - lightness[row, col]) ** 2) / math.log(0.01), 2e-6)
            weights = np.exp(-((values - lightness[row, col]) ** 2) / scale)
            for (y, x), weight in zip(near, weights / weights.sum(), strict=True):
                system[here, y * width + x] = -weight
    return np.linalg.solve(system, right).T.reshape(2, height, width)


def click_map(height: int, width: int, hints: dict[tuple[int, int], tuple[float, float]]) -> Tensor:
    clicks = torch.zeros(1, 3, height, width)
    for (row, col), color in hints.items():
        clicks[0, :, row, col] = torch.tensor([1.0, *color])
    return clicks


@pytest.mark.parametrize(("height", "width"), [(9, 14), (1, 8), (7, 1)])
def test_the_sparse_solution_is_the_dense_one(height: int, width: int):
    generator = torch.Generator().manual_seed(0)
    lightness = torch.rand(1, 1, height, width, generator=generator)
    lightness[..., : height // 2 + 1, : width // 2 + 1] = 0.4  # a flat part: the floor of the variance
    hints = {(0, 0): (0.5, -0.25), (height - 1, width - 1): (-0.5, 0.1), (height // 2, width // 3): (0.2, 0.9)}
    clicks = click_map(height, width, hints)
    found = Levin()(lightness, clicks)[0].numpy()
    exact = dense_solution(
        lightness[0, 0].double().numpy(), clicks[0, 0].numpy() > 0, clicks[0, 1:].double().numpy()
    )
    np.testing.assert_allclose(found, exact, atol=1e-6)
    for (row, col), color in hints.items():
        np.testing.assert_allclose(found[:, row, col], color, atol=1e-7)


def test_one_color_spreads_over_the_whole_photo():
    lightness = torch.rand(2, 1, 20, 31, generator=torch.Generator().manual_seed(1))
    clicks = torch.cat([click_map(20, 31, {(3, 4): (0.25, -0.5), (19, 30): (0.25, -0.5)})] * 2)
    expected = torch.tensor([0.25, -0.5])[:, None, None].expand(2, 2, 20, 31)
    torch.testing.assert_close(Levin()(lightness, clicks), expected, atol=1e-6, rtol=0)


def test_two_flat_regions_keep_their_colors_at_an_edge_of_lightness():
    lightness = torch.full((1, 1, 24, 24), 0.3)
    lightness[..., 10:] = 0.7
    found = Levin()(lightness, click_map(24, 24, {(4, 3): (0.5, 0.0), (20, 20): (-0.25, 0.25)}))[0]
    torch.testing.assert_close(found[0, :, :10], torch.full((24, 10), 0.5), atol=0.03, rtol=0)
    torch.testing.assert_close(found[1, :, 10:], torch.full((24, 14), 0.25), atol=0.03, rtol=0)


def test_colors_are_means_of_the_clicked_ones():
    generator = torch.Generator().manual_seed(2)
    lightness = torch.rand(1, 1, 16, 16, generator=generator)
    found = Levin()(lightness, click_map(16, 16, {(1, 1): (0.9, -0.9), (9, 4): (-0.9, 0.1), (14, 14): (0.2, 0.2)}))
    assert found[0, 0].aminmax() == (found[0, 0, 9, 4], found[0, 0, 1, 1])


def test_without_a_click_a_photo_is_grey_and_with_all_it_keeps_them():
    lightness = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(3))
    assert not Levin()(lightness, torch.zeros(1, 3, 5, 6)).any()
    ab = torch.rand(1, 2, 5, 6, generator=torch.Generator().manual_seed(4)) - 0.5
    assert torch.equal(Levin()(lightness, torch.cat([torch.ones_like(lightness), ab], 1)), ab)


def test_a_photo_s_colors_do_not_depend_on_its_batch():
    lightness = torch.rand(3, 1, 12, 10, generator=torch.Generator().manual_seed(5))
    clicks = torch.cat(
        [click_map(12, 10, {(row, row): (0.1 * row, 0.5), (9, 2): (-0.5, 0.1)}) for row in (1, 4, 6)]
    )
    together = Levin()(lightness, clicks)
    for row in range(3):
        assert torch.equal(Levin()(lightness[row : row + 1], clicks[row : row + 1])[0], together[row])


@pytest.mark.parametrize(("field", "value"), [("share", 0.0), ("floor", -1.0), ("least_weight", 1.0)])
def test_bad_settings_are_named(field: str, value: float):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Levin(**{field: value})
