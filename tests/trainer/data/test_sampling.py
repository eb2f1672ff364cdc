from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.sampling import (
    Lane,
    Piece,
    World,
    block_for,
    blocks_from,
    crop_draws,
    lane_pieces,
    lane_range,
    locate,
    shard_order,
    steps_before,
    taken_before,
)

Sample = tuple[int, int, int]
"""Epoch, shard, index in the shard."""

repeatedly = settings(deadline=None, derandomize=True, max_examples=20)
counts_lists = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0)
lane_numbers = st.integers(1, 9)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A global batch, and numbers of ranks and workers that can share it."""
    batch = draw(st.integers(1, 12))
    ranks = st.sampled_from([number for number in range(1, batch + 1) if batch % number == 0])
    some = draw(st.lists(ranks, min_size=2, max_size=3))
    return batch, [(number, draw(st.integers(1, batch // number))) for number in some]


def lanes(number: int) -> list[Lane]:
    return [Lane(lane, number) for lane in range(number)]


def samples_of(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    return [(piece.shard, index) for piece in pieces for index in range(piece.start, piece.stop)]


def lane_stream(seed: int, position: int, lane: Lane, counts: list[int], block: int) -> Iterator[Sample]:
    for found in blocks_from(seed, position, lane, counts, block):
        row = samples_of(found.pieces)
        for place in found.order[found.skip :]:
            yield (found.epoch, *row[place])


def global_batches(
    seed: int, seen: int, batch: int, ranks: int, workers: int, counts: list[int], block: int
) -> Iterator[list[Sample]]:
    """What the loaders of all ranks do, without processes: the lanes of every worker of every rank."""
    step = steps_before(seen, batch)
    streams = [
        lane_stream(seed, step, Lane(number, batch), counts, block)
        for rank in range(ranks)
        for worker in range(workers)
        for number in World(ranks=ranks, rank=rank, workers=workers, worker=worker).lanes(batch // ranks)
    ]
    while True:
        yield [next(stream) for stream in streams]


@repeatedly
@given(counts=counts_lists, number=lane_numbers, seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_an_epoch_holds_every_sample_exactly_once_over_all_lanes(counts, number, seed, epoch):
    found = Counter(
        sample for lane in lanes(number) for sample in samples_of(lane_pieces(seed, epoch, lane, counts))
    )
    assert found == Counter((shard, index) for shard, count in enumerate(counts) for index in range(count))


@repeatedly
@given(total=st.integers(1, 60), number=lane_numbers, epoch=st.integers(0, 50))
def test_shares_of_lanes_differ_by_at_most_one(total, number, epoch):
    for lane in lanes(number):
        start, stop = lane_range(total, epoch, lane)
        assert 0 <= stop - start - total // number <= 1


@repeatedly
@given(total=st.integers(1, 60), number=lane_numbers, epochs=st.integers(0, 15))
def test_no_lane_ever_drifts_ahead_by_more_than_one_sample(total, number, epochs):
    taken = []
    for lane in lanes(number):
        ranges = [lane_range(total, epoch, lane) for epoch in range(epochs)]
        taken.append(sum(stop - start for start, stop in ranges))
        assert taken_before(total, epochs, lane) == taken[-1]
    assert max(taken) - min(taken) <= 1


@repeatedly
@given(total=st.integers(1, 40), number=lane_numbers, position=st.integers(0, 40))
def test_a_position_is_found_in_the_epoch_where_counting_finds_it(total, number, position):
    for lane in lanes(number):
        left, epoch = position, 0
        while True:
            start, stop = lane_range(total, epoch, lane)
            if left < stop - start:
                break
            left, epoch = left - (stop - start), epoch + 1
        assert locate(total, position, lane) == (epoch, left)


@repeatedly
@given(counts=counts_lists, world=worlds(), seed=st.integers(0, 1000), block=st.integers(1, 9))
@pytest.mark.training
def test_batches_are_the_same_for_any_number_of_ranks_and_workers(counts, world, seed, block):
    batch, shapes = world
    alone = list(islice(global_batches(seed, 0, batch, 1, 1, counts, block), 8))
    for ranks, workers in shapes:
        assert list(islice(global_batches(seed, 0, batch, ranks, workers, counts, block), 8)) == alone


@repeatedly
@given(counts=counts_lists, batch=st.integers(1, 12), block=st.integers(1, 9), seen=st.integers(0, 15))
def test_resuming_anywhere_equals_continuing(counts, batch, block, seen):
    straight = global_batches(3, 0, batch, 1, 1, counts, block)
    resumed = global_batches(3, seen * batch, batch, 1, 1, counts, block)
    assert list(islice(straight, seen, seen + 6)) == list(islice(resumed, 6))


@repeatedly
@given(counts=counts_lists, world=worlds(), block=st.integers(1, 9), change=st.integers(0, 20))
def test_each_epoch_is_seen_once_even_when_the_number_of_ranks_changes_within_it(counts, world, block, change):
    batch, [(before, w_before), (after, w_after), *_] = world
    epochs = 3
    steps = -(-epochs * sum(counts) // batch) + 1
    change = min(change, steps)
    seen: Counter[Sample] = Counter()
    for found in islice(global_batches(5, 0, batch, before, w_before, counts, block), change):
        seen.update(found)
    for found in islice(global_batches(5, change * batch, batch, after, w_after, counts, block), steps - change):
        assert len(found) == batch
        seen.update(found)
    assert set(seen.values()) == {1}
    complete = {(epoch, *sample) for epoch in range(epochs - 1) for sample in samples_of(whole(counts))}
    assert complete <= set(seen)


def whole(counts: list[int]) -> list[Piece]:
    return [Piece(shard, 0, count) for shard, count in enumerate(counts)]


@pytest.mark.parametrize(("batch_size", "workers"), [(8, 3), (5, 5), (7, 1)])
def test_workers_share_a_rank_s_lanes_evenly_and_in_order(batch_size: int, workers: int):
    shares = [
        World(ranks=4, rank=2, workers=workers, worker=worker).lanes(batch_size) for worker in range(workers)
    ]
    assert [lane for share in shares for lane in share] == list(range(2 * batch_size, 3 * batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_mixes_the_epoch_and_its_lanes_blocks_hold_enough_to_shuffle():
    """32 photos come from at least 8 of 20 shards, and consecutive ones of a lane are not neighbors in a tar."""
    batch = next(global_batches(0, 0, 32, 1, 1, [100] * 20, block_for(32)))
    assert len({shard for _, shard, _ in batch}) >= 8
    lane = list(islice(lane_stream(0, 0, Lane(3, 32), [100] * 20, block_for(32)), 40))
    steps = [abs(a[2] - b[2]) for a, b in pairwise(lane) if a[1] == b[1]]
    assert sum(steps) / len(steps) > 8
    assert [block_for(number) for number in (1, 32, 64, 4096)] == [2048, 64, 32, 16]


@repeatedly
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 20))
def test_shards_are_reshuffled_each_epoch_and_alike_on_every_rank(seed, epoch):
    first, second = shard_order(seed, epoch, 40), shard_order(seed, epoch + 1, 40)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert shard_order(seed + 1, epoch, 40) != first
    assert shard_order(seed, epoch, 40) == first


def test_fewer_shards_than_lanes_leave_no_lane_without_work():
    pieces = [lane_pieces(0, 0, lane, [100]) for lane in lanes(8)]
    assert sorted(sum(map(len, found)) for found in pieces) == [12] * 4 + [13] * 4


def test_a_block_mixes_its_samples_and_differs_between_epochs():
    blocks = list(islice(blocks_from(0, 0, Lane(0, 1), [100], 50), 4))
    assert [block.epoch for block in blocks] == [0, 0, 1, 1]
    assert all(sorted(block.order) == list(range(50)) for block in blocks)
    assert len({block.order for block in blocks}) == 4


def test_crops_are_a_function_of_seed_epoch_shard_and_index():
    draws = crop_draws(1, 2, 3, 1000)
    assert draws.shape == (1000, 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.03
    # A shard's first samples draw the same however many follow, so an index alone names a draw.
    assert np.array_equal(crop_draws(1, 2, 3, 10), draws[:10])
    assert not np.array_equal(crop_draws(1, 3, 3, 10), draws[:10])
    assert not np.array_equal(crop_draws(1, 2, 4, 10), draws[:10])


@pytest.mark.parametrize("seen", [-8, 4, 7])
def test_a_cut_batch_is_refused_with_what_to_do(seen: int):
    with pytest.raises(ValueError, match=rf"images_seen is {seen}.*resume with"):
        steps_before(seen, 8)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: World(ranks=2, rank=2), "rank is 2 of 2"),
        (lambda: World(workers=2, worker=-1), "worker is -1 of 2"),
        (lambda: Lane(2, 2), "lane is 2 of 2"),
        (lambda: lane_pieces(0, 0, Lane(0, 1), []), "hold 0 samples"),
        (lambda: lane_pieces(-1, 0, Lane(0, 1), [3]), "must not be negative"),
        (lambda: next(blocks_from(0, 0, Lane(0, 1), [3], 0)), "at least 1"),
    ],
)
def test_impossible_worlds_are_named(broken, message: str):
    with pytest.raises(ValueError, match=message):
        broken()
