"""Manifest of a set of shards: photos, sizes, hashes and byte positions.

`manifest.json` lists every shard with its size, sha256 and the place of every photo in it, so a reader goes to
any sample without parsing the tar before it, over HTTP and S3 too. Its hash names the data set.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluator.system.files import write_atomically

FILE_NAME = "manifest.json"
FORMAT = 1
TAR_BLOCK = 512
"""Bytes of a tar header; the one that names a photo stands directly before its bytes."""

HOW_TO_INDEX = "write one with: python -m trainer.shards index URL... --out manifest.json"


class ShardError(RuntimeError):
    """Raised for a shard that is missing, truncated, or does not match its manifest."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard."""

    name: str
    """File name relative to the manifest, or a whole URL."""
    bytes: int
    """Size of the tar."""
    sha256: str
    """Hash of the tar's bytes, hexadecimal."""
    starts: tuple[int, ...]
    """For each photo the offset of its bytes in the tar."""
    sizes: tuple[int, ...]
    """For each photo the number of its bytes."""

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.sizes):
            raise ValueError(
                f"shard {self.name}: {len(self.starts)} starts but {len(self.sizes)} sizes; index it again"
            )
        end = 0
        for start, size in zip(self.starts, self.sizes, strict=True):
            if start < end + TAR_BLOCK or size < 1 or start + size > self.bytes:
                raise ValueError(
                    f"shard {self.name}: a photo at {start} with {size} bytes cannot be; index it again"
                )
            end = start + size

    @property
    def samples(self) -> int:
        """Number of photos in the shard."""
        return len(self.starts)


@dataclass(frozen=True)
class ImageSizes:
    """Smallest, median and largest side of the photos, in pixels."""

    short_side: tuple[int, int, int]
    long_side: tuple[int, int, int]

    @staticmethod
    def of(sizes: Iterable[Sequence[int]]) -> "ImageSizes":
        """Summarise (width, height) pairs; zeros when there are none."""
        pairs = list(sizes) or [(0, 0)]
        return ImageSizes(_spread([min(pair) for pair in pairs]), _spread([max(pair) for pair in pairs]))


@dataclass(frozen=True)
class Manifest:
    """A set of shards."""

    shards: tuple[ShardEntry, ...]
    image_sizes: ImageSizes

    @property
    def samples(self) -> int:
        """Number of photos in all shards."""
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the shards' names, hashes and photo positions, which identifies this data set."""
        # `vars`, not `asdict`, which would copy every number: there may be 10,000 shards.
        canonical = json.dumps([vars(shard) for shard in self.shards], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    """JSON text of the manifest, canonical, one shard on a line."""
    lines = ",\n".join(
        json.dumps({"name": shard.name, "samples": shard.samples} | vars(shard), separators=(",", ":"))
        for shard in manifest.shards
    )
    head = {
        "format": FORMAT,
        "samples": manifest.samples,
        "image_sizes": asdict(manifest.image_sizes),
        "hash": manifest.hash,
    }
    return json.dumps(head)[:-1] + f', "shards": [\n{lines}\n]}}\n'


def from_json(text: str | bytes, where: str) -> Manifest:
    """Parse a manifest's text; `where` names it in errors.

    Raises:
        ValueError: not a manifest, one of another format, or one whose parts contradict each other.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, this version reads {FORMAT}")
        sizes = {key: tuple(value) for key, value in content["image_sizes"].items()}
        manifest = Manifest(tuple(map(_shard, content["shards"])), ImageSizes(**sizes))
        if content["hash"] != manifest.hash:
            raise ValueError("its hash does not fit its shards, so it was edited or damaged")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is no manifest of shards: {reason}; {HOW_TO_INDEX}") from error
    return manifest


def save(manifest: Manifest, path: Path) -> None:
    """Write the manifest atomically."""
    write_atomically(path, to_json(manifest).encode())


def _shard(content: Mapping[str, Any]) -> ShardEntry:
    shard = ShardEntry(
        name=str(content["name"]),
        bytes=int(content["bytes"]),
        sha256=str(content["sha256"]),
        starts=tuple(content["starts"]),
        sizes=tuple(content["sizes"]),
    )
    if content["samples"] != shard.samples:
        raise ValueError(f"shard {shard.name} claims {content['samples']} samples but lists {shard.samples}")
    return shard


def _spread(values: Sequence[int]) -> tuple[int, int, int]:
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
