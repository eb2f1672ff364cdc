"""The undecoded photos of a block: from local shards on demand, from remote ones read ahead in order."""

import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from trainer.data.manifest import TAR_BLOCK
from trainer.data.plan import Block, Piece
from trainer.data.shard_set import ShardSet
from trainer.data.tar_stream import ByteStream, member_name
from trainer.data.url_openers import ShardError, is_local, local_path

_OPEN_FILES = 32


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


class LocalReader:
    """Reads single photos of shards on this machine; keeps a few files open."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._files: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, index: int) -> RawSample:
        """One photo, its tar header checked.

        Raises:
            ShardError: the shard is gone, cut short, or not the one of the manifest.
        """
        entry = self._shards.manifest.shards[shard]
        start, size = entry.starts[index], entry.sizes[index]
        both = os.pread(self._file(shard), TAR_BLOCK + size, start - TAR_BLOCK)
        if len(both) != TAR_BLOCK + size:
            raise ShardError(f"{self._shards.urls[shard]}: was cut short while it was read; copy it again")
        return RawSample(shard, index, member_name(both[:TAR_BLOCK], entry, index), both[TAR_BLOCK:])

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            url = self._shards.urls[shard]
            try:
                self._files[shard] = os.open(local_path(url), os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{url}: cannot be opened: {error.strerror}; check the path") from error
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]


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
    reader = LocalReader(shards)
    try:
        for block in blocks:
            row = [(piece.shard, index) for piece in block.pieces for index in range(piece.start, piece.stop)]
            yield OpenBlock(block, lambda place, row=row: reader.read(*row[place]))
    finally:
        reader.close()


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
