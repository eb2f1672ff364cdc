"""Worker processes: one reads its lanes, decodes, crops; and whole batches from all workers' parts of them."""

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from evaluator.photos.decode import BrokenPhoto, decode_rgb, resized
from evaluator.photos.manifest import ShardError
from trainer.data.batch import Batch
from trainer.data.cache import ShardCache
from trainer.data.reader import OpenBlock, ShardSet, open_source
from trainer.data.sampling import Lane, World, blocks_from, crop_draws

log = logging.getLogger(__name__)


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


class PartReader(IterableDataset, ABC):
    """What a worker iterates over: its parts of the batches, endlessly."""

    def __iter__(self) -> Iterator[Loaded | ShardError]:
        """Parts of batches; a ShardError instead of the one at which the shards failed."""
        info = get_worker_info()
        try:
            yield from self._parts(info.id if info else 0)
        except ShardError as error:
            yield error

    @abstractmethod
    def _parts(self, worker: int) -> Iterator[Loaded]:
        """The parts that one worker reads."""


class WorkerLoader(ABC):
    """Endless equal batches, put together from the parts that worker processes read; counts corrupt photos.

    Args:
        settings: What each worker needs to know.
        corrupt_limit: Share of corrupt photos among those read at which the loader of a single process stops; with
            several, the training decides for all of them.
        pin_memory: Hand over page-locked tensors, for quick copies to a GPU.
        prefetch: Batches that the workers prepare ahead.

    Raises:
        ValueError: `corrupt_limit` is out of its range.
    """

    def __init__(self, settings: Settings, *, corrupt_limit: float, pin_memory: bool, prefetch: int) -> None:
        if not 0 <= corrupt_limit <= 1:
            raise ValueError(f"corrupt_limit is {corrupt_limit}; it is a share, 0 ... 1")
        if settings.workers > settings.readers:
            log.warning(
                "data.workers is %d, but a process has only %d photos of each batch: so many read",
                settings.workers,
                settings.batch_size,
            )
        self.settings = settings
        self._corrupt_limit, self._pin_memory, self._prefetch = corrupt_limit, pin_memory, prefetch
        self._running: WeakSet[Generator[Batch]] = WeakSet()
        self.read = 0
        """Photos that this rank took since the loader was made."""
        self.failures: list[str] = []
        """Where and why, for every corrupt photo met since then."""

    @property
    @abstractmethod
    def samples_per_epoch(self) -> int:
        """Photos in a round, over all ranks together."""

    @property
    @abstractmethod
    def signature(self) -> dict[str, object]:
        """What a resumed training must share with the one before, as plain values."""

    @abstractmethod
    def _reader(self, images_seen: int) -> Any:
        """The `PartReader` of the batches that follow after `images_seen` photos.

        (Without a type of its own: beartype refuses every class that torch derives from typing.Iterable.)
        """

    def batches(self, images_seen: int = 0) -> Generator[Batch]:
        """The endless batches that follow after `images_seen` images over all ranks.

        Args:
            images_seen: A multiple of the global batch, world_size * batch_size.

        Raises:
            ValueError: `images_seen` cuts a batch.
            ShardError: while iterating: a shard that cannot be read, or more corrupt photos than the limit.
        """
        running = self._counted(self._loaded(self._reader(images_seen)))
        self._running.add(running)
        return running

    def close(self) -> None:
        """Stop all iterators and their worker processes."""
        for running in list(self._running):
            running.close()

    def _loaded(self, reader: Any) -> Generator[Loaded | ShardError]:
        """The workers' parts of this rank's batches: of the first worker, of the second... and again."""
        if self.settings.workers == 0:
            yield from reader
            return
        loader = DataLoader(
            reader,
            batch_size=None,
            num_workers=self.settings.readers,
            collate_fn=_as_it_is,
            prefetch_factor=self._prefetch,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it takes a number from the process's own generator
        )
        yield from loader

    def _together(self, source: Generator[Loaded | ShardError]) -> Iterator[Loaded]:
        """Whole batches."""
        parts: list[Loaded] = []
        for item in source:
            if isinstance(item, ShardError):
                raise item
            parts.append(item)
            if len(parts) == self.settings.readers:
                yield Loaded(self._joined([part.rgb for part in parts]), sum((p.failures for p in parts), ()))
                parts = []

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """The parts in a row, page-locked where that is wished."""
        if not self._pin_memory:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        shape = (self.settings.batch_size, *parts[0].shape[1:])
        return torch.cat(parts, out=torch.empty(shape, dtype=torch.uint8, pin_memory=True))

    def _counted(self, source: Generator[Loaded | ShardError]) -> Generator[Batch]:
        try:
            for item in self._together(source):
                self.read += len(item.rgb)
                for failure in item.failures:
                    log.warning("skipped, as it is corrupt: %s", failure)
                self.failures += item.failures
                self._check_limit()
                yield Batch(item.rgb, skipped=len(item.failures))
        finally:
            source.close()  # now, and not when the garbage collector comes: it ends the worker processes

    def _check_limit(self) -> None:
        """Stop at too many corrupt photos; at first they are held against one epoch.

        One of several ranks must not stop alone, which knows its own share only: the training decides for all.
        """
        if self.settings.world_size > 1:
            return
        if len(self.failures) > self._corrupt_limit * max(self.read, self.samples_per_epoch):
            raise ShardError(
                f"{len(self.failures)} of {self.read} photos read are corrupt, more than "
                f"{self._corrupt_limit:.2%}; the last one: {self.failures[-1]}; "
                "repair the shards or raise corrupt_limit"
            )


def _leave_signals_to_the_parent(worker: int) -> None:
    """Slurm and Ctrl-C signal every process: a worker that died of it would take the trainer's last save along."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(item: Any) -> Any:
    return item


class CropReader(PartReader):
    """One worker's parts of the batches from a step on: its lanes of the plan, read, decoded, cropped."""

    def __init__(self, shards: ShardSet, settings: Settings, step: int, cache: ShardCache | None) -> None:
        self._shards, self._settings, self._step, self._cache = shards, settings, step, cache

    def _parts(self, worker: int) -> Iterator[Loaded]:
        lanes = self._settings.lanes(worker)
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
