"""Parts of remote shards kept on this machine's disk, within a bound, for all processes that name the same folder.

A shard is kept in parts of 1 MiB, each a file `<sha256 of the shard>/<number>` that ends with a checksum: so a
training starts without waiting for whole shards, and processes on other machines keep only what they read. A
command, which knows no ranges, runs once for each shard: all that it writes is kept when its first byte is wanted.
Files are renamed into place, and one that a kill or a bad disk left incomplete is fetched again. When a shard's
last part arrives, its sha256 is compared with the manifest's.

When the folder is full, parts of shards that this training does not read go, those used longest ago first. Its own
parts are never exchanged for each other: an epoch uses each of them once, in a new order, so that whatever is kept
serves the next epoch as well as anything else would. With room for half of the shards half of the bytes come from
the disk; with the least recently used part thrown out it would be an eighth, for a part would have to be used late
in one epoch and early in the next (see `docs/LOG.md`).
"""

import fcntl
import hashlib
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from evaluator.photos.manifest import ShardEntry, ShardError

log = logging.getLogger(__name__)

PART = 1 << 20
"""Bytes of a shard in one file."""
_CHECKSUM = 4
_FILLED = 0.95
"""How full the folder is after something was thrown out, so that its files are not counted each time."""
_LOCK = "lock"
_TEMPORARY = "part-"
_ABANDONED_S = 3600.0
"""Age of a file under its temporary name at which its writer counts as dead."""

Fetch = Callable[[int, int], bytes]
"""A shard's bytes from a start to a stop, from where they really are."""


class _Kept(NamedTuple):
    used: float
    size: int
    path: Path


class ShardCache:
    """A folder of parts of shards.

    Args:
        folder: On a local disk; made where it is missing.
        limit: Bytes that all parts in it may have together.
        entries: The shards that this training reads.

    Raises:
        ValueError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int, entries: Sequence[ShardEntry]) -> None:
        self._folder, self._limit = folder, limit
        self._own = {entry.sha256 for entry in entries}
        self._keeps = True  # until the folder is full of this training's parts, or its disk fails
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise ValueError(
                f"data.cache is {folder}, which cannot be written: {error}; name a folder on a local disk"
            ) from error

    def read(self, entry: ShardEntry, url: str, start: int, stop: int, fetch: Fetch) -> bytes:
        """The bytes start ... stop - 1 of a shard, from the folder or else from `fetch`, and kept.

        Whole parts are asked for, but no byte more than is wanted once nothing is kept any more: a source without
        ranges has sent the bytes before already, and would be begun again for them.

        Raises:
            ShardError: as `fetch` raises it, or the whole shard is not the one of its manifest.
        """
        first, last = start // PART, (stop - 1) // PART
        found = {number: self._load(entry, number) for number in range(first, last + 1)}
        if url.startswith("pipe:") and None in found.values() and self._keeps:
            self._spool(entry, url, fetch)
            found = {number: self._load(entry, number) for number in range(first, last + 1)}
        origin = first * PART  # where the first of the parts begins
        for run in _missing(found):
            begin, end, keeps = run.start * PART, min(run.stop * PART, entry.bytes), self._keeps
            if not keeps:
                begin, end = max(begin, start), min(end, stop)
            if run.start == first:
                origin = begin
            fetched = fetch(begin, end)
            for number in run:
                part = fetched[max(0, number * PART - begin) : (number + 1) * PART - begin]
                found[number] = part
                if keeps:
                    self._keep(entry, url, number, part)
        held = b"".join(part for part in found.values() if part is not None)
        return held[start - origin : stop - origin]

    def _spool(self, entry: ShardEntry, url: str, fetch: Fetch) -> None:
        """Keep all of a command's output, so that it runs once for all readers of this machine.

        Part by part until the folder is full; readers of the same shard wait for the first one.
        """
        with self._locked(entry.sha256):
            for number in range(-(-entry.bytes // PART)):
                if self._path(entry, number).exists():
                    continue
                part = fetch(number * PART, min((number + 1) * PART, entry.bytes))
                self._keep(entry, url, number, part)
                if not self._keeps:
                    break

    def _load(self, entry: ShardEntry, number: int) -> bytes | None:
        path = self._path(entry, number)
        try:
            content = path.read_bytes()
            part, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
            if len(part) == _length(entry, number) and checksum == _checksum(part):
                os.utime(path)
                return part
            path.unlink()  # incomplete after a crash of the machine, or a bad disk
        except OSError:  # not there, or another process threw it out
            return None
        return None

    def _keep(self, entry: ShardEntry, url: str, number: int, part: bytes) -> None:
        """Keep a part if there is room for it; a disk that is full or broken only costs its use."""
        try:
            path = self._path(entry, number)
            if path.exists() or not self._reserve(len(part) + _CHECKSUM):
                return
            path.parent.mkdir(exist_ok=True)
            self._write(path, part)
        except OSError as error:
            if self._keeps:
                log.warning("data.cache: cannot keep parts of shards: %s; nothing more is kept", error)
            self._keeps = False
            return
        self._verify(entry, url)

    def _write(self, path: Path, part: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(part)
                file.write(_checksum(part))
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    def _verify(self, entry: ShardEntry, url: str) -> None:
        """Compare a shard with its manifest's sha256 once all of it is here; throw it out if it is another one."""
        paths = [self._path(entry, number) for number in range(-(-entry.bytes // PART))]
        if not all(path.exists() for path in paths):
            return
        digest = hashlib.sha256()
        try:
            for path in paths:
                digest.update(path.read_bytes()[:-_CHECKSUM])
        except OSError:  # another process threw a part out
            return
        if digest.hexdigest() != entry.sha256:
            for path in paths:
                path.unlink(missing_ok=True)
            raise ShardError(
                f"{url}: its sha256 is {digest.hexdigest()[:12]}..., its manifest says {entry.sha256[:12]}...: "
                "it was replaced; copy it again, or write a new manifest with: python -m trainer.shards index"
            )

    def _reserve(self, size: int) -> bool:
        """Count `size` bytes more in the folder, after throwing out what has to go; False where it stays full."""
        with self._locked() as lock:
            text = os.pread(lock, 32, 0)
            used = int(text) if text.isdigit() else self._limit  # a new folder, or one that must be counted
            if used + size > self._limit:
                used = self._make_room(size)
            if used + size > self._limit:
                self._keeps = False
                return False
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(used + size).encode(), 0)
        return True

    def _make_room(self, size: int) -> int:
        """Count what is there and throw out others' parts; the bytes that stay."""
        kept = sorted(self._kept())
        used = sum(part.size for part in kept)
        if used + size <= self._limit:
            return used
        for part in kept:
            if used + size <= self._limit * _FILLED:
                break
            if part.path.parent.name not in self._own:
                part.path.unlink(missing_ok=True)
                used -= part.size
        return used

    def _kept(self) -> Iterator[_Kept]:
        for folder in self._folder.iterdir():
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                try:
                    status = path.stat()
                except OSError:  # renamed or thrown out meanwhile
                    continue
                if path.name.startswith(_TEMPORARY) and status.st_mtime < time.time() - _ABANDONED_S:
                    path.unlink(missing_ok=True)
                    continue
                yield _Kept(status.st_mtime, status.st_size, path)

    @contextmanager
    def _locked(self, what: str = "") -> Iterator[int]:
        """Hold the lock of the folder's count, or of a shard's spooling."""
        handle = os.open(self._folder / f"{_LOCK}{what}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # ends with its process
            yield handle
        finally:
            os.close(handle)

    def _path(self, entry: ShardEntry, number: int) -> Path:
        return self._folder / entry.sha256 / f"{number:06d}"


def _missing(found: dict[int, bytes | None]) -> Iterator[range]:
    """Runs of numbers without bytes."""
    start = None
    for number in [*found, max(found) + 1]:
        here = number in found and found[number] is None
        if here and start is None:
            start = number
        elif not here and start is not None:
            yield range(start, number)
            start = None


def _length(entry: ShardEntry, number: int) -> int:
    return min(PART, entry.bytes - number * PART)


def _checksum(part: bytes) -> bytes:
    return zlib.crc32(part).to_bytes(_CHECKSUM, "big")
