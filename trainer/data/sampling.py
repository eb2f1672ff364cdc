"""Which photo comes when: a pure function of seed, position and global batch. No files, no torch, no processes.

The training stream is an endless row of epochs, read by as many *lanes* as the global batch has photos: step s
takes the s-th photo of every lane, in the lanes' order. An epoch shuffles the shards, lays their photos in a row
and cuts that row into one range for each lane (a range may begin and end inside a shard), so each photo is read
exactly once. The lanes' ranges differ by at most one photo, and the longer ones rotate with the epoch: after any
number of epochs no lane is ahead of another by more than one. A batch may hold the tail of one epoch and the head
of the next.

Processes and their workers share the lanes out: rank r of R serves the r-th R-th of them, and its workers part of
that each. So a batch does not depend on how many processes or workers there are, a training continues with other
numbers of them, and progress is one number, `images_seen`: every lane's place is `images_seen` / global batch.

Inside a lane's range photos are shuffled in blocks of a fixed size. A block is what a reader must know to start
anywhere inside it; a reservoir would need the whole history. Neighbors in a batch come from different lanes, so
from places all over the epoch.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

# Purposes keep the draws of one (seed, epoch) apart.
_SHARD_ORDER, _BLOCK_ORDER, _CROPS = 1, 2, 3
_MIXED = 2048
"""Photos that all lanes' blocks together hold, unless a lane would have fewer than `_SMALLEST_BLOCK`."""
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, kw_only=True)
class World:
    """One reader's place among all: `worker` of `workers` in `rank` of `ranks`."""

    ranks: int = 1
    """Processes that train together."""
    rank: int = 0
    """This process, 0 ... ranks - 1."""
    workers: int = 1
    """Readers in each process."""
    worker: int = 0
    """This reader within its process, 0 ... workers - 1."""

    def __post_init__(self) -> None:
        for name, value, limit in (("rank", self.rank, self.ranks), ("worker", self.worker, self.workers)):
            if not 0 <= value < limit:
                raise ValueError(f"{name} is {value} of {limit}; it must be in 0 ... {limit - 1}")

    def lanes(self, batch_size: int) -> range:
        """The lanes that this reader serves where each rank has `batch_size` photos of a global batch."""
        first = self.rank * batch_size
        return range(
            first + self.worker * batch_size // self.workers,
            first + (self.worker + 1) * batch_size // self.workers,
        )


@dataclass(frozen=True)
class Lane:
    """One of the rows of photos from which batches are put together."""

    number: int
    """0 ... of - 1: the photo's place in the global batch."""
    of: int
    """Photos in the global batch."""

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"lane is {self.number} of {self.of}; it must be in 0 ... {self.of - 1}")


@dataclass(frozen=True)
class Piece:
    """The samples `start ... stop - 1` of a shard."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Samples that a lane shuffles together.

    The block's samples are those of `pieces` in a row; `order[i]` says which of them comes i-th, and the
    first `skip` of the order were seen before.
    """

    epoch: int
    pieces: tuple[Piece, ...]
    order: tuple[int, ...]
    skip: int


def block_for(global_batch: int) -> int:
    """The usual number of photos that each of so many lanes shuffles together."""
    return max(_SMALLEST_BLOCK, _MIXED // global_batch)


def steps_before(images_seen: int, global_batch: int) -> int:
    """Batches in `images_seen` photos.

    Raises:
        ValueError: `images_seen` is negative or cuts a batch.
    """
    if images_seen < 0 or images_seen % global_batch:
        raise ValueError(
            f"images_seen is {images_seen}, which is no multiple of the {global_batch} photos of a global batch; "
            "resume with the global batch that the run started with"
        )
    return images_seen // global_batch


def lane_pieces(seed: int, epoch: int, lane: Lane, counts: Sequence[int]) -> list[Piece]:
    """The pieces that one lane reads in one epoch, in order.

    Args:
        seed: Names the run's order, >= 0.
        epoch: 0, 1, 2...
        lane: Which lane.
        counts: Samples in each shard of the manifest.

    Raises:
        ValueError: a negative seed or epoch, or no sample at all.
    """
    start, stop = lane_range(_total(counts), epoch, lane)
    if start == stop:  # more lanes than samples: this one rests in this epoch
        return []
    order, begins = _row(seed, epoch, tuple(counts))
    first = bisect_right(begins, start) - 1
    last = bisect_left(begins, stop)
    row = [Piece(shard, 0, counts[shard]) for shard in order[first:last]]
    return list(_slice(row, start - begins[first], stop - begins[first]))


def shard_order(seed: int, epoch: int, shards: int) -> tuple[int, ...]:
    """The order of the shards in an epoch; the same for every lane."""
    return _shuffled(shards, _SHARD_ORDER, seed, epoch)


@lru_cache(maxsize=4)  # all lanes ask for the same one, and there may be 10,000 shards
def _row(seed: int, epoch: int, counts: tuple[int, ...]) -> tuple[tuple[int, ...], list[int]]:
    """The order of an epoch's shards, and the place of each one's first sample in the epoch's row."""
    order = shard_order(seed, epoch, len(counts))
    return order, [0, *accumulate(counts[shard] for shard in order)]


def lane_range(total: int, epoch: int, lane: Lane) -> tuple[int, int]:
    """The range [start, stop) of an epoch's row of `total` samples that one lane reads."""
    share, extras = divmod(total, lane.of)
    first_extra = epoch * extras % lane.of

    def start_of(number: int) -> int:
        """Lanes before this one read `share` each; count those among them with an extra sample."""
        straight = min(number, first_extra + extras) - first_extra
        wrapped = min(number, first_extra + extras - lane.of)
        return number * share + max(0, straight) + max(0, wrapped)

    return start_of(lane.number), start_of(lane.number + 1)


def taken_before(total: int, epoch: int, lane: Lane) -> int:
    """Samples that one lane takes in the epochs 0 ... epoch - 1 of `total` samples each."""
    share, extras = divmod(total, lane.of)
    # Extra samples are dealt to the lanes in turn, on from epoch to epoch.
    return epoch * share + max(0, -((lane.number - epoch * extras) // lane.of))


def locate(total: int, position: int, lane: Lane) -> tuple[int, int]:
    """The epoch, and the place in the lane's range of it, of a lane's `position`-th sample (from 0)."""
    epoch = (position + 1) * lane.of // total + 1
    while taken_before(total, epoch, lane) > position:
        epoch -= 1
    return epoch, position - taken_before(total, epoch, lane)


def blocks_from(seed: int, position: int, lane: Lane, counts: Sequence[int], block_size: int) -> Iterator[Block]:
    """The endless row of a lane's blocks, from the one that holds its `position`-th sample.

    Raises:
        ValueError: `block_size` is below 1, a negative seed, or no sample at all.
    """
    if block_size < 1:
        raise ValueError(f"the shuffle block is {block_size} samples; it must be at least 1")
    epoch, offset = locate(_total(counts), position, lane)
    while True:
        pieces = lane_pieces(seed, epoch, lane, counts)
        length = sum(map(len, pieces))
        # Blocks of nearly one size: a last block of a few samples could not be shuffled.
        blocks = -(-length // block_size)
        for index in range(blocks):
            start, stop = index * length // blocks, (index + 1) * length // blocks
            if stop > offset:
                order = _shuffled(stop - start, _BLOCK_ORDER, seed, epoch, lane.number, index)
                yield Block(epoch, _slice(pieces, start, stop), order, max(0, offset - start))
        epoch, offset = epoch + 1, 0


def crop_draws(seed: int, epoch: int, shard: int, samples: int) -> np.ndarray:
    """Three uniform numbers in [0, 1) for each sample of a shard in an epoch: float64 (samples, 3)."""
    words = _generator(_CROPS, seed, epoch, shard).random_raw(3 * samples)
    return (words >> np.uint64(11)).reshape(samples, 3) * 2.0**-53


def _total(counts: Sequence[int]) -> int:
    total = sum(counts)
    if total < 1 or min(counts) < 0:
        raise ValueError(f"the shards hold {total} samples; give shards with at least one")
    return total


def _slice(pieces: Sequence[Piece], start: int, stop: int) -> tuple[Piece, ...]:
    """The samples start ... stop - 1 of a row of pieces."""
    found: list[Piece] = []
    begin = 0
    for piece in pieces:
        low, high = max(start, begin), min(stop, begin + len(piece))
        if low < high:
            found.append(Piece(piece.shard, piece.start + low - begin, piece.start + high - begin))
        begin += len(piece)
    return tuple(found)


def _generator(*key: int) -> np.random.Philox:
    """Raw Philox words: numpy promises the same ones in every version, which it does not for permutations."""
    if min(key) < 0:
        raise ValueError(f"seed and epoch must not be negative, got {key[1:3]}")
    return np.random.Philox(np.random.SeedSequence(key))


def _shuffled(count: int, *key: int) -> tuple[int, ...]:
    return tuple(np.argsort(_generator(*key).random_raw(count), kind="stable").tolist())
