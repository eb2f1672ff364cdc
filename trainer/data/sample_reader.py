"""The undecoded photos of a block: from local shards on demand, from remote ones read ahead in order."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from evaluator.photos.manifest import TAR_BLOCK
from evaluator.photos.shards import LocalShards, member_name
from trainer.data.plan import Block, Piece
from trainer.data.shard_set import ShardSet
from trainer.data.tar_stream import ByteStream
from trainer.data.url_openers import is_local, local_path


@dataclass(frozen=True, slots=True)
class RawSample:
    """An undecoded photo and where it is from."""

    shard: int
    index: int
    name: str
    data: bytes


class OpenBlock(NamedTuple):
    """A block with its photos: `fetch(place)` is the one at that place in the row of its pieces."""

    block: Block
    fetch: Callable[[int], RawSample]


def read_piece(shards: ShardSet, piece: Piece) -> Iterator[RawSample]:
    """The photos of a piece in order, over one connection that asks for exactly their bytes.

    Raises:
        ShardError: the shard is missing, cut short, or not the one of the manifest.
    """
    entry, url = shards.manifest.shards[piece.shard], shards.urls[piece.shard]
    first, last = piece.start, piece.stop - 1
    begin, end = entry.starts[first] - TAR_BLOCK, entry.starts[last] + entry.sizes[last]
    stream = ByteStream(url, begin, end, entry.bytes)
    try:
        for index in range(piece.start, piece.stop):
            stream.skip_to(entry.starts[index] - TAR_BLOCK)
            name = member_name(stream.read(TAR_BLOCK), entry, index)
            yield RawSample(piece.shard, index, name, stream.read(entry.sizes[index]))
    finally:
        stream.close()


def open_blocks(shards: ShardSet, blocks: Iterator[Block]) -> Generator[OpenBlock]:
    """Give each block access to its photos.

    Local photos are read one by one when they are asked for. As soon as one shard is remote, whole blocks are
    read in order instead, the next one in the background while this one is used: two blocks in memory.
    """
    if all(map(is_local, shards.urls)):
        yield from _open_local(shards, blocks)
    else:
        yield from _open_remote(shards, blocks)


def _open_local(shards: ShardSet, blocks: Iterator[Block]) -> Generator[OpenBlock]:
    reader = LocalShards([local_path(url) for url in shards.urls], shards.manifest.shards)
    try:
        for block in blocks:
            row = [(piece.shard, index) for piece in block.pieces for index in range(piece.start, piece.stop)]
            yield OpenBlock(block, partial(_read, reader, row))
    finally:
        reader.close()


def _read(reader: LocalShards, row: list[tuple[int, int]], place: int) -> RawSample:
    shard, index = row[place]
    name, data = reader.read(shard, index)
    return RawSample(shard, index, name, data)


def _open_remote(shards: ShardSet, blocks: Iterator[Block]) -> Generator[OpenBlock]:
    def gather(block: Block) -> OpenBlock:
        samples = [sample for piece in block.pieces for sample in read_piece(shards, piece)]
        return OpenBlock(block, samples.__getitem__)

    with ThreadPoolExecutor(1, thread_name_prefix="next-block") as pool:
        upcoming = pool.submit(gather, next(blocks))
        for block in blocks:
            ready, upcoming = upcoming.result(), pool.submit(gather, block)
            yield ready
        yield upcoming.result()
