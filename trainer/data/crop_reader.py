"""What one worker of the loader does: read its part of the plan, decode, crop, batch."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from evaluator.photos.decode import BrokenPhoto, decode_rgb
from evaluator.photos.manifest import ShardError
from trainer.data.crops import random_crop
from trainer.data.plan import Start, World, blocks_from, crop_draws
from trainer.data.sample_reader import OpenBlock, open_blocks
from trainer.data.shard_set import ShardSet


class Loaded(NamedTuple):
    """A batch as a worker hands it over (a named tuple, so that pinning finds the tensor)."""

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


class CropReader(IterableDataset):
    """The batches of one worker: a piece of the plan, read, decoded, cropped."""

    def __init__(self, shards: ShardSet, settings: Settings, start: Start) -> None:
        self._shards, self._settings, self._start = shards, settings, start

    def __iter__(self) -> Iterator[Loaded | ShardError]:
        """Batches, endlessly; a ShardError instead of the batch at which the shards failed."""
        info = get_worker_info()
        slot = info.id if info else 0
        # DataLoader always begins with its worker 0: that one plays the worker whose turn it is.
        worker = (self._start.first_worker + slot) % len(self._start.taken)
        try:
            yield from self._batches(worker)
        except ShardError as error:
            yield error

    def _batches(self, worker: int) -> Iterator[Loaded]:
        settings = self._settings
        world = World(ranks=settings.world_size, rank=settings.rank, workers=len(self._start.taken), worker=worker)
        counts, seed = self._shards.counts, settings.seed
        blocks = blocks_from(seed, self._start.taken[worker], world, counts, settings.shuffle_block)
        crops = self._crops(open_blocks(self._shards, blocks))
        while True:
            rgb = torch.empty(settings.batch_size, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
            failures: list[str] = []
            for target in rgb:
                crop, failure = next(crops)
                target.copy_(crop)
                if failure:
                    failures.append(failure)
            yield Loaded(rgb, tuple(failures))

    def _crops(self, blocks: Generator[OpenBlock]) -> Iterator[tuple[Tensor, str]]:
        """Crops in the plan's order, each with the reason why another photo stands in for it, or ''."""
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
            return random_crop(rgb, settings.image_size, settings.scale_jitter, draws), failure
        raise ShardError(f"{failure}; nor can any of the {len(order)} photos around it be decoded")


@lru_cache(maxsize=64)
def _draws(seed: int, epoch: int, shard: int, samples: int) -> list[tuple[float, float, float]]:
    return [(scale, row, col) for scale, row, col in crop_draws(seed, epoch, shard, samples).tolist()]
