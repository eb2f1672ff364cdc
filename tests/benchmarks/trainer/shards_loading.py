"""How the loader behaves at scale: starts over many shards, what a resume reads, memory over many blocks.

`tests.benchmarks.trainer.shards` calls this. The many shards are one small tar under many names (hard links),
each with an entry of its own in the manifest: a start and a resume read the manifest and the first blocks of
every lane, whatever the rest of the shards holds.
"""

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
from torch import Tensor

from evaluator.photos.manifest import FILE_NAME, ImageSizes, Manifest, save
from tests.benchmarks.servers import Asked, HttpFolder
from trainer.data.loader import ShardLoader
from trainer.data.sampling import Lane, block_for, blocks_from
from trainer.shards.build import ShardJob, build_shard

IMAGE_SIZE = 64
"""Side of the crops in pixels: decoding is not what is measured here."""
BLOCKS = 8
"""Shuffle blocks of a lane in an epoch, at least: the middle of an epoch has some before and behind it."""
SAMPLES = 100
"""Times that memory is measured, at most."""
_MIB = 2**20

Place = tuple[int, int]
"""A shard, and a photo's index in it."""


@dataclass(frozen=True, kw_only=True)
class ManyShards:
    """A folder of shards with one manifest, and how it is read."""

    folder: Path
    manifest: Manifest
    batch_size: int
    """Photos in a batch of one process."""

    @cached_property
    def block_size(self) -> int:
        """Photos that a lane shuffles together: the usual number, or fewer where an epoch is short."""
        return max(1, min(block_for(self.batch_size), self.manifest.samples // self.batch_size // BLOCKS))

    @property
    def middle(self) -> int:
        """The photos of whole batches up to the middle of an epoch."""
        return self.manifest.samples // 2 // self.batch_size * self.batch_size

    def consumed(self, seed: int) -> set[Place]:
        """The photos that the first half of epoch 0 trains on, from the plan of the order."""
        return {
            place
            for number in range(self.batch_size)
            for place in self._taken(seed, Lane(number, self.batch_size), self.middle // self.batch_size)
        }

    def _taken(self, seed: int, lane: Lane, photos: int) -> list[Place]:
        counts = [shard.samples for shard in self.manifest.shards]
        taken: list[Place] = []
        for block in blocks_from(seed, 0, lane, counts, self.block_size):
            row = [(piece.shard, index) for piece in block.pieces for index in range(piece.start, piece.stop)]
            taken += [row[place] for place in block.order]
            if len(taken) >= photos:
                break
        return taken[:photos]

    def photos_in(self, asked: Sequence[Asked]) -> list[Place]:
        """The photos whose bytes, or some of them, are in these requests."""
        numbers = {shard.name: number for number, shard in enumerate(self.manifest.shards)}
        found: list[Place] = []
        for request in asked:
            if request.name not in numbers:  # the manifest
                continue
            number = numbers[request.name]
            entry = self.manifest.shards[number]
            first = bisect_right(entry.starts, request.start) - 1
            if first < 0 or entry.starts[first] + entry.sizes[first] <= request.start:
                first += 1
            found += [(number, index) for index in range(first, bisect_left(entry.starts, request.stop))]
        return found


@dataclass(frozen=True)
class FirstBatch:
    """From nothing to a batch: the manifest read, the order drawn, the lanes' first blocks on their way."""

    rgb: Tensor
    """uint8 (B,3,H,W)."""
    seconds: float
    photos: list[Place]
    """Photos that the server was asked for until the loader was closed; none where there is no server."""
    tar_bytes: int
    """Bytes of shards among these requests."""
    manifest_bytes: int


def link_shards(job: ShardJob, shards: int, batch_size: int) -> ManyShards:
    """Build a job's tar and give it so many names, beside a manifest of all of them.

    Raises:
        OSError: the disk is full, or knows no hard links.
    """
    folder = job.path.parent
    job.description.parent.mkdir(parents=True)
    built = build_shard(job)
    names = [f"linked-{number:06d}.tar" for number in range(shards)]
    for name in names:
        os.link(job.path, folder / name)
    entries = tuple(replace(built.entry, name=name) for name in names)
    manifest = Manifest(entries, ImageSizes.of(built.image_sizes))
    save(manifest, folder / FILE_NAME)
    return ManyShards(folder=folder, manifest=manifest, batch_size=batch_size)


def first_batch(many: ManyShards, images_seen: int, seed: int, server: HttpFolder | None) -> FirstBatch:
    """Make a loader, take its first batch, and see what it read; from the disk where there is no server."""
    source = f"{server.url}/{FILE_NAME}" if server else str(many.folder)
    before = len(server.asked()) if server else 0
    begin = time.perf_counter()
    loader = ShardLoader(source, IMAGE_SIZE, many.batch_size, seed=seed, shuffle_block=many.block_size)
    rgb = next(loader.batches(images_seen)).rgb
    took = time.perf_counter() - begin
    loader.close()
    asked = server.asked()[before:] if server else []
    tars = [request for request in asked if request.name != FILE_NAME]
    return FirstBatch(
        rgb=rgb,
        seconds=took,
        photos=many.photos_in(tars),
        tar_bytes=_length(tars),
        manifest_bytes=_length(asked) - _length(tars),
    )


def _length(asked: Sequence[Asked]) -> int:
    return sum(request.stop - request.start for request in asked)


def resident_memory(source: str, batch_size: int, batches: int, block_size: int) -> list[float]:
    """Read batches in this process; its resident MiB at up to `SAMPLES` equal distances."""
    loader = ShardLoader(source, IMAGE_SIZE, batch_size, shuffle_block=block_size)
    process, distance = psutil.Process(), max(1, batches // SAMPLES)
    try:
        return [
            process.memory_info().rss / _MIB
            for number, _ in enumerate(islice(loader.batches(), batches), 1)
            if number % distance == 0
        ]
    finally:
        loader.close()


def growth(memory: Sequence[float]) -> float:
    """The median of the last quarter less that of the second one; the first quarter is the warm-up.

    Raises:
        ValueError: fewer than four values.
    """
    if len(memory) < 4:
        raise ValueError(f"memory was measured {len(memory)} times; read at least 4 batches")
    quarter = len(memory) // 4
    return float(np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter]))
