"""Shards from photos, in parallel: check and shrink each photo, write the tars, manifest and report last."""

import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError
from webdataset.writer import TarWriter

from evaluator.photos.files import SourceFile, list_files
from evaluator.photos.manifest import FILE_NAME, ImageSizes, Manifest, ShardEntry, save
from evaluator.system.files import write_atomically
from evaluator.system.locks import NO_LOCKS
from trainer.shards.index import scan_tar

PARTS = ".parts"
LEAVING_S = 30.0
"""Seconds to wait for the processes of a killed run; each sees at once that it was killed."""
_LOCK = "lock"
_held_here: list[IO[str]] = []
"""A process's lock, open until it ends."""
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
    """Encode as JPEG of this quality, 1 ... 95, at full color resolution. None with no `short_side`: the
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
            # Time, owner and mode are fixed, so that equal photos give equal bytes.
            with TarWriter(file, "", "", 0o644, mtime=0, encoder=False, format="PAX_FORMAT") as tar:
                for key, suffix, data in _photos(job, dropped):
                    tar.write({"__key__": key, suffix: data})
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


def _photos(job: ShardJob, dropped: dict[str, list[str]]) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and bytes of each photo that stays; the others are added to `dropped`."""
    for file, key in zip(job.files, job.keys, strict=True):
        try:
            suffix, data = _checked(file, job.settings)
            yield key, suffix, data
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
                _check_color(image, settings.max_grey_share)
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
    # Full color resolution: color is what is learned from these photos.
    upright.save(file, "JPEG", quality=settings.quality or 95, subsampling=0)
    return file.getvalue()


def _check_color(image: Image.Image, max_grey_share: float) -> None:
    # Only this filter needs torch, which takes a second to import in every process.
    from evaluator.photos.grey import grey_share

    small = image.convert("RGB")
    small.thumbnail((_GREY_CHECK_SIDE, _GREY_CHECK_SIDE))
    share = grey_share(np.array(small))
    if share > max_grey_share:
        raise _Dropped("too grey", f"{share:.0%} near grey")


REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Summary:
    """What a run stored and left out."""

    manifest: Manifest
    files: int
    dropped: dict[str, list[str]]
    """For each reason the files that were left out."""
    reused: int
    """Shards that an earlier run had finished."""


def plan_jobs(
    sources: Sequence[Path], out: Path, settings: StoreSettings, shard_size: int, seed: int | None
) -> list[ShardJob]:
    """Deal the files of all sources, sorted and then shuffled by `seed`, to shards.

    Raises:
        ValueError: a source is missing, empty, or contains `out`.
    """
    if shard_size < 1:
        raise ValueError(f"shard size is {shard_size}; it must be at least 1")
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{out} lies inside the source {source}; write the shards somewhere else")
    named = _named([file for source in sources for file in list_files(source)])
    if not named:
        raise ValueError(f"{', '.join(map(str, sources))}: no file there; give zips, folders or photos")
    if seed is not None:
        random.Random(seed).shuffle(named)
    groups = [named[start : start + shard_size] for start in range(0, len(named), shard_size)]
    digits = max(3, len(str(len(groups) - 1)))
    return [
        ShardJob(
            out / f"photos-{number:0{digits}d}.tar",
            tuple(file for _, file in group),
            tuple(key for key, _ in group),
            settings,
        )
        for number, group in enumerate(groups)
    ]


def build_all(
    jobs: Sequence[ShardJob], out: Path, processes: int, advance: Callable[[int], object], *, replace: bool = False
) -> Summary:
    """Build what is not finished yet.

    Args:
        jobs: all shards of the set.
        out: its folder.
        processes: how many build them.
        advance: called with the number of files just dealt with.
        replace: whether a finished set of which nothing stays may go.

    Raises:
        ValueError: `out` holds another set, or shards that this tool did not make, or another run writes to it, or
            no file was a photo.
        OSError: the disk is full, or cannot be written.
        RuntimeError: a process was killed.
    """
    with _held(out):
        done = {job: shard for job in jobs if (shard := finished(job))}
        waiting = [job for job in jobs if job not in done]
        if (out / FILE_NAME).exists() and list((out / PARTS).glob("*.json")) and not done and not replace:
            raise ValueError(
                f"{out} holds a finished set of other photos or settings; write to another folder, or replace it "
                "with --replace"
            )
        _make_room(jobs, out, unchanged=not waiting)
        for job in done:
            advance(len(job.files))
        reused = len(done)
        for job, shard in _build(waiting, out, processes):
            done[job] = shard
            advance(len(job.files))
        return _finish([done[job] for job in jobs], sum(len(job.files) for job in jobs), reused, out)


def _named(files: Sequence[SourceFile]) -> list[tuple[str, SourceFile]]:
    """Give each file a key for the tar: its path without suffix and dots, numbered where two agree."""
    taken: Counter[str] = Counter()
    named = []
    for file in files:
        path = PurePosixPath(file.name)
        parts = [part for part in path.with_suffix("").parts if part not in ("..", "/")]
        key = "/".join(parts).replace(".", "_")
        taken[key] += 1
        while taken[key] > 1 and f"{key}-{taken[key]}" in taken:
            taken[key] += 1
        unique = key if taken[key] == 1 else f"{key}-{taken[key]}"
        taken[unique] = max(1, taken[unique])
        named.append((unique, file))
    return named


def _make_room(jobs: Sequence[ShardJob], out: Path, unchanged: bool) -> None:
    """Take away what an earlier run left: half-written files, its manifest, shards that are no longer planned."""
    parts = out / PARTS
    for leftover in out.glob(".photos-*.tmp"):
        leftover.unlink()
    # A manifest must never describe shards that are being replaced.
    planned = {job.path.stem for job in jobs}
    stale = [path for path in parts.glob("*.json") if path.stem not in planned]
    if stale or not unchanged:
        (out / FILE_NAME).unlink(missing_ok=True)
    for description in stale:
        if re.fullmatch(r"photos-\d+", description.stem):
            (out / f"{description.stem}.tar").unlink(missing_ok=True)
            description.unlink()


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the folder for one run, once the last process of a killed one has left it."""
    parts = out / PARTS
    if (out / FILE_NAME).exists() and not parts.exists():
        raise ValueError(f"{out} holds shards that were made elsewhere; write to an empty folder")
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / _LOCK).open("a") as file:
        deadline = time.monotonic() + LEAVING_S
        while not _locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > deadline:
                raise ValueError(f"{out} is being written to by another run; wait for its end, or stop it")
            time.sleep(0.02)
        _locked(file, fcntl.LOCK_SH)  # its own processes hold it too
        yield


def _locked(file: IO[str], kind: int) -> bool:
    """Whether the lock could be taken; where a file system has none, it counts as taken."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _build(jobs: Sequence[ShardJob], out: Path, processes: int) -> Iterator[tuple[ShardJob, BuiltShard]]:
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, build_shard(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _join, (out / PARTS / _LOCK,)) as pool:
        running = {pool.submit(build_shard, job): job for job in jobs}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that built shards was killed (out of memory?); run the same command again, "
                "with fewer --jobs: finished shards are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _join(lock: Path) -> None:
    """Begin as one of a run's processes: hold its folder, and end when the run is killed.

    It would wait for work forever, and its last file would come in the way of the next run.
    """
    _held_here.append(lock.open("a"))
    _locked(_held_here[0], fcntl.LOCK_SH)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if wait([parent.sentinel], timeout=0):  # killed before the lock was held: the next run may have begun
        os._exit(1)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finish(shards: Sequence[BuiltShard], files: int, reused: int, out: Path) -> Summary:
    dropped: dict[str, list[str]] = {}
    for shard in shards:
        for reason, names in shard.dropped.items():
            dropped.setdefault(reason, []).extend(names)
    dropped = {reason: sorted(names) for reason, names in sorted(dropped.items())}
    sizes = ImageSizes.of(size for shard in shards for size in shard.image_sizes)
    manifest = Manifest(tuple(shard.entry for shard in shards), sizes)
    counts = {reason: len(names) for reason, names in dropped.items()}
    report = {"files": files, "stored": manifest.samples, "left_out": counts, "names": dropped}
    write_atomically(out / REPORT_NAME, (json.dumps(report, indent=1) + "\n").encode())
    if not manifest.samples:
        raise ValueError(f"none of the {files} files is a photo: {counts}; see {out / REPORT_NAME}")
    save(manifest, out / FILE_NAME)
    return Summary(manifest, files, dropped, reused)
