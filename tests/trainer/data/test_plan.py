from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.plan import (
    Piece,
    World,
    blocks_from,
    crop_draws,
    epoch_plan,
    locate,
    reader_range,
    resume_at,
    shard_order,
    taken_before,
)

Sample = tuple[int, int, int]
"""Epoch, shard, index in the shard."""

repeatedly = settings(deadline=None, derandomize=True, max_examples=50)
counts_lists = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0)
worlds = st.tuples(st.integers(1, 5), st.integers(1, 4))


def every_reader(ranks: int, workers: int) -> list[World]:
    return [
        World(ranks=ranks, rank=rank, workers=workers, worker=worker)
        for rank in range(ranks)
        for worker in range(workers)
    ]


def samples_of(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.shard, index) for piece in pieces for index in range(piece.start, piece.stop)]


def reader_stream(seed: int, position: int, world: World, counts: list[int], block: int):
    for found in blocks_from(seed, position, world, counts, block):
        row = samples_of(list(found.pieces))
        for place in found.order[found.skip :]:
            yield (found.epoch, *row[place])


def rank_batches(
    seed: int, seen: int, size: int, rank: int, ranks: int, workers: int, counts: list[int], block: int
):
    """What a rank's loader does, without processes: whole batches from its workers in turn."""
    start = resume_at(seen, size, ranks, workers)
    streams = [
        reader_stream(
            seed, start.taken[w], World(ranks=ranks, rank=rank, workers=workers, worker=w), counts, block
        )
        for w in range(workers)
    ]
    worker = start.first_worker
    while True:
        yield list(islice(streams[worker], size))
        worker = (worker + 1) % workers


@repeatedly
@given(counts=counts_lists, world=worlds, seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_an_epoch_holds_every_sample_exactly_once_over_ranks_and_workers(counts, world, seed, epoch):
    found = Counter(
        sample for reader in every_reader(*world) for sample in samples_of(epoch_plan(seed, epoch, reader, counts))
    )
    assert found == Counter((shard, index) for shard, count in enumerate(counts) for index in range(count))


@repeatedly
@given(total=st.integers(1, 60), world=worlds, epoch=st.integers(0, 50))
def test_shares_of_readers_and_of_ranks_differ_by_at_most_one(total, world, epoch):
    lengths = Counter()
    for reader in every_reader(*world):
        start, stop = reader_range(total, epoch, reader)
        lengths[reader.rank] += stop - start
        assert 0 <= stop - start - total // reader.readers <= 1
    assert max(lengths.values()) - min(lengths.values()) <= 1


@repeatedly
@given(total=st.integers(1, 60), world=worlds, epochs=st.integers(0, 40))
def test_no_reader_ever_drifts_ahead_by_more_than_one_sample(total, world, epochs):
    taken = []
    for reader in every_reader(*world):
        ranges = [reader_range(total, epoch, reader) for epoch in range(epochs)]
        taken.append(sum(stop - start for start, stop in ranges))
        assert taken_before(total, epochs, reader) == taken[-1]
    assert max(taken) - min(taken) <= 1


@repeatedly
@given(total=st.integers(1, 40), world=worlds, position=st.integers(0, 100))
def test_a_position_is_found_in_the_epoch_where_counting_finds_it(total, world, position):
    for reader in every_reader(*world):
        left, epoch = position, 0
        while True:
            start, stop = reader_range(total, epoch, reader)
            if left < stop - start:
                break
            left, epoch = left - (stop - start), epoch + 1
        assert locate(total, position, reader) == (epoch, left)


@repeatedly
@given(
    counts=counts_lists,
    world=worlds,
    size=st.integers(1, 7),
    seed=st.integers(0, 1000),
    block=st.integers(1, 9),
    seen=st.integers(0, 15),
)
def test_resuming_anywhere_equals_continuing(counts, world, size, seed, block, seen):
    ranks, workers = world
    for rank in range(ranks):
        straight = rank_batches(seed, 0, size, rank, ranks, workers, counts, block)
        resumed = rank_batches(seed, seen * size * ranks, size, rank, ranks, workers, counts, block)
        assert list(islice(straight, seen, seen + 6)) == list(islice(resumed, 6))


@repeatedly
@given(counts=counts_lists, world=worlds, size=st.integers(1, 7), block=st.integers(1, 9))
def test_all_ranks_together_see_each_epoch_once_in_equal_batches(counts, world, size, block):
    ranks, workers = world
    epochs = 3
    steps = -(-epochs * sum(counts) // (ranks * size)) + workers * (1 + max(counts) // size)
    seen: Counter[Sample] = Counter()
    for rank in range(ranks):
        for batch in islice(rank_batches(3, 0, size, rank, ranks, workers, counts, block), steps):
            assert len(batch) == size
            seen.update(batch)
    assert set(seen.values()) == {1}
    complete = {(0, shard, index) for shard, count in enumerate(counts) for index in range(count)}
    assert complete <= set(seen)


@repeatedly
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 20))
def test_shards_are_reshuffled_each_epoch_and_alike_on_every_rank(seed, epoch):
    first, second = shard_order(seed, epoch, 40), shard_order(seed, epoch + 1, 40)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert shard_order(seed + 1, epoch, 40) != first
    assert shard_order(seed, epoch, 40) == first


def test_fewer_shards_than_readers_leave_nobody_without_work():
    pieces = [epoch_plan(0, 0, reader, [100]) for reader in every_reader(4, 2)]
    assert sorted(sum(map(len, found)) for found in pieces) == [12] * 4 + [13] * 4


def test_a_block_mixes_its_samples_and_differs_between_epochs():
    blocks = list(islice(blocks_from(0, 0, World(), [100], 50), 4))
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
        resume_at(seen, 4, 2, 1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: World(ranks=2, rank=2), "rank is 2 of 2"),
        (lambda: World(workers=2, worker=-1), "worker is -1 of 2"),
        (lambda: epoch_plan(0, 0, World(), []), "hold 0 samples"),
        (lambda: epoch_plan(-1, 0, World(), [3]), "must not be negative"),
        (lambda: next(blocks_from(0, 0, World(), [3], 0)), "at least 1"),
    ],
)
def test_impossible_worlds_are_named(broken, message: str):
    with pytest.raises(ValueError, match=message):
        broken()
