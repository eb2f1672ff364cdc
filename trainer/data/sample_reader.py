"""The undecoded photos of blocks: from local shards on demand, from remote ones a block ahead."""

import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from evaluator.photos.manifest import TAR_BLOCK
from evaluator.photos.sharded import LocalShards, member_name
from trainer.data.plan import Block, Piece
from trainer.data.shard_cache import ShardCache
from trainer.data.shard_set import ShardSet
from trainer.data.tar_stream import ByteStream
from trainer.data.url_openers import is_local, local_path

_CONNECTIONS = 8
"""Blocks that one reader process fetches at once."""
_OPEN_FILES = 32
"""Local shards that a reader keeps open at least."""
_TOGETHER = 64
"""Photos of a request where they are not asked for in blocks."""


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


@runtime_checkable
class PhotoSource(Protocol):
    """Where a reader's lanes get their photos."""

    def opened(self, blocks: Iterator[Block]) -> Iterator[OpenBlock]:
        """One lane's blocks, each with access to its photos."""
        ...

    def close(self) -> None:
        """Give files, connections and threads back."""
        ...


def open_source(shards: ShardSet, cache: ShardCache | None = None, lanes: int = 1) -> PhotoSource:
    """A source for so many lanes. Local photos are read one by one when they are asked for.

    As soon as one shard is remote, whole blocks are read instead, each lane's next one while its present one is
    used: two blocks of each lane in memory.
    """
    return LocalSource(shards, lanes) if all(map(is_local, shards.urls)) else RemoteSource(shards, cache)


class LocalSource:
    """Photos of shards on this machine."""

    def __init__(self, shards: ShardSet, lanes: int) -> None:
        paths = [local_path(url) for url in shards.urls]
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # -1: any number
        open_files = max(_OPEN_FILES, 2 * lanes)  # each lane reads one shard, or two where a block lies in both
        if allowed > 0:
            open_files = min(open_files, allowed // 2)
        self._reader = LocalShards(paths, shards.manifest.shards, open_files)
        self.close = self._reader.close

    def opened(self, blocks: Iterator[Block]) -> Iterator[OpenBlock]:
        """One lane's blocks."""
        for block in blocks:
            yield OpenBlock(block, partial(self._read, _row(block)))

    def _read(self, row: Sequence[tuple[int, int]], place: int) -> RawSample:
        shard, index = row[place]
        name, data = self._reader.read(shard, index)
        return RawSample(shard, index, name, data)


class RemoteSource:
    """Photos of shards elsewhere, by byte ranges, through a cache on this machine's disk where there is one."""

    def __init__(self, shards: ShardSet, cache: ShardCache | None) -> None:
        self._shards, self._cache = shards, cache
        self._pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="blocks")
        self._readers: list[_LaneReader] = []
        self._closed = threading.Event()

    def opened(self, blocks: Iterator[Block]) -> Iterator[OpenBlock]:
        """One lane's blocks; the first is on its way at once, so that all lanes' come together."""
        reader = _LaneReader(self._shards, self._cache)
        self._readers.append(reader)
        return self._following(reader, blocks, self._pool.submit(self._gather, reader, next(blocks)))

    def _following(
        self, reader: "_LaneReader", blocks: Iterator[Block], upcoming: Future[OpenBlock]
    ) -> Iterator[OpenBlock]:
        for block in blocks:
            ready, upcoming = upcoming.result(), self._pool.submit(self._gather, reader, block)
            yield ready
        yield upcoming.result()

    def close(self) -> None:
        """Ask for nothing more, and wait for the requests that are on their way."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for reader in self._readers:
            reader.close()

    def _gather(self, reader: "_LaneReader", block: Block) -> OpenBlock:
        """The block's photos that were not seen before: a resumed training does not fetch the others again."""
        wanted = sorted(block.order[block.skip :])
        row = _row(block)
        found: dict[int, RawSample] = {}
        for piece, places in _runs(wanted, row):
            if self._closed.is_set():
                break
            found |= zip(places, reader.read(piece), strict=True)
        return OpenBlock(block, partial(self._take, found, row))

    def _take(self, found: dict[int, RawSample], row: Sequence[tuple[int, int]], place: int) -> RawSample:
        """A photo, once: its memory is free after that."""
        if place in found:
            return found.pop(place)
        shard, index = row[place]  # taken before, and needed again in the place of a corrupt photo
        return next(read_piece(self._shards, Piece(shard, index, index + 1)))


def _row(block: Block) -> list[tuple[int, int]]:
    """Shard and index of each of a block's samples."""
    return [(piece.shard, index) for piece in block.pieces for index in range(piece.start, piece.stop)]


def _runs(places: Sequence[int], row: Sequence[tuple[int, int]]) -> Iterator[tuple[Piece, range]]:
    """Ascending places of a row as pieces of neighbours in one shard, each with its places."""
    begin = 0
    for end in range(1, len(places) + 1):
        shard, first = row[places[begin]]
        if end < len(places) and places[end] == places[end - 1] + 1 and row[places[end]][0] == shard:
            continue
        yield Piece(shard, first, first + end - begin), range(places[begin], places[begin] + end - begin)
        begin = end


def read_piece(shards: ShardSet, piece: Piece) -> Iterator[RawSample]:
    """The photos of a piece in order, some at a time, by requests for exactly their bytes.

    Raises:
        ShardError: the shard is missing, cut short, or not the one of the manifest.
    """
    reader = _LaneReader(shards, None)
    try:
        for start in range(piece.start, piece.stop, _TOGETHER):
            yield from reader.read(Piece(piece.shard, start, min(start + _TOGETHER, piece.stop)))
    finally:
        reader.close()


class _LaneReader:
    """Reads pieces in the order of a lane. What a source without ranges sends anyway is read on."""

    def __init__(self, shards: ShardSet, cache: ShardCache | None) -> None:
        self._shards, self._cache = shards, cache
        self._stream: ByteStream | None = None

    def read(self, piece: Piece) -> Iterator[RawSample]:
        entry, url = self._shards.manifest.shards[piece.shard], self._shards.urls[piece.shard]
        first, last = piece.start, piece.stop - 1
        begin, end = entry.starts[first] - TAR_BLOCK, entry.starts[last] + entry.sizes[last]

        def fetch(start: int, stop: int) -> bytes:
            return self._bytes(url, start, stop, entry.bytes)

        held = self._cache.read(entry, url, begin, end, fetch) if self._cache else fetch(begin, end)
        for index in range(piece.start, piece.stop):
            start = entry.starts[index] - begin
            name = member_name(held[start - TAR_BLOCK : start], entry, index)
            yield RawSample(piece.shard, index, name, held[start : start + entry.sizes[index]])

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _bytes(self, url: str, start: int, stop: int, expected: int) -> bytes:
        stream = self._stream
        if stream is None or stream.url != url or stream.position > start:
            self.close()
            stream = self._stream = ByteStream(url, start, stop, expected)
        try:
            stream.skip_to(start)
            return stream.read(stop - start)
        finally:
            if not stream.whole:
                self.close()
