import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from evaluator.policies import RandomPolicy, RegionCenterPolicy, State
from evaluator.protocol.evaluate import Protocol, Results, evaluate
from evaluator.protocol.rollout import Photos, rollout
from evaluator.protocol.simulated_user import EXACT, SimulatedUser
from kernels.clicks import clicked, hint_colors, no_clicks
from kernels.noise import box_muller, sample_keys, uniform

CLUMSY = SimulatedUser(position_sigma=1.5, colour_sigma=6.0)
BUDGETS = (0, 1, 3, 6)


def measured(colorizer, photos: Tensor, robot: SimulatedUser, first_index: int = 0, **settings) -> Results:
    policies = {"random": RandomPolicy(), "region": RegionCenterPolicy()}
    protocol = Protocol(clicks=BUDGETS, robot=robot, **settings)
    return evaluate(colorizer, policies, photos, protocol, first_index=first_index)


def test_the_gaussian_noise_is_gaussian_and_independent():
    numbers = box_muller(uniform(sample_keys(0, 0, 20_000), 0, 2))
    assert numbers.dtype == torch.float64
    for column in numbers.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers.T**2)[0, 1]) < 0.02


def test_places_miss_by_a_rounded_gaussian_of_the_stated_width():
    count, size, sigma = 20_000, 65, 3.0
    middle = torch.full((count,), 32 * size + 32)
    robot = SimulatedUser(position_sigma=sigma)
    hit = robot.reach(middle, torch.zeros(count, size, size, dtype=torch.bool), sample_keys(1, 0, count), 4)
    misses = torch.stack([hit // size - 32, hit % size - 32]).numpy()
    bins = np.arange(-7, 8)
    expected = stats.norm.cdf(bins + 0.5, scale=sigma) - stats.norm.cdf(bins - 0.5, scale=sigma)
    for along in misses:
        seen = (along[:, None] == bins).sum(0)
        tails = count * (1 - expected.sum())
        assert stats.chisquare([*seen, count - seen.sum()], [*(count * expected), tails]).pvalue > 0.01
    assert abs(np.corrcoef(misses)[0, 1]) < 0.02


def test_colors_miss_by_a_gaussian_of_the_stated_width_in_cie_units():
    count, sigma = 20_000, 10.0
    colors = torch.tensor([0.2, -0.1]).view(1, 2, 1, 1).expand(count, 2, 1, 1)
    place = torch.zeros(count, dtype=torch.int64)
    named = SimulatedUser(colour_sigma=sigma).name_colors(colors, place, sample_keys(2, 0, count), 0)
    misses = (named - colors[0, :, 0, 0]).double().numpy() * 128 / sigma
    for column in misses.T:
        assert stats.kstest(column, "norm").pvalue > 0.01
    assert abs(np.corrcoef(misses[:, 0], misses[:, 1])[0, 1]) < 0.02


def test_noise_stays_inside_the_photo_and_the_range_of_ab():
    keys = sample_keys(3, 0, 500)
    wild = SimulatedUser(position_sigma=50.0, colour_sigma=500.0)
    place = torch.arange(500) % 12
    hit = wild.reach(place, torch.zeros(500, 3, 4, dtype=torch.bool), keys, 0)
    assert {0, 3, 8, 11} <= set(hit.tolist()) <= set(range(12))
    named = wild.name_colors(torch.zeros(500, 2, 3, 4), hit, keys, 0)
    assert named.abs().max() == 1.0


def test_a_miss_onto_a_clicked_pixel_goes_to_an_unclicked_one(photos):
    robot = SimulatedUser(position_sigma=0.4)
    batch = Photos.from_rgb(photos[:, :, :3, :3], seed=0, first_index=0)
    clicks, colors = no_clicks(batch.truth_ab), batch.truth_ab
    hits = torch.empty(9, 0, dtype=torch.int64)
    for step in range(9):
        state = State(lightness=batch.lightness, clicks=clicks, keys=batch.keys, positions=hits)
        choice = RandomPolicy().choose(state)
        clicks, hit = robot.click(clicks, colors, choice, batch.keys, step=step, hint_size=1)
        hits = torch.cat([hits, hit[:, None]], dim=1)
    assert clicked(clicks).all()
    assert (hits.sort(dim=1).values == torch.arange(9)).all()


def test_the_color_is_that_of_the_place_that_was_hit(photos):
    batch = Photos.from_rgb(photos, seed=0, first_index=0)
    robot = SimulatedUser(position_sigma=3.0)
    choice = torch.full((9,), 300)
    clicks, hit = robot.click(no_clicks(batch.truth_ab), batch.truth_ab, choice, batch.keys, step=0, hint_size=1)
    assert (hit != choice).any()
    for photo in range(9):
        row, col = divmod(int(hit[photo]), 24)
        assert torch.equal(clicks[photo, 1:, row, col], batch.truth_ab[photo, :, row, col])
        assert clicks[photo, 0].sum() == 1


@pytest.mark.parametrize("robot", [EXACT, CLUMSY], ids=["exact", "clumsy"])
@pytest.mark.parametrize("hint_size", [1, 2, 6])
def test_the_click_map_can_be_made_again_from_the_stored_places(colorizer, photos, robot, hint_size):
    batch = Photos.from_rgb(photos, seed=4, first_index=2)
    steps = rollout(colorizer, RandomPolicy(), batch, budgets=(5,), hint_size=hint_size, robot=robot)
    (last,) = steps
    assert torch.equal(robot.click_map(batch.truth_ab, last.positions, batch.keys, hint_size), last.clicks)


def test_a_clumsy_robot_is_the_same_for_every_split_and_every_repetition(colorizer, photos):
    whole = measured(colorizer, photos, CLUMSY, batch_size=4)
    parts = [
        measured(colorizer, photos[first:stop], CLUMSY, first, batch_size=4) for first, stop in [(4, 9), (0, 4)]
    ]
    merged = Results.merge(parts)
    for other in (merged, measured(colorizer, photos, CLUMSY, batch_size=4)):
        for policy in whole.policies:
            np.testing.assert_array_equal(other.positions(policy), whole.positions(policy))
            for metric in whole.metrics:
                np.testing.assert_allclose(other.values(policy, metric), whole.values(policy, metric), atol=1e-6)


def test_clumsiness_costs_quality_and_changes_nothing_before_the_first_click(colorizer, photos):
    exact, clumsy = (measured(colorizer, photos, robot) for robot in (EXACT, SimulatedUser(colour_sigma=25.0)))
    for policy in exact.policies:
        before, after = (exact.values(policy, "ab_psnr") - clumsy.values(policy, "ab_psnr"))[:, [0, -1]].T
        assert (before == 0).all()
        assert after.mean() > 0.3


def test_different_seeds_make_different_errors():
    truth = torch.zeros(1, 2, 1, 1)
    place = torch.zeros(1, dtype=torch.int64)
    named = {
        tuple(CLUMSY.name_colors(truth, place, sample_keys(seed, 0, 1), step)[0].tolist())
        for seed in range(3)
        for step in range(3)
    }
    assert len(named) == 9


def test_the_robot_is_stated_in_words_and_in_every_row(colorizer, photos):
    assert EXACT.words == "true colours"
    assert SimulatedUser(position_sigma=2.0).words == "places off by 2 px (standard deviation)"
    assert CLUMSY.words == "places off by 1.5 px and a* and b* off by 6 CIE units (standard deviation)"
    for row in measured(colorizer, photos, CLUMSY).rows():
        assert (row["robot_position_sigma"], row["robot_colour_sigma"]) == (1.5, 6.0)


@pytest.mark.parametrize("settings", [{"position_sigma": -1.0}, {"colour_sigma": float("nan")}])
def test_a_robot_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is .*; it must be finite and at least 0"):
        SimulatedUser(**settings)


def test_an_even_hint_is_the_mean_of_the_patch_with_one_more_pixel_below_and_right(photos):
    """RTUG's 6 x 6 patches: rows r - 2 ... r + 3, cut off at the border."""
    batch = Photos.from_rgb(photos[:2], seed=0, first_index=0)
    places = torch.tensor([0, 11 * 24 + 23])
    clicks, _ = EXACT.click(
        no_clicks(batch.truth_ab), hint_colors(batch.truth_ab, 6), places, batch.keys, step=0, hint_size=6
    )
    for photo, (rows, cols) in enumerate([(slice(0, 4), slice(0, 4)), (slice(9, 15), slice(21, 24))]):
        patch = batch.truth_ab[photo, :, rows, cols].double().mean((1, 2))
        inside = clicks[photo, :, rows, cols]
        assert (inside[0] == 1).all()
        np.testing.assert_allclose(inside[1:].flatten(1).T, patch.expand(inside[0].numel(), 2), atol=1e-6)
        assert clicks[photo, 0].sum() == inside[0].numel()
