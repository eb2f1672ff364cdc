"""A manifest for tars that others made: where their photos lie, their sizes and hashes, in one pass."""

import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from PIL import Image

from evaluator.photos.manifest import TAR_BLOCK, ImageSizes, Manifest, ShardEntry, ShardError
from trainer.data.storage import is_local, is_photo_member, local_path, open_url

_CHUNK = 1 << 20


@runtime_checkable
class Stream(Protocol):
    """Bytes that can be read once."""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes, none at the end."""
        ...


@dataclass(frozen=True)
class Scan:
    """What a tar holds."""

    entry: ShardEntry
    image_sizes: tuple[tuple[int, int], ...]
    """Width and height of each photo, before EXIF turns it."""
    broken: tuple[str, ...]
    """Members named like photos that are none; they are not in `entry`."""
    others: Counter[str]
    """Suffixes of the other members and how often each occurs."""


def scan_tar(name: str, stream: Stream, is_photo: Callable[[str], bool]) -> Scan:
    """Read a tar to its end.

    Args:
        name: The shard's name in the manifest.
        stream: The tar's bytes, uncompressed.
        is_photo: Which members are photos, by their name.

    Raises:
        ShardError: no tar, a compressed one, or one that is cut short or damaged.
    """
    metered = _Metered(stream)
    starts, sizes, dimensions, broken = [], [], [], []
    others: Counter[str] = Counter()
    end = 0
    try:
        with tarfile.open(fileobj=metered, mode="r|") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK
                if not (member.isreg() and is_photo(member.name)):
                    others[PurePosixPath(member.name).suffix or member.name] += member.isreg()
                elif (dimension := _dimension(tar, member)) is None:
                    broken.append(member.name)
                else:
                    starts.append(member.offset_data)
                    sizes.append(member.size)
                    dimensions.append(dimension)
    except tarfile.TarError as error:
        raise ShardError(f"{name}: no tar, a compressed tar, or one that is cut short ({error})") from error
    metered.drain()
    # tarfile ends without a word at a broken header; a whole tar ends with two empty blocks.
    if metered.last_content > end or metered.count < end + 2 * TAR_BLOCK:
        raise ShardError(f"{name}: the tar is cut short or damaged after byte {end}; copy it again")
    entry = ShardEntry(name, metered.count, metered.sha256.hexdigest(), tuple(starts), tuple(sizes))
    return Scan(entry, tuple(dimensions), tuple(broken), +others)


def _dimension(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int] | None:
    file = tar.extractfile(member)
    assert file is not None  # only for what is no regular file
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


class _Metered(io.RawIOBase):
    """A stream that counts and hashes what passes, and remembers where its last byte other than zero was."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.count = 0
        self.last_content = 0

    def read(self, amount: int = -1, /) -> bytes:
        part = self._stream.read(amount)
        self.sha256.update(part)
        if content := len(part.rstrip(b"\0")):
            self.last_content = self.count + content
        self.count += len(part)
        return part

    def drain(self) -> None:
        """Read the rest."""
        while self.read(_CHUNK):
            pass


_CONNECTIONS = 8


def index_shards(
    urls: Sequence[str], out: Path, advance: Callable[[int], object]
) -> tuple[Manifest, list[str], Counter[str]]:
    """Read every tar once, wherever it is, and describe it.

    Args:
        urls: The tars.
        out: Where the manifest will be; tars in the same folder are named without one, so that both can move.
        advance: Called with 1 for each tar that is done.

    Returns:
        The manifest, the members that are named like photos but are none, and the suffixes of other members.

    Raises:
        ValueError: no tar given, or no photo in them.
        ShardError: a tar is missing, compressed, cut short or damaged.
    """
    if not urls:
        raise ValueError("no tar given; pass their URLs, with braces for many: coco-{000..117}.tar")

    def scan(url: str) -> Scan:
        try:
            with open_url(url) as stream:
                return scan_tar(_name(url, out), stream, is_photo_member)
        finally:
            advance(1)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        scans = list(pool.map(scan, urls))
    sizes = ImageSizes.of(size for found in scans for size in found.image_sizes)
    manifest = Manifest(tuple(found.entry for found in scans), sizes)
    others = sum((found.others for found in scans), Counter[str]())
    if not manifest.samples:
        raise ValueError(
            f"no photo in {len(urls)} tars, only {dict(others)}; photos end in jpg, jpeg, png or webp"
        )
    broken = [f"{found.entry.name}: {member}" for found in scans for member in found.broken]
    return manifest, broken, others


def _name(url: str, out: Path) -> str:
    """Relative to the manifest where the tar lies beside it, else the whole URL."""
    if not is_local(url):
        return url
    path = Path(os.path.abspath(local_path(url)))
    return path.name if path.parent == Path(os.path.abspath(out)).parent else str(path)
