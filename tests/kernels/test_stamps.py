import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.clicks import nearest_free, place_clicks, place_patches


def patched_by_hand(clicks: np.ndarray, position: int, color: np.ndarray, size: int) -> None:
    """In place, pixel by pixel, as `kernels.clicks` words it: rows row - (s-1)//2 ... row + s//2, cut off."""
    _, height, width = clicks.shape
    row, col = divmod(position, width)
    for r in range(row - (size - 1) // 2, row + size // 2 + 1):
        for c in range(col - (size - 1) // 2, col + size // 2 + 1):
            if 0 <= r < height and 0 <= c < width:
                clicks[:, r, c] = 1, *color


def some_clicks(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Places (2, count) and colors (2, count, 2) of overlapping clicks in two photos."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(height * width, (2, count), generator=generator)
    return places, torch.rand(2, count, 2, generator=generator) - 0.5


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 9), height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_later_stamps_cover_earlier_ones_and_are_cut_off_at_the_border(size, height, width, seed):
    places, colors = some_clicks(5, height, width, seed)
    clicks = torch.zeros(2, 3, height, width)
    expected = np.zeros((2, 3, height, width), dtype=np.float32)
    for step in range(5):
        clicks = place_patches(clicks, places[:, step], colors[:, step], size)
        for photo in range(2):
            patched_by_hand(expected[photo], int(places[photo, step]), colors[photo, step].numpy(), size)
    np.testing.assert_array_equal(clicks.numpy(), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
def test_a_stamp_in_the_patch_mean_is_bit_equal_to_the_click_of_the_kernels(size):
    truth = torch.rand(2, 2, 13, 10, generator=torch.Generator().manual_seed(1)) - 0.5
    places, _ = some_clicks(8, 13, 10)
    ours = theirs = torch.zeros(2, 3, 13, 10)
    for place in places.unbind(1):
        theirs = place_clicks(theirs, truth, place, size)
        at = theirs.flatten(2).gather(2, place[:, None, None].expand(-1, 3, 1))[:, 1:, 0]
        ours = place_patches(ours, place, at, size)
    assert torch.equal(ours, theirs)


def test_a_stamp_leaves_the_map_before_it_as_it_was():
    before = torch.zeros(1, 3, 4, 4)
    place_patches(before, torch.tensor([5]), torch.ones(1, 2), 3)
    assert before.sum() == 0


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_the_nearest_free_pixel_agrees_with_a_search_over_all_pixels(share):
    generator = torch.Generator().manual_seed(3)
    taken = torch.rand(40, 9, 14, generator=generator) < share
    taken[:, 8, 13] = False
    places = torch.randint(9 * 14, (40,), generator=generator)
    for photo, (place, found) in enumerate(
        zip(places.tolist(), nearest_free(places, taken).tolist(), strict=True)
    ):
        row, col = divmod(place, 14)
        free = [divmod(int(i), 14) for i in np.flatnonzero(~taken[photo].numpy())]
        nearest = min(free, key=lambda at: ((at[0] - row) ** 2 + (at[1] - col) ** 2, at))
        assert divmod(found, 14) == nearest


def test_a_photo_without_a_free_pixel_has_no_nearest_one():
    taken = torch.zeros(2, 3, 3, dtype=torch.bool)
    taken[1] = True
    with pytest.raises(ValueError, match="all pixels of 1 of 1 photos are clicked"):
        nearest_free(torch.tensor([0, 4]), taken)
