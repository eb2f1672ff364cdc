"""One shard from source files: check every photo, shrink it when asked, write the tar, describe it.

The same files and settings give the same bytes. A shard counts as finished when its description is in
`.parts/`: the tar is renamed into place before that, so a kill or a full disk at any moment leaves either a
finished shard or one that the next run builds again.
"""

import hashlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from evaluator.photos.files import SourceFile
from evaluator.photos.manifest import ShardEntry
from evaluator.system.files import write_atomically
from trainer.data.tar_scan import scan_tar

PARTS = ".parts"
_GREY_CHECK_SIDE = 128
_STORED_AS_IS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_LAYOUT = 1
"""Raised when the same input would give other bytes."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How photos are stored."""

    short_side: int | None = None
    """Shrink photos to this short side in pixels; smaller ones stay. None: keep the size."""
    quality: int | None = None
    """Encode as JPEG of this quality, 1 ... 95, at full colour resolution. None with no `short_side`: the
    original bytes."""
    max_grey_share: float | None = None
    """Leave out a photo when more than this share of its pixels is near grey. None: keep all."""

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short side is {self.short_side} pixels; it must be at least 1")
        if self.quality is not None and not 1 <= self.quality <= 95:
            raise ValueError(f"quality is {self.quality}; JPEG qualities are 1 ... 95")
        if self.max_grey_share is not None and not 0 <= self.max_grey_share <= 1:
            raise ValueError(f"max grey share is {self.max_grey_share}; it is a share, 0 ... 1")

    @property
    def encodes(self) -> bool:
        """Whether photos are encoded anew."""
        return self.short_side is not None or self.quality is not None


@dataclass(frozen=True)
class ShardJob:
    """A shard to build."""

    path: Path
    files: tuple[SourceFile, ...]
    keys: tuple[str, ...]
    """The files' names in the tar, without suffix."""
    settings: StoreSettings

    @cached_property
    def digest(self) -> str:
        """Names the input: a finished shard with the same digest need not be built again."""
        content = [_LAYOUT, asdict(self.settings), self.keys, [asdict(file) for file in self.files]]
        if self.settings.encodes:
            content.append(PIL.__version__)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def description(self) -> Path:
        """The file that says that the shard is finished."""
        return self.path.parent / PARTS / f"{self.path.stem}.json"


@dataclass(frozen=True)
class BuiltShard:
    """A finished shard."""

    entry: ShardEntry
    image_sizes: tuple[tuple[int, int], ...]
    dropped: dict[str, list[str]]
    """For each reason the files that were left out."""


class _Dropped(Exception):
    """A file is left out, for a reason that the report counts, with an optional detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def finished(job: ShardJob) -> BuiltShard | None:
    """The shard as an earlier run finished it from the same input, or None."""
    if not job.description.exists():
        return None
    content = json.loads(job.description.read_text())
    if content["digest"] != job.digest or not job.path.exists():
        return None
    shard = _built(content)
    return shard if job.path.stat().st_size == shard.entry.bytes else None


def build_shard(job: ShardJob) -> BuiltShard:
    """Write a job's tar and its description.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    dropped: dict[str, list[str]] = {}
    job.description.unlink(missing_ok=True)
    temporary = job.path.with_name(f".{job.path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, data in _photos(job, dropped):
                    # TarInfo's defaults are fixed: time 0, user 0, mode 0644.
                    header = tarfile.TarInfo(name)
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        with temporary.open("rb") as file:
            scan = scan_tar(job.path.name, file, lambda name: True)
        os.replace(temporary, job.path)
    finally:
        temporary.unlink(missing_ok=True)
    content = {
        "digest": job.digest,
        "entry": asdict(scan.entry),
        "image_sizes": scan.image_sizes,
        "dropped": dropped,
    }
    write_atomically(job.description, json.dumps(content).encode())
    return BuiltShard(scan.entry, scan.image_sizes, dropped)


def _built(content: dict[str, Any]) -> BuiltShard:
    entry = content["entry"]
    entry = ShardEntry(**entry | {"starts": tuple(entry["starts"]), "sizes": tuple(entry["sizes"])})
    sizes = tuple((int(width), int(height)) for width, height in content["image_sizes"])
    return BuiltShard(entry, sizes, content["dropped"])


def _photos(job: ShardJob, dropped: dict[str, list[str]]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each photo that stays; the others are added to `dropped`."""
    for file, key in zip(job.files, job.keys, strict=True):
        try:
            suffix, data = _checked(file, job.settings)
            yield f"{key}.{suffix}", data
        except _Dropped as why:
            detail = f" ({why.detail})" if why.detail else ""
            dropped.setdefault(why.reason, []).append(f"{file.source}: {file.name}{detail}")


def _checked(file: SourceFile, settings: StoreSettings) -> tuple[str, bytes]:
    """Decode a file wholly, for only that shows whether it is sound; then encode it, or keep its bytes."""
    try:
        data = file.read()
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
            image.load()
            if settings.max_grey_share is not None:
                _check_colour(image, settings.max_grey_share)
            if settings.encodes:
                return "jpg", _encode(image, settings)
    except UnidentifiedImageError as error:
        raise _Dropped("not an image") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,  # a zip's member that is encrypted, or packed in a way that zipfile does not know
    ) as error:
        raise _Dropped("broken", str(error)) from error
    if kind not in _STORED_AS_IS:
        raise _Dropped("format that needs --quality or --short-side", kind)
    return _STORED_AS_IS[kind], data


def _encode(image: Image.Image, settings: StoreSettings) -> bytes:
    """A JPEG without metadata, so the turn that EXIF asks for is carried out first."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    short_side = min(upright.size)
    if settings.short_side is not None and short_side > settings.short_side:
        scale = settings.short_side / short_side
        size = (round(upright.width * scale), round(upright.height * scale))
        upright = upright.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    # Full colour resolution: colour is what is learned from these photos.
    upright.save(file, "JPEG", quality=settings.quality or 95, subsampling=0)
    return file.getvalue()


def _check_colour(image: Image.Image, max_grey_share: float) -> None:
    # Only this filter needs torch, which takes a second to import in every process.
    from evaluator.photos.grey import grey_share

    small = image.convert("RGB")
    small.thumbnail((_GREY_CHECK_SIDE, _GREY_CHECK_SIDE))
    share = grey_share(np.array(small))
    if share > max_grey_share:
        raise _Dropped("too grey", f"{share:.0%} near grey")
