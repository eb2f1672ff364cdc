"""Which shards a run reads, and the undecoded photos of their blocks: remote ones a block ahead."""

import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from evaluator.photos.manifest import (
    FILE_NAME,
    HOW_TO_INDEX,
    TAR_BLOCK,
    Manifest,
    ShardEntry,
    ShardError,
    from_json,
)
from evaluator.photos.sharded import LocalShards, check_size, member_name
from trainer.data.cache import ShardCache
from trainer.data.sampling import Block, Piece
from trainer.data.storage import WITHOUT_MANIFEST, ByteStream, expand, is_local, local_path, read_url


@dataclass(frozen=True)
class ShardSet:
    """Shards and where each of them is; `urls[i]` belongs to `manifest.shards[i]`."""

    urls: tuple[str, ...]
    manifest: Manifest

    @cached_property
    def counts(self) -> list[int]:
        """Samples in each shard."""
        return [shard.samples for shard in self.manifest.shards]


def open_shards(shards: str | Sequence[str], manifest: str | None = None) -> ShardSet:
    """Find the manifest of shards and check those on this machine.

    Args:
        shards: Tar URLs with braces as in `s3://bucket/coco-{000..117}.tar`, or a folder or a manifest (`.json`),
            which stand for all of their shards.
        manifest: The manifest's URL; by default `manifest.json` beside the tars.

    Raises:
        ValueError: nothing given, no manifest found, or a shard that its manifest does not list.
        ShardError: a local shard is missing or has another size than its manifest says.
    """
    urls = expand(shards)
    if not urls:
        raise ValueError("no shards given; pass tar URLs, a folder with manifest.json, or a manifest")
    loaded: dict[str, _Listed] = {}
    chosen: list[tuple[str, ShardEntry]] = []
    for url in urls:
        where = manifest or _manifest_of(url)
        if where not in loaded:
            loaded[where] = _Listed.of(_load(where, url), where)
        chosen += _matching(url, where, loaded[where])
    for shard_url, shard in chosen:
        if is_local(shard_url):
            check_size(Path(local_path(shard_url)), shard)
    sizes = next(iter(loaded.values())).manifest.image_sizes
    return ShardSet(tuple(url for url, _ in chosen), Manifest(tuple(shard for _, shard in chosen), sizes))


def resolve(name: str, manifest_url: str) -> str:
    """The URL of a shard that a manifest names."""
    if name.startswith(("/", "pipe:")) or "://" in name:
        return name
    folder, slash, _ = manifest_url.rpartition("/")
    return f"{folder}{slash}{name}"


def _stands_for_all(url: str) -> bool:
    return url.endswith(".json") or (is_local(url) and Path(local_path(url)).is_dir())


def _manifest_of(url: str) -> str:
    if url.endswith(".json"):
        return url
    if _stands_for_all(url):
        return str(Path(local_path(url)) / FILE_NAME)
    if url.startswith("pipe:"):
        raise ValueError(
            f"{url}: a command has no manifest beside it; name one with --data.manifest, or {HOW_TO_INDEX}; "
            f"or {WITHOUT_MANIFEST}"
        )
    return resolve(FILE_NAME, url.partition("?")[0])


def _load(where: str, url: str) -> Manifest:
    try:
        text = read_url(where)
    except ShardError as error:
        raise ValueError(f"{url}: its manifest cannot be read ({error}); {_advice(url)}") from error
    return from_json(text, where)


def _advice(url: str) -> str:
    """What to do about something that is given as shards and has no manifest."""
    path = Path(local_path(url))
    if is_local(url) and not path.exists():
        return "nothing is there: check the path"
    if is_local(url) and (path.suffix == ".zip" or (path.is_dir() and not any(path.glob("*.tar")))):
        return f"make shards of these photos first: python -m trainer.shards {url} shards"
    return f"{HOW_TO_INDEX}; or {WITHOUT_MANIFEST}"


@dataclass(frozen=True)
class _Listed:
    """A manifest, and its shards by all the names under which they may be given."""

    manifest: Manifest
    by_name: dict[str, ShardEntry]

    @staticmethod
    def of(manifest: Manifest, where: str) -> "_Listed":
        entries = manifest.shards
        resolved = {resolve(shard.name, where): shard for shard in entries}
        return _Listed(manifest, resolved | {shard.name: shard for shard in entries})


def _matching(url: str, where: str, listed: _Listed) -> list[tuple[str, ShardEntry]]:
    if _stands_for_all(url):
        return [(resolve(shard.name, where), shard) for shard in listed.manifest.shards]
    shard = listed.by_name.get(url) or listed.by_name.get(urlsplit(url).path.rpartition("/")[2])
    if shard is None:
        raise ValueError(f"{url} is not in {where}; {HOW_TO_INDEX}")
    return [(url, shard)]


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
        reader = _LaneReader(self._shards, self._cache, self._closed)
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
    """Ascending places of a row as pieces of neighbors in one shard, each with its places."""
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
    reader = _LaneReader(shards, None, threading.Event())
    try:
        for start in range(piece.start, piece.stop, _TOGETHER):
            yield from reader.read(Piece(piece.shard, start, min(start + _TOGETHER, piece.stop)))
    finally:
        reader.close()


class _LaneReader:
    """Reads pieces in the order of a lane. What a source without ranges sends anyway is read on."""

    def __init__(self, shards: ShardSet, cache: ShardCache | None, stop: threading.Event) -> None:
        self._shards, self._cache, self._stop = shards, cache, stop
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
        if self._stop.is_set():  # in the middle of a shard that is kept whole
            raise ShardError(f"{url}: reading was stopped")
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
