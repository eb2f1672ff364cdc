"""Who reads which sample when: a pure function of seed, epoch and world. No files, no torch, no processes.

The training stream is an endless row of epochs. A *reader* is one worker of one rank; `ranks * workers`
readers share every epoch. An epoch shuffles the shards, lays their samples in a row and cuts that row into
one range for each reader (a range may begin and end inside a shard), so each sample is read exactly once.
The readers' ranges differ by at most one sample, and the longer ones rotate with the epoch: after any number
of epochs no reader is ahead of another by more than one. A reader's stream is the row of its ranges.

Batches have one size on all ranks. A rank takes whole batches from its workers in turn, and a batch may hold
the tail of one epoch and the head of the next. So progress is one number, `images_seen`, and `resume_at`
finds every reader's place from it by arithmetic.

Inside a reader's range samples are shuffled in blocks of a fixed size. A block is what a reader must hold to
start anywhere inside it; a reservoir would need the whole history.

The order depends on the seed, the ranks and the number of workers, and on nothing that happens at run time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Purposes keep the draws of one (seed, epoch) apart.
_SHARD_ORDER, _BLOCK_ORDER, _CROPS = 1, 2, 3


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

    @property
    def readers(self) -> int:
        """Readers in the whole world."""
        return self.ranks * self.workers

    @property
    def reader(self) -> int:
        """This reader's number; neighbours are on different ranks, so ranks' shares differ by one at most."""
        return self.worker * self.ranks + self.rank


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
    """Samples that a reader shuffles together.

    The block's samples are those of `pieces` in a row; `order[i]` says which of them comes i-th, and the
    first `skip` of the order were seen before.
    """

    epoch: int
    pieces: tuple[Piece, ...]
    order: tuple[int, ...]
    skip: int


@dataclass(frozen=True)
class Start:
    """Where a rank continues: the worker whose turn it is, and samples taken from each worker so far."""

    first_worker: int
    taken: tuple[int, ...]


def epoch_plan(seed: int, epoch: int, world: World, counts: Sequence[int]) -> list[Piece]:
    """The pieces that one reader reads in one epoch, in order.

    Args:
        seed: Names the run's order, >= 0.
        epoch: 0, 1, 2...
        world: The reader and its world.
        counts: Samples in each shard of the manifest.

    Raises:
        ValueError: a negative seed or epoch, or no sample at all.
    """
    start, stop = reader_range(_total(counts), epoch, world)
    if start == stop:  # more readers than samples: this one rests in this epoch
        return []
    order = shard_order(seed, epoch, len(counts))
    return list(_slice([Piece(shard, 0, counts[shard]) for shard in order], start, stop))


def shard_order(seed: int, epoch: int, shards: int) -> list[int]:
    """The order of the shards in an epoch; the same on every rank."""
    return _shuffled(shards, _SHARD_ORDER, seed, epoch)


def reader_range(total: int, epoch: int, world: World) -> tuple[int, int]:
    """The range [start, stop) of an epoch's row of `total` samples that one reader reads."""
    share, extras = divmod(total, world.readers)
    first_extra = epoch * extras % world.readers

    def start_of(reader: int) -> int:
        """Readers before this one read `share` each; count those among them with an extra sample."""
        straight = min(reader, first_extra + extras) - first_extra
        wrapped = min(reader, first_extra + extras - world.readers)
        return reader * share + max(0, straight) + max(0, wrapped)

    return start_of(world.reader), start_of(world.reader + 1)


def taken_before(total: int, epoch: int, world: World) -> int:
    """Samples that one reader takes in the epochs 0 ... epoch - 1 of `total` samples each."""
    share, extras = divmod(total, world.readers)
    # Extra samples are dealt to the readers in turn, on from epoch to epoch.
    return epoch * share + max(0, -((world.reader - epoch * extras) // world.readers))


def locate(total: int, position: int, world: World) -> tuple[int, int]:
    """The epoch, and the place in the reader's range of it, of a reader's `position`-th sample (from 0)."""
    epoch = (position + 1) * world.readers // total + 1
    while taken_before(total, epoch, world) > position:
        epoch -= 1
    return epoch, position - taken_before(total, epoch, world)


def resume_at(images_seen: int, batch_size: int, ranks: int, workers: int) -> Start:
    """Where every rank continues after `images_seen` images over all ranks.

    Args:
        images_seen: A multiple of `ranks * batch_size`.
        batch_size: Samples in a rank's batch.
        ranks: Processes that train together.
        workers: Readers in each.

    Raises:
        ValueError: `images_seen` is negative or cuts a batch.
    """
    global_batch = ranks * batch_size
    if images_seen < 0 or images_seen % global_batch:
        raise ValueError(
            f"images_seen is {images_seen}, which is no multiple of {ranks} ranks x batch {batch_size}; "
            "resume with the number of ranks and the batch size that the run started with"
        )
    batches = images_seen // global_batch
    taken = tuple((batches - worker + workers - 1) // workers * batch_size for worker in range(workers))
    return Start(batches % workers, taken)


def blocks_from(seed: int, position: int, world: World, counts: Sequence[int], block_size: int) -> Iterator[Block]:
    """The endless row of a reader's blocks, from the one that holds its `position`-th sample.

    Raises:
        ValueError: `block_size` is below 1, a negative seed, or no sample at all.
    """
    if block_size < 1:
        raise ValueError(f"the shuffle block is {block_size} samples; it must be at least 1")
    epoch, offset = locate(_total(counts), position, world)
    while True:
        pieces = epoch_plan(seed, epoch, world, counts)
        length = sum(map(len, pieces))
        # Blocks of nearly one size: a last block of a few samples could not be shuffled.
        blocks = -(-length // block_size)
        for index in range(blocks):
            start, stop = index * length // blocks, (index + 1) * length // blocks
            if stop > offset:
                order = _shuffled(stop - start, _BLOCK_ORDER, seed, epoch, world.reader, index)
                yield Block(epoch, _slice(pieces, start, stop), tuple(order), max(0, offset - start))
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


def _shuffled(count: int, *key: int) -> list[int]:
    return np.argsort(_generator(*key).random_raw(count), kind="stable").tolist()
