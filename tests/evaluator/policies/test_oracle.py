from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from evaluator.policies import BlurredErrorPolicy, MaxErrorPolicy, RegionCenterPolicy
from evaluator.policies.oracle import peak
from kernels.clicks import clicked
from tests.evaluator.policies.states import click, colors, place_of, state_of


def wrong_in_two_places():
    """Right but for a square of 9 x 9 around (8, 9) and a single pixel at (25, 25), which is far more wrong."""
    state = state_of(1, 32, 32)
    predicted = colors(state)[1].clone()
    predicted[:, :, 4:13, 5:14] += 0.2
    predicted[:, :, 25, 25] += 0.9
    return replace(state, predicted_ab=predicted)


def test_max_error_takes_the_pixel_farthest_from_its_true_color():
    state = state_of()
    predicted, truth = colors(state)
    error = np.linalg.norm(predicted.numpy() - truth.numpy(), axis=1).reshape(4, -1)
    assert MaxErrorPolicy().choose(state).tolist() == error.argmax(1).tolist()


def test_regions_are_clicked_in_their_middle_where_max_error_takes_an_extreme_pixel():
    state = wrong_in_two_places()
    assert place_of(state, MaxErrorPolicy().choose(state)) == [(25, 25)]
    assert place_of(state, RegionCenterPolicy().choose(state)) == [(8, 9)]
    assert place_of(state, BlurredErrorPolicy(blur=3 / 32).choose(state)) == [(8, 9)]


def test_region_center_keeps_away_from_earlier_clicks():
    state = wrong_in_two_places()
    state = click(state, RegionCenterPolicy().choose(state))
    assert clicked(state.clicks).sum() == 1
    ((row, col),) = place_of(state, RegionCenterPolicy().choose(state))
    assert np.hypot(row - 8, col - 9) > 3


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 56)])
def test_blurred_error_agrees_with_scipy_click_by_click(height, width):
    """Blur of 3 px and discs of 5 px at 64 px; both grow with the shorter side."""
    state = state_of(2, height, width)
    predicted, truth = (x.double().numpy() for x in colors(state))
    scale = min(height, width) / 64
    rows, cols = np.indices((height, width))
    blurred = [ndimage.gaussian_filter(128 * np.hypot(*difference), 3 * scale) for difference in predicted - truth]
    free = np.ones((2, height, width), dtype=bool)
    for _ in range(12):
        choice = BlurredErrorPolicy().choose(state)
        for photo, (row, col) in enumerate(place_of(state, choice)):
            best = np.where(free[photo], blurred[photo], -1).max()
            assert free[photo, row, col]
            assert blurred[photo][row, col] == pytest.approx(best, rel=1e-5)
            free[photo] &= np.hypot(rows - row, cols - col) > 5 * scale
        state = click(state, choice)


def test_where_everything_lies_near_a_click_the_best_unclicked_pixel_is_taken():
    scores = torch.tensor([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]])
    taken = torch.zeros(1, 2, 3, dtype=torch.bool)
    taken[0, 1, 0] = True
    assert peak(scores, taken, blur=0.0, inhibition=10.0).item() == 4
    assert peak(scores, taken, blur=0.0, inhibition=0.5).item() == 5  # 1 px: (1, 1) and (0, 0) are too near
    assert peak(scores, taken, blur=0.0, inhibition=0.0).item() == 4


def test_equal_scores_go_to_the_first_pixel_that_may_be_clicked():
    taken = torch.zeros(1, 4, 4, dtype=torch.bool)
    taken[0, 0, 0] = True
    assert peak(torch.ones(1, 4, 4), taken, blur=0.0, inhibition=0.25).item() == 2
