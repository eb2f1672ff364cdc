"""Shards in parallel: plan the jobs, build those that are not finished, write manifest and report last."""

import json
import multiprocessing
import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path, PurePosixPath

from evaluator.photos.files import SourceFile, list_files
from evaluator.photos.manifest import FILE_NAME, ImageSizes, Manifest, save
from evaluator.system.files import write_atomically
from trainer.data.shard_build import PARTS, BuiltShard, ShardJob, StoreSettings, build_shard, finished

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
        ValueError: `out` holds another set, or shards that this tool did not make, or no file was a photo.
        OSError: the disk is full, or cannot be written.
        RuntimeError: a process was killed.
    """
    done = {job: shard for job in jobs if (shard := finished(job))}
    waiting = [job for job in jobs if job not in done]
    if (out / FILE_NAME).exists() and (out / PARTS).exists() and not done and not replace:
        raise ValueError(
            f"{out} holds a finished set of other photos or settings; write to another folder, or replace it with "
            "--replace"
        )
    _make_room(jobs, out, unchanged=not waiting)
    for job in done:
        advance(len(job.files))
    reused = len(done)
    for job, shard in _build(waiting, processes):
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
    if (out / FILE_NAME).exists() and not parts.exists():
        raise ValueError(f"{out} holds shards that were made elsewhere; write to an empty folder")
    parts.mkdir(parents=True, exist_ok=True)
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


def _build(jobs: Sequence[ShardJob], processes: int) -> Iterator[tuple[ShardJob, BuiltShard]]:
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, build_shard(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=_die_with_parent) as pool:
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


def _die_with_parent() -> None:
    """End this process when the one that started it is killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

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
