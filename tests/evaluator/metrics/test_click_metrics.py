import math

import numpy as np
import pytest
import torch
from scipy.spatial import distance

from evaluator.metrics.clicks import (
    CROWDED,
    FAR,
    click_crowding,
    click_distance,
    hint_error,
    locality,
    worse_clicks,
)
from kernels.clicks import no_clicks, place_clicks

HEIGHT, WIDTH = 30, 47


@pytest.fixture
def positions() -> torch.Tensor:
    """Seven clicks on each of three photos; those of the last are within 3 px of one another."""
    rng = np.random.default_rng(0)
    spread = [rng.choice(HEIGHT * WIDTH, 7, replace=False) for _ in range(2)]
    crowd = [row * WIDTH + col for row, col in [(9, 9), (10, 9), (9, 10), (11, 10), (10, 11), (10, 10), (9, 11)]]
    return torch.from_numpy(np.stack([*spread, np.array(crowd)]))


def places(flat: torch.Tensor) -> np.ndarray:
    return np.stack(np.unravel_index(flat.numpy(), (HEIGHT, WIDTH)), axis=-1)


def random_ab(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_click_distance_is_the_mean_distance_to_the_nearest_other_click(positions):
    expected = []
    for clicks in positions:
        apart = distance.squareform(distance.pdist(places(clicks)))
        np.fill_diagonal(apart, np.inf)
        expected.append(apart.min(1).mean() / math.hypot(HEIGHT, WIDTH))
    np.testing.assert_allclose(click_distance(positions, HEIGHT, WIDTH), expected, atol=1e-12)


def test_many_random_clicks_are_as_far_apart_as_clark_and_evans_say():
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 1024**2, (20, 400), generator=generator)
    found = click_distance(positions, 1024, 1024).mean().item()
    assert found == pytest.approx(0.5 / math.sqrt(2) / math.sqrt(400), rel=0.06)


def test_click_crowding_counts_clicks_that_come_close_to_an_earlier_one(positions):
    radius = CROWDED * math.hypot(HEIGHT, WIDTH)
    expected = []
    for clicks in positions:
        at = places(clicks)
        near = [distance.cdist(at[i : i + 1], at[:i]).min() <= radius for i in range(1, len(at))]
        expected.append(np.mean(near))
    found = click_crowding(positions, HEIGHT, WIDTH)
    np.testing.assert_allclose(found, expected)
    assert found[2] == 1.0
    assert found[:2].max() < 0.5


def test_order_matters_to_crowding_only_in_which_click_is_the_late_one():
    pair_and_one = torch.tensor([[0, 1, 900], [900, 0, 1], [0, 900, 1]])
    assert click_crowding(pair_and_one, HEIGHT, WIDTH).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("placed", [0, 1])
def test_fewer_than_two_clicks_have_no_distance_and_no_crowding(positions, placed):
    for metric in (click_distance, click_crowding):
        found = metric(positions[:, :placed], HEIGHT, WIDTH)
        assert found.shape == (3,)
        assert found.isnan().all()


def placed_clicks(truth: torch.Tensor, positions: torch.Tensor, hint_size: int) -> torch.Tensor:
    clicks = no_clicks(truth)
    for choice in positions.unbind(1):
        clicks = place_clicks(clicks, truth, choice, hint_size)
    return clicks


@pytest.mark.parametrize("hint_size", [1, 3])
def test_hint_error_is_the_distance_at_the_clicked_pixels(positions, hint_size):
    truth, predicted = random_ab(1), random_ab(2)
    clicks = placed_clicks(truth, positions, hint_size)
    expected = [
        np.mean([
            math.dist(predicted[i, :, row, col].tolist(), clicks[i, 1:, row, col].tolist()) * 128
            for row, col in places(positions[i])
        ])
        for i in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(hint_error(predicted, clicks, positions), expected, rtol=1e-6)


def test_hint_error_is_zero_for_a_coloring_that_keeps_its_clicks_and_nan_without_clicks(positions):
    truth = random_ab(3)
    clicks = placed_clicks(truth, positions, 1)
    assert hint_error(clicks[:, 1:], clicks, positions).tolist() == [0.0, 0.0, 0.0]
    assert hint_error(truth, no_clicks(truth), positions[:, :0]).isnan().all()


def test_hint_error_refuses_positions_of_other_clicks(positions):
    truth = random_ab(4)
    clicks = placed_clicks(truth, positions, 1)
    with pytest.raises(ValueError, match="no click in the click map"):
        hint_error(truth, clicks, (positions + 5) % (HEIGHT * WIDTH))


def test_locality_is_the_mean_change_far_from_the_newest_click(positions):
    before, after = random_ab(5), random_ab(6)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    expected = []
    for i in range(3):
        row, col = places(positions[i])[-1]
        far = np.hypot(rows - row, cols - col) > FAR * math.hypot(HEIGHT, WIDTH)
        change = np.linalg.norm((after[i] - before[i]).double().numpy(), axis=0) * 128
        expected.append(change[far].mean())
    np.testing.assert_allclose(locality(after, before, positions), expected, rtol=1e-6)


def test_a_change_around_the_newest_click_is_local_and_a_change_everywhere_is_not():
    before = torch.zeros(1, 2, 40, 40)
    newest = torch.tensor([[20 * 40 + 20]])
    around = before.clone()
    around[..., 15:26, 15:26] = 0.5
    assert locality(around, before, newest).item() == 0.0
    assert locality(before + 0.5, before, newest).item() == pytest.approx(64 * math.sqrt(2))


def test_locality_without_clicks_or_without_far_pixels_is_nan(positions):
    ab = random_ab(7)
    assert locality(ab, None, positions[:, :0]).isnan().all()
    assert locality(ab[..., :1, :1], ab[..., :1, :1], torch.zeros(3, 1, dtype=torch.int64)).isnan().all()


def test_locality_needs_the_coloring_before_the_newest_click(positions):
    with pytest.raises(ValueError, match="previous_ab"):
        locality(random_ab(8), None, positions)


def test_half_precision_is_compared_in_float32(positions):
    truth, before, after = (random_ab(seed).bfloat16() for seed in (9, 10, 11))
    clicks = placed_clicks(truth, positions, 1)
    assert torch.equal(hint_error(after, clicks, positions), hint_error(after.float(), clicks, positions))
    assert torch.equal(locality(after, before, positions), locality(after.float(), before.float(), positions))


def test_a_click_that_raises_the_error_is_worse_and_one_that_changes_nothing_is_not(positions):
    truth = random_ab(12)
    before, after = truth.clone(), truth.clone()
    before[0, 0, 3, 4], after[0, 0, 3, 4] = truth[0, 0, 3, 4] + 0.2, truth[0, 0, 3, 4] + 0.3  # worse
    before[1, 1, 0, 0], after[1, 0, 9, 9] = truth[1, 1, 0, 0] - 0.3, truth[1, 0, 9, 9] + 0.1  # better elsewhere
    before[2], after[2] = truth[2] + 0.1, truth[2] + 0.1
    assert worse_clicks(after, before, truth, positions).tolist() == [1.0, 0.0, 0.0]
    assert worse_clicks(before, after, truth, positions).tolist() == [0.0, 1.0, 0.0]


def test_harm_is_that_of_the_mean_squared_error(positions):
    truth, before, after = (random_ab(seed) for seed in (13, 14, 15))
    errors = [((ab - truth).double().numpy() ** 2).mean((1, 2, 3)) for ab in (before, after)]
    assert worse_clicks(after, before, truth, positions).tolist() == (errors[1] > errors[0]).tolist()


def test_harm_is_undefined_without_a_click_and_needs_the_coloring_before_it(positions):
    truth = random_ab(16)
    assert worse_clicks(truth, None, truth, positions[:, :0]).isnan().all()
    with pytest.raises(ValueError, match="previous_ab"):
        worse_clicks(truth, None, truth, positions)
