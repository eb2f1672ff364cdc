import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d, shift

from evaluator.metrics.bleeding import NEAR, REACH, STRONG, bleeding, strong_edges

RED, BLUE = np.array([0.5, 0.3]), np.array([0.1, -0.6])


def halves(height: int = 48, width: int = 64) -> np.ndarray:
    """Left half red, right half blue, as ab (2, h, w)."""
    ab = np.empty((2, height, width))
    ab[..., : width // 2], ab[..., width // 2 :] = RED[:, None, None], BLUE[:, None, None]
    return ab


def batch(*photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(photos)).float()


def blurred(ab: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(ab, sigma, axis=-1, mode="nearest")


def measured(*colorings: np.ndarray, truth: np.ndarray | None = None) -> list[float]:
    truth = halves() if truth is None else truth
    return bleeding(batch(*colorings), batch(*[truth] * len(colorings))).tolist()


def test_sharp_colorings_do_not_bleed_however_pale_and_whatever_their_tint():
    sharp = halves()
    tint = np.array([0.2, 0.1])[:, None, None]
    assert measured(sharp, 0.3 * sharp, 0 * sharp, 0.7 * sharp + tint) == pytest.approx([0] * 4, abs=1e-6)


def test_the_more_a_blur_smears_the_edge_the_more_it_bleeds():
    found = measured(*(blurred(halves(), sigma) for sigma in (0.5, 1, 2, 3, 4, 5)))
    assert found == sorted(found)
    assert found[0] < 0.06
    assert found[2] > 0.25
    assert found[-1] > 0.5


def test_a_border_in_the_wrong_place_bleeds():
    """Moved by 4 px, no step of 2 px sees it, and every step of 8 px still does."""
    moved = shift(halves(), (0, 0, 4), order=0, mode="nearest")
    assert measured(moved) == pytest.approx([1.0])
    assert measured(shift(halves(), (0, 0, 1), order=0, mode="nearest"))[0] < 0.5


def test_a_pale_coloring_bleeds_in_proportion_to_its_color():
    smeared = blurred(halves(), 3)
    full, half = measured(smeared, 0.5 * smeared)
    assert half == pytest.approx(full / 2, rel=1e-5)


def test_rows_and_columns_count_alike():
    smeared = blurred(halves(64, 64), 3)
    upright = bleeding(batch(smeared), batch(halves(64, 64)))
    turned = bleeding(batch(smeared).mT, batch(halves(64, 64)).mT)
    torch.testing.assert_close(turned, upright)


def test_a_photo_sharper_in_the_coloring_than_in_truth_is_below_zero():
    soft = blurred(halves(), 2)
    assert measured(halves(), truth=soft)[0] < -0.05


def by_loops(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The definition, one pixel after the other."""
    sums = np.zeros((2, 2))
    _, height, width = truth.shape
    for direction in ((0, 1), (1, 0)):
        for row in range(height):
            for col in range(width):
                ends = [
                    [
                        (row + sign * distance * direction[0], col + sign * distance * direction[1])
                        for sign in (1, -1)
                    ]
                    for distance in (NEAR, REACH)
                ]
                if not all(0 <= r < height and 0 <= c < width for pair in ends for r, c in pair):
                    continue
                near, wide = (truth[:, *after] - truth[:, *before] for after, before in ends)
                if np.hypot(*near) * 128 < STRONG or near @ wide < near @ near / 2:
                    continue
                for which, (after, before) in enumerate(ends):
                    true = (near, wide)[which]
                    sums[which] += (predicted[:, *after] - predicted[:, *before]) @ true, true @ true
    return sums[1, 0] / sums[1, 1] - sums[0, 0] / sums[0, 1]


def test_it_is_the_definition_pixel_by_pixel():
    rng = np.random.default_rng(0)
    truths = [np.kron(rng.uniform(-0.5, 0.5, (2, 3, 4)), np.ones((1, 9, 8))) for _ in range(2)]
    predictions = [blurred(truth, 2) + 0.05 * rng.standard_normal(truth.shape) for truth in truths]
    found = bleeding(batch(*predictions).double(), batch(*truths).double())
    expected = [by_loops(*pair) for pair in zip(batch(*predictions).numpy(), batch(*truths).numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_texture_is_no_edge():
    stripes = halves()
    stripes[:, :, ::4], stripes[:, :, 1::4] = BLUE[:, None, None], BLUE[:, None, None]
    stripes[:, :, 2::4], stripes[:, :, 3::4] = RED[:, None, None], RED[:, None, None]
    assert np.isnan(measured(halves(), truth=stripes)).all()


@pytest.mark.parametrize("strength", [0.0, 0.99, 1.01])
def test_an_edge_is_strong_from_twenty_cie_units_on(strength):
    truth = np.zeros((2, 20, 40))
    truth[0, :, 20:] = strength * STRONG / 128
    assert np.isnan(measured(truth, truth=truth)[0]) == (strength < 1)


def test_known_edges_change_nothing_and_a_photo_without_edges_spares_the_others():
    truth = batch(halves(), 0 * halves(), halves())
    predicted = batch(*(blurred(halves(), sigma) for sigma in (1, 2, 3)))
    found = bleeding(predicted, truth)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(
        bleeding(predicted, truth, strong_edges(truth)), found, equal_nan=True, rtol=0, atol=0
    )


def test_a_photo_without_room_for_an_edge_is_refused():
    small = torch.zeros(1, 2, 16, 40)
    with pytest.raises(ValueError, match=r"16 x 40 pixels; bleeding needs at least 17 x 17"):
        bleeding(small, small)
    assert bleeding(small.repeat(1, 1, 2, 1)[:, :, :17], small.repeat(1, 1, 2, 1)[:, :, :17]).isnan().all()
