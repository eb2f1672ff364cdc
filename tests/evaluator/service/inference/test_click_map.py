"""A list of clicks becomes the click map that the networks were trained with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluator.service.inference.click_map import PlacedClick, click_map
from kernels.clicks import place_patches

unit = st.floats(-1, 1, width=32)
clicks_on_a_small_photo = st.lists(
    st.builds(
        PlacedClick,
        row=st.integers(0, 8),
        col=st.integers(0, 12),
        ab=st.tuples(unit, unit),
        size=st.integers(1, 31),
    ),
    max_size=6,
)


@given(clicks_on_a_small_photo)
def test_it_is_what_stamping_one_click_after_the_other_gives(clicks: list[PlacedClick]):
    expected = torch.zeros(1, 3, 9, 13)
    for click in clicks:
        place = torch.tensor([click.row * 13 + click.col])
        expected = place_patches(expected, place, torch.tensor([click.ab]), click.size)
    assert torch.equal(click_map(clicks, 9, 13), expected)


def test_later_clicks_cover_earlier_ones():
    first, second = PlacedClick(2, 2, (0.1, 0.2), 3), PlacedClick(2, 3, (-0.1, -0.2), 3)
    assert click_map([first, second], 5, 6)[0, 1, 2].tolist() == pytest.approx([0, 0.1, -0.1, -0.1, -0.1, 0])


@pytest.mark.parametrize(
    ("click", "message"),
    [
        (PlacedClick(5, 0, (0, 0), 1), "click 1 is at row 5, column 0 of 5 x 6"),
        (PlacedClick(0, -1, (0, 0), 1), "column -1"),
        (PlacedClick(0, 0, (0, 0), 0), "size 0; give 1 to 31"),
        (PlacedClick(0, 0, (0, 0), 32), "size 32"),
        (PlacedClick(0, 0, (0, 1.5), 1), r"ab \(0, 1\.5\)"),
        (PlacedClick(0, 0, (float("nan"), 0), 1), "ab"),
    ],
)
def test_a_click_that_cannot_be_is_named(click: PlacedClick, message: str):
    with pytest.raises(ValueError, match=message):
        click_map([PlacedClick(0, 0, (0, 0), 1), click], 5, 6)
