"""How photos are cut into programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.choose_click.tiling import LARGEST_BLOCK, SMALLEST_BLOCK, cut, make_plan, power_of_two

COUNTS = st.integers(1, 2**12)
PIXELS = st.integers(1, 2**24)
H200 = 132


@given(batch=COUNTS, pixels=PIXELS, processors=st.integers(1, 512))
def test_tiles_cover_every_pixel_and_none_is_empty(batch: int, pixels: int, processors: int):
    plan = make_plan(batch, pixels, processors)
    assert (plan.tiles - 1) * plan.block < pixels <= plan.tiles * plan.block
    assert plan.block.bit_count() == 1
    assert 4 <= plan.block <= LARGEST_BLOCK
    assert plan.block >= min(SMALLEST_BLOCK, pixels)
    assert 1 <= plan.warps <= 8
    assert plan == cut(pixels, plan.block)


@given(batch=COUNTS, pixels=PIXELS, processors=st.integers(1, 512))
def test_one_program_handles_a_photo_exactly_up_to_the_largest_block(batch: int, pixels: int, processors: int):
    assert make_plan(batch, pixels, processors).single == (pixels <= LARGEST_BLOCK)


@given(pixels=PIXELS, processors=st.integers(1, 512), batch=COUNTS, more=COUNTS)
def test_a_larger_batch_is_never_cut_finer(pixels: int, processors: int, batch: int, more: int):
    assert make_plan(batch + more, pixels, processors).block >= make_plan(batch, pixels, processors).block


@pytest.mark.parametrize(
    ("batch", "side", "fewest_programs"),
    [(1, 256, 64), (1, 1024, 4 * H200), (16, 256, 4 * H200), (1024, 64, 1024)],
)
def test_small_batches_still_fill_a_gpu(batch: int, side: int, fewest_programs: int):
    assert batch * make_plan(batch, side * side, H200).tiles >= fewest_programs


@pytest.mark.parametrize(("batch", "side"), [(1024, 1024), (1, 1024), (64, 256)])
def test_the_tiles_of_a_photo_are_few_enough_to_be_combined_by_one_program(batch: int, side: int):
    assert make_plan(batch, side * side, H200).tiles <= 1024


def test_large_batches_get_the_largest_tiles():
    assert make_plan(64, 256 * 256, H200).block == LARGEST_BLOCK


@given(st.integers(1, 2**30))
def test_the_next_power_of_two(count: int):
    power = power_of_two(count)
    assert power.bit_count() == 1
    assert power >= max(count, 4)
    assert power // 2 < max(count, 4)
