"""The click map: patches, colors, what is taken; against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.clicks import (
    clicked,
    hint_colors,
    masked_argmax,
    no_clicks,
    one_hot,
    place,
    place_clicks,
    random_choice,
    scatter_clicks,
)


def truth(height: int = 9, width: int = 11, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def patched(ab: np.ndarray, row: int, col: int, size: int) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns and mean color of a patch, written as a person would describe it."""
    rows = slice(max(0, row - (size - 1) // 2), row + size // 2 + 1)
    cols = slice(max(0, col - (size - 1) // 2), col + size // 2 + 1)
    return rows, cols, ab[:, rows, cols].mean((1, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 8),
    st.integers(0, 10),
    st.integers(1, 6),
    st.integers(0, 8),
    st.integers(0, 10),
    st.integers(1, 6),
)
def test_a_click_stamps_the_mean_color_and_covers_older_ones(r1: int, c1: int, s1: int, r2: int, c2: int, s2: int):
    ab = truth(batch=1)
    clicks = no_clicks(ab)
    expected = np.zeros((3, 9, 11), dtype=np.float32)
    for row, col, size in ((r1, c1, s1), (r2, c2, s2)):
        clicks = place_clicks(clicks, ab, torch.tensor([row * 11 + col]), size)
        rows, cols, color = patched(ab[0].numpy(), row, col, size)
        expected[0, rows, cols] = 1
        expected[1:, rows, cols] = color[:, None, None]
    np.testing.assert_allclose(clicks[0].numpy(), expected, atol=1e-6)


def test_one_pixel_clicks_carry_their_own_color_exactly():
    ab = truth()
    clicks = place_clicks(no_clicks(ab), ab, torch.tensor([13, 98]))
    assert torch.equal(clicks[0, :, 1, 2], torch.cat([torch.ones(1), ab[0, :, 1, 2]]))
    assert torch.equal(clicks[1, :, 8, 10], torch.cat([torch.ones(1), ab[1, :, 8, 10]]))
    assert clicked(clicks).sum() == 2


def test_placing_leaves_the_given_map_alone():
    ab = truth()
    before = no_clicks(ab)
    place_clicks(before, ab, torch.tensor([0, 0]), 3)
    assert not before.any()


def test_many_clicks_at_once_equal_one_after_another_where_stamps_do_not_touch():
    ab = truth(batch=1)
    places = torch.zeros(1, 9, 11)
    one_by_one = no_clicks(ab)
    for row, col in ((1, 1), (1, 6), (6, 2), (7, 9)):
        places[0, row, col] = 1
        one_by_one = place_clicks(one_by_one, ab, torch.tensor([row * 11 + col]), 3)
    assert torch.allclose(scatter_clicks(hint_colors(ab, 3), places, 3), one_by_one, atol=1e-6)


def test_overlapping_stamps_average_when_placed_at_once():
    ab = truth(batch=1)
    places = torch.zeros(1, 9, 11)
    places[0, 4, 4] = places[0, 4, 5] = 1
    colors = hint_colors(ab, 3)
    both = scatter_clicks(colors, places, 3)
    assert torch.allclose(both[0, 1:, 4, 4], (colors[0, :, 4, 4] + colors[0, :, 4, 5]) / 2, atol=1e-6)
    assert set(both[0, 0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("hint_size", [1, 2, 3, 4])
def test_the_gradient_at_a_pixel_is_that_of_its_candidate_click(hint_size: int):
    """d(mask) + d(a) a + d(b) b over the candidate's own patch, as the kernels will have to compute it."""
    ab = truth(6, 7, batch=1, dtype=torch.float64)
    weights = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    selection = one_hot(torch.tensor([17]), 6, 7).double().requires_grad_()
    # float64 throughout: `place` works in float32, so compare at its precision.
    (place(no_clicks(ab), hint_colors(ab, hint_size), selection, hint_size) * weights).sum().backward()
    expected = np.zeros((6, 7))
    for row in range(6):
        for col in range(7):
            rows, cols, color = patched(ab[0].numpy(), row, col, hint_size)
            covered = weights[0].numpy()[:, rows, cols].sum((1, 2))
            expected[row, col] = covered[0] + covered[1:] @ color
    assert selection.grad is not None
    np.testing.assert_allclose(selection.grad[0].numpy(), expected, atol=1e-5)


def test_random_choice_is_uniform_over_what_is_free_and_never_taken():
    ab = truth(4, 4, batch=3000)
    clicks = place_clicks(no_clicks(ab), ab, torch.full((3000,), 5))
    choice = random_choice(clicks, torch.rand(3000, 4, 4, generator=torch.Generator().manual_seed(2)))
    counts = choice.bincount(minlength=16)
    assert counts[5] == 0
    free = counts[counts > 0].double()
    assert len(free) == 15
    assert ((free - 200).abs() < 5 * 200**0.5).all()


def test_a_free_pixel_wins_even_with_a_score_of_minus_infinity():
    taken = torch.ones(1, 2, 2, dtype=torch.bool)
    taken[0, 1, 0] = False
    scores = torch.tensor([[[3.0, 1e30], [-torch.inf, torch.inf]]])
    assert masked_argmax(scores, taken).tolist() == [2]


def test_ties_go_to_the_first_free_pixel():
    taken = torch.tensor([[[True, False], [False, False]]])
    assert masked_argmax(torch.zeros(1, 2, 2), taken).tolist() == [1]


def test_a_fully_clicked_photo_is_a_clear_error():
    ab = truth(2, 2)
    full = scatter_clicks(ab, torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="all pixels of 2 of 2 photos are clicked"):
        random_choice(full, torch.zeros(2, 2, 2))


def test_a_hint_size_below_one_is_a_clear_error():
    ab = truth()
    with pytest.raises(ValueError, match="hint_size is 0"):
        place_clicks(no_clicks(ab), ab, torch.tensor([0, 0]), 0)
