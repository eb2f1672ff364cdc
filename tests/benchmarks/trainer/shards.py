"""Shards at COCO's size: making them, and starting, resuming and reading on over 10,000 of them.

    python -m tests.benchmarks shards [--photos N] [--shards N] [--json FILE]

The photos are synthetic JPEGs: a pool of some hundred distinct ones, stored in one zip under as many names as COCO
has photos. They are small, so that what `python -m trainer.shards` does for each file is measured more than
decoding, which every photo has to pass; `--photo-size 640 480` makes them as large as COCO's.

Photos are counted, batches from the disk and from the server compared, before anything is reported.
"""

import io
import multiprocessing
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from evaluator.photos.manifest import FILE_NAME
from evaluator.system.environment import usable_cores
from tests.benchmarks.harness import Goal, Refused, at_most, quantiles, report
from tests.benchmarks.servers import http_folder
from tests.benchmarks.trainer.shards_loading import FirstBatch, first_batch, growth, link_shards, resident_memory
from trainer.data.sampling import block_for
from trainer.shards.build import StoreSettings, Summary, build_all, plan_jobs

START_GOAL_S = 5.0
RESUME_GOAL_S = 10.0
GROWTH_GOAL_MIB = 16.0
_MIB = 2**20

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time shards of a COCO-sized set of synthetic photos, and the loader over 10,000 shards."""

    photos: int = 118_287
    """Photos; the default is COCO's train2017."""
    pool: int = 256
    """Distinct JPEGs among them."""
    photo_size: tuple[int, int] = (96, 72)
    """Width and height in pixels; COCO's are about 640 by 480."""
    shard_size: int = 1000
    """Photos in each shard that is made."""
    jobs: int | None = None
    """Processes that make shards; default: one per core."""
    shards: int = 10_000
    """Shards of the set whose starts and resumes are timed."""
    shard_photos: int = 12
    """Photos in each of those; 12 of 10,000 are about COCO's photos."""
    batch_size: int = 32
    """Photos per batch."""
    repeats: int = 5
    """Measurements of every start and resume, taken in turns, each with another order."""
    memory_batches: int = 1000
    """Batches over which memory is watched."""
    folder: Path | None = None
    """Where to make a temporary folder; default: the system's."""
    json: Path | None = None
    """Write the report here too."""

    def __post_init__(self) -> None:
        for name in ("photos", "pool", "shard_size", "shards", "shard_photos", "batch_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if min(self.photo_size) < 1:
            raise ValueError(f"--photo-size is {self.photo_size}; give a width and a height in pixels")
        if self.memory_batches < 4:
            raise ValueError(f"--memory-batches is {self.memory_batches}; it must be at least 4")
        if self.shards * self.shard_photos < 4 * self.batch_size:
            raise ValueError(
                f"--shards {self.shards} of {self.shard_photos} photos are fewer than 4 batches of "
                f"{self.batch_size}: there is no middle to resume from"
            )
        if self.photos < max(self.shard_photos, self.batch_size):
            raise ValueError(f"--photos is {self.photos}; give at least one batch and one of the many shards")


def main(args: Sequence[str]) -> int:
    """Make shards, start and resume over many, watch the memory, report."""
    options = tyro.cli(Arguments, prog="python -m tests.benchmarks shards", args=args)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        made, shards = _make(options, folder)
        starts, goals = _starts(options, folder)
        watched, memory_goals = _memory(options, folder, shards)
    title = (
        f"{options.photos} JPEGs of {options.photo_size[0]} x {options.photo_size[1]} px; "
        f"{options.shards} shards of {options.shard_photos}; batches of {options.batch_size}"
    )
    report(title, made + starts + watched, goals + memory_goals, options.json)
    return 0


def write_source(path: Path, photos: int, pool: int, size: tuple[int, int]) -> None:
    """A zip of JPEGs under different names, as COCO's: `pool` distinct ones, again and again."""
    jpegs = [_jpeg(number, *size) for number in range(min(pool, photos))]
    with zipfile.ZipFile(path, "w") as target:
        for number in range(photos):
            target.writestr(f"train/{number:012d}.jpg", jpegs[number % len(jpegs)])


def _jpeg(seed: int, width: int, height: int) -> bytes:
    """Soft blotches of color with grain: as many bytes as a photograph has, about."""
    random = np.random.default_rng(seed)
    blotches = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(blotches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = smooth + random.normal(0, 8, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _make(options: Arguments, folder: Path) -> tuple[list[Row], Path]:
    """The source, and shards of it through the functions of `trainer.shards`: once, and again when all is done."""
    source, out, processes = folder / "source.zip", folder / "shards", options.jobs or usable_cores()
    times = [time.perf_counter()]
    write_source(source, options.photos, options.pool, options.photo_size)
    times.append(time.perf_counter())
    found: list[Summary] = []
    for _ in range(2):
        jobs = plan_jobs([source], out, StoreSettings(), options.shard_size, 0)
        found.append(build_all(jobs, out, processes, lambda count: None))
        times.append(time.perf_counter())
    shards, reused = found[0].manifest.shards, found[1].reused
    if found[0].manifest.samples != options.photos or reused != len(shards):
        raise Refused(
            f"{found[0].manifest.samples} of {options.photos} photos stored, {reused} of {len(shards)} shards "
            "found again: no times"
        )
    mib = sum(shard.bytes for shard in shards) / _MIB
    steps = (
        "write the source, a zip (the benchmark's own work)",
        f"make {len(shards)} shards, {processes} processes",
        "the same again: all shards are finished",
    )
    took = [after - before for before, after in pairwise(times)]
    return [
        {"what": what, "unit": "s", "p50": seconds, "photos/s": options.photos / seconds, "MiB": mib}
        for what, seconds in zip(steps, took, strict=True)
    ], out


def _starts(options: Arguments, folder: Path) -> tuple[list[Row], list[Goal]]:
    """First batches of an epoch and of its second half, from the disk and from a server, in turns."""
    many_folder = folder / "many"
    job = plan_jobs([folder / "source.zip"], many_folder, StoreSettings(), options.shard_photos, None)[0]
    many = link_shards(job, options.shards, options.batch_size)
    cases = [(seen, by) for seen in (0, many.middle) for by in ("disk", "HTTP")]
    found: dict[tuple[int, str], list[FirstBatch]] = {case: [] for case in cases}
    with http_folder(many.folder, folder / "log") as server:
        for seed in range(options.repeats + 1):  # each its own order, so that nothing of it is known before
            for seen, by in cases:
                found[seen, by].append(first_batch(many, seen, seed, server if by == "HTTP" else None))
    for seen in (0, many.middle):
        both = zip(found[seen, "disk"], found[seen, "HTTP"], strict=True)
        if not all(torch.equal(disk.rgb, http.rgb) for disk, http in both):
            raise Refused(f"the batches after {seen} photos by HTTP are not those of the disk: no times")
    again = sum(
        len(many.consumed(seed).intersection(batch.photos))
        for seed, batch in enumerate(found[many.middle, "HTTP"])
    )
    rows = []
    for (seen, by), batches in found.items():
        rows.append(_start_row(f"{'resume in the middle' if seen else 'start'} of an epoch, {by}", batches))
    rows[-1]["read again"] = again
    slowest = {
        seen: max(batch.seconds for by in ("disk", "HTTP") for batch in found[seen, by][1:])
        for seen in (0, many.middle)
    }
    return rows, [
        at_most(f"at most: s to the first batch of {options.shards} shards, slowest", START_GOAL_S, slowest[0]),
        at_most("at most: s to the first batch after a resume, slowest", RESUME_GOAL_S, slowest[many.middle]),
        at_most("at most: consumed photos that resumes read again", 0.0, float(again)),
    ]


def _start_row(what: str, batches: Sequence[FirstBatch]) -> Row:
    """The first one is the warm-up."""
    row: Row = {"what": what, "unit": "s", **quantiles([batch.seconds for batch in batches[1:]])}
    if batches[0].manifest_bytes:
        row |= {
            "photos read": float(np.median([len(batch.photos) for batch in batches[1:]])),
            "MiB": float(np.median([batch.tar_bytes for batch in batches[1:]])) / _MIB,
            "manifest MiB": batches[0].manifest_bytes / _MIB,
        }
    return row


def _memory(options: Arguments, folder: Path, shards: Path) -> tuple[list[Row], list[Goal]]:
    """Resident memory while batches are read, in a fresh process for each source."""
    block = block_for(options.batch_size)
    rows: list[Row] = []
    goals: list[Goal] = []
    with http_folder(shards, folder / "memory-log") as server:
        for by, source in (("disk", str(shards)), ("HTTP", f"{server.url}/{FILE_NAME}")):
            words = (source, options.batch_size, options.memory_batches, block)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                memory = process.submit(resident_memory, *words).result()
            what = f"loader's memory over {options.memory_batches} batches, {by}"
            rows.append(
                {
                    "what": what,
                    "unit": "MiB",
                    **quantiles(memory),
                    "blocks": options.memory_batches * options.batch_size / block,
                    "growth": growth(memory),
                }
            )
            goals.append(at_most(f"at most: MiB that the loader grows, {by}", GROWTH_GOAL_MIB, growth(memory)))
    return rows, goals
