"""Random access to photos in local shards, by the positions in the manifest."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from evaluator.photos.manifest import TAR_BLOCK, ShardEntry, ShardError

_COPY_OR_INDEX = "copy it again, or write a new manifest with: python -m trainer.shards index"


class LocalShards:
    """Reader of single photos in local shards; keeps a few files open. Thread-safe.

    Args:
        paths: the tars.
        entries: what the manifest says of each.
        open_files: most files kept open; fewer than the shards that are read in turn open a file for each photo.
    """

    def __init__(self, paths: Sequence[str], entries: Sequence[ShardEntry], open_files: int = 32) -> None:
        self._paths, self._entries, self._open_files = paths, entries, open_files
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, index: int) -> tuple[str, bytes]:
        """Name and bytes of one photo, its tar header checked.

        Raises:
            ShardError: the shard is gone, cut short, or not the one of the manifest.
        """
        entry = self._entries[shard]
        both = self._bytes(shard, entry.starts[index] - TAR_BLOCK, TAR_BLOCK + entry.sizes[index])
        return member_name(both[:TAR_BLOCK], entry, index), both[TAR_BLOCK:]

    def name(self, shard: int, index: int) -> str:
        """Name of one photo; raises as `read` does."""
        entry = self._entries[shard]
        return member_name(self._bytes(shard, entry.starts[index] - TAR_BLOCK, TAR_BLOCK), entry, index)

    def close(self) -> None:
        """Close the open files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _bytes(self, shard: int, start: int, count: int) -> bytes:
        with self._lock:  # another thread might close the file
            found = os.pread(self._file(shard), count, start)
        if len(found) != count:
            raise ShardError(f"{self._paths[shard]}: was cut short while it was read; copy it again")
        return found

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            try:
                self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
            except OSError as error:
                raise ShardError(
                    f"{self._paths[shard]}: cannot be opened: {error.strerror}; check the path"
                ) from error
            if len(self._files) > self._open_files:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]


def check_size(path: Path, shard: ShardEntry) -> None:
    """Raise a ShardError when a shard is missing or its size differs from the manifest's."""
    if not path.is_file():
        raise ShardError(f"{path}: the shard is missing; copy it there, or leave it out of the manifest")
    if path.stat().st_size != shard.bytes:
        raise ShardError(
            f"{path}: has {path.stat().st_size} bytes, its manifest says {shard.bytes}: cut short or replaced; "
            f"{_COPY_OR_INDEX}"
        )


def member_name(header: bytes, shard: ShardEntry, index: int) -> str:
    """Name in a photo's tar header, which also verifies that the shard matches its manifest.

    Raises:
        ShardError: no header there, or one of another size.
    """
    # Read by hand: a TarInfo costs as much as a twentieth of the decoding.
    name, size = header[:100].rstrip(b"\0").decode("utf-8", "replace"), header[124:136].strip(b" \0")
    if not (name and size.isdigit() and int(size, 8) == shard.sizes[index]):
        raise ShardError(
            f"{shard.name}: photo {index} is not where its manifest says; the shard was replaced: {_COPY_OR_INDEX}"
        )
    return name
