import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial import KDTree

from evaluator.policies import FarthestPolicy, GaussianPolicy, GridPolicy, RandomPolicy
from kernels.noise import sample_keys
from tests.evaluator.policies.states import click, place_of, state_of


def test_random_clicks_are_uniform_over_the_unclicked_pixels():
    state = state_of(4000, 4, 4)
    taken = [0, 5, 6, 15]
    for pixel in taken:
        state = click(state, torch.full((4000,), pixel))
    counts = np.bincount(RandomPolicy().choose(state).numpy(), minlength=16)
    assert counts[taken].sum() == 0
    assert stats.chisquare(np.delete(counts, taken)).pvalue > 0.01


@pytest.mark.parametrize("policy", [RandomPolicy(), GaussianPolicy()], ids=["random", "gaussian"])
def test_noise_changes_with_seed_and_click(policy):
    state = state_of(8, 32, 32)
    choice = policy.choose(state)
    other_seed = type(state)(**{**vars(state), "keys": sample_keys(8, 0, 8)})
    assert not torch.equal(choice, policy.choose(other_seed))
    assert not torch.equal(choice, policy.choose(click(state, choice)))


def test_gaussian_clicks_follow_the_density_at_the_unclicked_pixels():
    count, height, width = 20_000, 6, 8
    state = state_of(count, height, width)
    taken = [21, 27]
    for pixel in taken:
        state = click(state, torch.full((count,), pixel))
    counts = np.bincount(GaussianPolicy().choose(state).numpy(), minlength=48)
    rows = stats.norm.pdf(np.arange(height), loc=2.5, scale=height / 4)
    cols = stats.norm.pdf(np.arange(width), loc=3.5, scale=width / 4)
    density = np.delete(np.outer(rows, cols).ravel(), taken)
    assert counts[taken].sum() == 0
    expected = count * density / density.sum()
    assert stats.chisquare(np.delete(counts, taken), expected).pvalue > 0.01


def test_a_gaussian_without_width_is_refused():
    with pytest.raises(ValueError, match=r"sigma is 0.0; it must be above 0"):
        GaussianPolicy(sigma=0.0)


def grid_places(count: int, height: int, width: int) -> np.ndarray:
    state = state_of(1, height, width)
    for _ in range(count):
        state = click(state, GridPolicy().choose(state))
    return np.array([divmod(place, width) for place in state.positions[0].tolist()])


def test_the_grid_is_the_same_for_every_photo():
    state = state_of(5, 21, 35)
    assert len(set(GridPolicy().choose(state).tolist())) == 1


def test_the_first_n_grid_clicks_leave_no_large_hole_and_no_close_pair_for_every_n():
    """In a square of side 1, over all pixels and pairs; random points leave holes of up to 2 / sqrt(n)."""
    places = (grid_places(60, 64, 64) + 0.5) / 64
    pixels = (np.indices((64, 64)).reshape(2, -1).T + 0.5) / 64
    for n in range(2, 61):
        tree = KDTree(places[:n])
        assert tree.query(pixels)[0].max() < 1.3 / np.sqrt(n)
        assert tree.query(places[:n], k=2)[0][:, 1].min() > 0.5 / np.sqrt(n)


def test_grid_points_on_one_pixel_go_to_neighbors():
    places = grid_places(6, 2, 3)
    assert len(np.unique(places, axis=0)) == 6


@pytest.mark.parametrize("border", [False, True])
def test_the_farthest_pixel_agrees_with_scipy_distance_transform(border):
    state = state_of(3, 17, 23)
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        state = click(state, torch.randint(17 * 23, (3,), generator=generator))
        free = state.clicks[:, 0].numpy() == 0
        choice = FarthestPolicy(border=border).choose(state)
        for photo, place in enumerate(choice.tolist()):
            padded = np.pad(free[photo], 1, constant_values=not border)
            distance = ndimage.distance_transform_edt(padded)
            assert isinstance(distance, np.ndarray)
            distance = distance[1:-1, 1:-1]
            row, col = divmod(place, 23)
            assert distance[row, col] == distance.max()
            assert place == distance.argmax()  # the first of equals


@pytest.mark.parametrize("border", [False, True])
def test_the_first_farthest_click_is_in_the_middle(border):
    state = state_of(2, 15, 15)
    assert place_of(state, FarthestPolicy(border=border).choose(state)) == [(7, 7)] * 2
