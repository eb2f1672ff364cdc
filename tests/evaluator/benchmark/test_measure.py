from hypothesis import given
from hypothesis import strategies as st

from evaluator.benchmark.distributed import Ranks
from evaluator.benchmark.measure import pieces


@given(st.integers(0, 60), st.sets(st.integers(0, 59)), st.integers(1, 9))
def test_pieces_are_the_photos_that_are_left_in_runs_without_gaps(count: int, done: set[int], batch_size: int):
    found = pieces(count, done, batch_size)
    assert [index for piece in found for index in piece] == [i for i in range(count) if i not in done]
    assert all(0 < len(piece) <= batch_size and piece.step == 1 for piece in found)


@given(st.integers(0, 40), st.integers(1, 5))
def test_ranks_share_the_pieces_evenly_and_without_overlap(count: int, world_size: int):
    shares = [Ranks(rank, world_size).mine(range(count)) for rank in range(world_size)]
    assert sorted(piece for share in shares for piece in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
