"""What one worker of the loader does: read its lanes, decode, crop at random, hand over parts of batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from evaluator.photos.decode import BrokenPhoto, decode_rgb, resized
from evaluator.photos.manifest import ShardError
from trainer.data.cache import ShardCache
from trainer.data.reader import OpenBlock, ShardSet, open_source
from trainer.data.sampling import Lane, World, blocks_from, crop_draws


def random_crop(
    rgb: UInt8[Tensor, "3 h w"], size: int, scale_jitter: int, draws: tuple[float, float, float]
) -> UInt8[Tensor, "3 size size"]:
    """A random window of a photo, `size` pixels square.

    Args:
        rgb: The photo; a short side below `size` is enlarged.
        size: Side of the result in pixels.
        scale_jitter: The photo's short side is scaled to `size` + 0 ... `scale_jitter` pixels.
        draws: Uniform numbers in [0, 1) for the scale, the row and the column.
    """
    height, width = rgb.shape[1:]
    short_side = min(height, width)
    side = max(1, round(short_side * size / (size + int(draws[0] * (scale_jitter + 1)))))
    top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
    return resized(rgb[:, top : top + side, left : left + side], size)


class Loaded(NamedTuple):
    """A worker's part of a batch."""

    rgb: Tensor
    failures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a reader needs to know; see `trainer.data.loader.ShardLoader`."""

    image_size: int
    batch_size: int
    seed: int
    rank: int
    world_size: int
    workers: int
    scale_jitter: int
    shuffle_block: int

    def __post_init__(self) -> None:
        least = {"image_size": 1, "batch_size": 1, "shuffle_block": 1, "seed": 0, "workers": 0, "scale_jitter": 0}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {limit}")
        World(ranks=self.world_size, rank=self.rank)  # its own check

    @property
    def global_batch(self) -> int:
        """Photos of a batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def readers(self) -> int:
        """Workers with something to do, or the calling process."""
        return max(1, min(self.workers, self.batch_size))

    def lanes(self, worker: int) -> list[Lane]:
        """The lanes that a worker reads."""
        world = World(ranks=self.world_size, rank=self.rank, workers=self.readers, worker=worker)
        return [Lane(number, self.global_batch) for number in world.lanes(self.batch_size)]


class CropReader(IterableDataset):
    """One worker's parts of the batches from a step on: its lanes of the plan, read, decoded, cropped."""

    def __init__(self, shards: ShardSet, settings: Settings, step: int, cache: ShardCache | None) -> None:
        self._shards, self._settings, self._step, self._cache = shards, settings, step, cache

    def __iter__(self) -> Iterator[Loaded | ShardError]:
        """Parts of batches, endlessly; a ShardError instead of the one at which the shards failed."""
        info = get_worker_info()
        try:
            yield from self._parts(self._settings.lanes(info.id if info else 0))
        except ShardError as error:
            yield error

    def _parts(self, lanes: list[Lane]) -> Iterator[Loaded]:
        settings, counts = self._settings, self._shards.counts
        size = settings.image_size
        source = open_source(self._shards, self._cache, len(lanes))
        try:
            rows = [blocks_from(settings.seed, self._step, lane, counts, settings.shuffle_block) for lane in lanes]
            # A list first: every lane's first block is asked for before the first one is used.
            streams = [self._crops(opened) for opened in [source.opened(row) for row in rows]]
            while True:
                rgb = torch.empty(len(lanes), 3, size, size, dtype=torch.uint8)
                failures: list[str] = []
                for target, stream in zip(rgb, streams, strict=True):
                    crop, failure = next(stream)
                    target.copy_(crop)
                    if failure:
                        failures.append(failure)
                yield Loaded(rgb, tuple(failures))
        finally:
            source.close()

    def _crops(self, blocks: Iterator[OpenBlock]) -> Iterator[tuple[Tensor, str]]:
        """One lane's crops in the plan's order, each with the reason why another photo stands in for it, or ''."""
        for opened in blocks:
            for position in range(opened.block.skip, len(opened.block.order)):
                yield self._crop(opened, position)

    def _crop(self, opened: OpenBlock, position: int) -> tuple[Tensor, str]:
        """The crop at a position of a block's order: of its own photo or of the next good one."""
        settings, order, failure = self._settings, opened.block.order, ""
        for step in range(len(order)):
            sample = opened.fetch(order[(position + step) % len(order)])
            try:
                rgb = decode_rgb(sample.data, settings.image_size + settings.scale_jitter)
            except BrokenPhoto as error:
                failure = failure or f"{self._shards.urls[sample.shard]}: {sample.name}: {error}"
                continue
            count = self._shards.counts[sample.shard]
            draws = _draws(settings.seed, opened.block.epoch, sample.shard, count)[sample.index]
            scale, row, col = draws.tolist()
            return random_crop(rgb, settings.image_size, settings.scale_jitter, (scale, row, col)), failure
        raise ShardError(f"{failure}; nor can any of the {len(order)} photos around it be decoded")


@lru_cache(maxsize=512)  # a reader's lanes are in so many shards at once
def _draws(seed: int, epoch: int, shard: int, samples: int) -> np.ndarray:
    return crop_draws(seed, epoch, shard, samples)
