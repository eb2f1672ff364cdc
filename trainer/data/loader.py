"""The loader: from shards to equal, reproducible, resumable batches of uint8 RGB.

Everything floating-point (flips, Lab) happens later, batched, on the device. The order of samples and every
crop are pure functions of the seed and of `images_seen` (see `trainer.data.plan`), so nothing but that number has
to be saved. They do depend on the number of ranks, of workers and on the batch size: `ShardLoader.signature` holds
all of it, for a checkpoint to compare before it resumes.

A photo that cannot be decoded is named, counted, and replaced by the next good one of its block, which is so
seen twice in that epoch. This keeps batches equal and, being a function of the position alone, keeps a resumed
run exact.
"""

import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from evaluator.photos.decode import BrokenPhoto, decode_square
from evaluator.photos.files import list_photos
from evaluator.photos.manifest import FILE_NAME, ShardError
from trainer.data.batch import Batch
from trainer.data.crop_reader import CropReader, Loaded, Settings
from trainer.data.plan import Piece, Start, resume_at
from trainer.data.sample_reader import read_piece
from trainer.data.shard_set import open_shards
from trainer.data.url_openers import is_local, local_path

log = logging.getLogger(__name__)


class ShardLoader:
    """Endless equal batches of random crops from shards.

    Args:
        shards: Tar URLs (paths, `http(s)://`, `s3://`, `pipe:`; braces as in `coco-{000..117}.tar`), a folder
            with a manifest, or a manifest.
        image_size: Side of the square crops in pixels.
        batch_size: Photos in this rank's batch.
        seed: Names the order and the crops, >= 0.
        rank: This process, 0 ... world_size - 1.
        world_size: Processes that train together; each gets its own share of every epoch.
        workers: Processes that decode for this rank; 0 decodes in the calling process. 0 and 1 give the same
            order, other numbers another one.
        scale_jitter: The short side is scaled to image_size + 0 ... scale_jitter pixels before the random crop.
        manifest: The manifest's URL; by default `manifest.json` beside the tars.
        shuffle_block: Photos that a reader shuffles together; a remote reader holds two such blocks of
            undecoded photos in memory.
        corrupt_limit: Share of corrupt photos among those read at which the loader stops.
        pin_memory: Hand over page-locked tensors, for quick copies to a GPU.
        prefetch: Batches that each worker prepares ahead.

    Raises:
        ValueError: a setting out of its range, or shards without a manifest.
        ShardError: a local shard is missing or not the one of its manifest.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        image_size: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        scale_jitter: int = 20,
        manifest: str | None = None,
        shuffle_block: int = 512,
        corrupt_limit: float = 0.01,
        pin_memory: bool = False,
        prefetch: int = 2,
    ) -> None:
        if not 0 <= corrupt_limit <= 1:
            raise ValueError(f"corrupt_limit is {corrupt_limit}; it is a share, 0 ... 1")
        self._settings = Settings(
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            scale_jitter=scale_jitter,
            shuffle_block=shuffle_block,
        )
        self._shards = open_shards(shards, manifest)
        if not self.samples_per_epoch:
            raise ValueError(f"{shards}: the shards hold no photo; make them with: python -m trainer.shards")
        self._corrupt_limit, self._pin_memory, self._prefetch = corrupt_limit, pin_memory, prefetch
        self._running: WeakSet[Generator[Batch]] = WeakSet()
        self.read = 0
        """Photos that this rank took since the loader was made."""
        self.failures: list[str] = []
        """Shard, name and reason of every corrupt photo met since then."""

    @property
    def samples_per_epoch(self) -> int:
        """Photos in all shards; every one is seen once per epoch, over all ranks together."""
        return self._shards.manifest.samples

    @property
    def signature(self) -> dict[str, object]:
        """What the order and the crops depend on; a run may only resume where all of it is the same."""
        settings = self._settings
        return {
            "data": self._shards.manifest.hash,
            "image_size": settings.image_size,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "world_size": settings.world_size,
            "workers": max(1, settings.workers),
            "scale_jitter": settings.scale_jitter,
            "shuffle_block": settings.shuffle_block,
        }

    def batches(self, images_seen: int = 0) -> Generator[Batch]:
        """The endless batches that follow after `images_seen` images over all ranks.

        Args:
            images_seen: A multiple of world_size * batch_size.

        Raises:
            ValueError: `images_seen` cuts a batch.
            ShardError: while iterating: a shard that cannot be read, or more corrupt photos than the limit.
        """
        settings = self._settings
        start = resume_at(images_seen, settings.batch_size, settings.world_size, max(1, settings.workers))
        running = self._counted(self._loaded(start))
        self._running.add(running)
        return running

    def close(self) -> None:
        """Stop all iterators and their worker processes."""
        for running in list(self._running):
            running.close()

    def _loaded(self, start: Start) -> Generator[Loaded | ShardError]:
        """Whole batches from the workers in turn, whichever of them is quicker."""
        reader = CropReader(self._shards, self._settings, start)
        if self._settings.workers == 0:
            yield from reader
            return
        loader = DataLoader(
            reader,
            batch_size=None,
            num_workers=self._settings.workers,
            collate_fn=_as_it_is,
            pin_memory=self._pin_memory,
            prefetch_factor=self._prefetch,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it takes a number from the process's own generator
        )
        yield from loader

    def _counted(self, source: Generator[Loaded | ShardError]) -> Generator[Batch]:
        try:
            for item in source:
                if isinstance(item, ShardError):
                    raise item
                self.read += len(item.rgb)
                for failure in item.failures:
                    log.warning("skipped a corrupt photo: %s", failure)
                self.failures += item.failures
                self._check_limit()
                yield Batch(item.rgb, len(item.failures))
        finally:
            source.close()  # now, and not when the garbage collector comes: it ends the worker processes

    def _check_limit(self) -> None:
        """Stop at too many corrupt photos; at first they are held against this rank's share of an epoch."""
        share = self.samples_per_epoch / self._settings.world_size
        allowed = self._corrupt_limit * max(self.read, share)
        if len(self.failures) > allowed:
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


def photos_from(
    source: str, image_size: int, limit: int | None = None
) -> tuple[UInt8[Tensor, "n 3 size size"], list[str]]:
    """A fixed set of photos, for validation: the largest centred square of each, resized.

    Args:
        source: A folder or a zip of photos, or shards as `ShardLoader` takes them.
        image_size: Side in pixels.
        limit: Take only the first so many: by name from a folder or zip, in the manifest's order from shards.

    Returns:
        uint8 (N,3,size,size) and the photos' names, sorted by name.

    Raises:
        ValueError: no such source, no photo in it, or one that cannot be decoded.
        ShardError: a shard cannot be read.
    """
    photos = sorted(islice(_named_photos(source), limit))
    if not photos:
        raise ValueError(f"{source} holds no photo; give a folder or zip of photos, or shards")
    crops = torch.empty(len(photos), 3, image_size, image_size, dtype=torch.uint8)
    for target, (name, data) in zip(crops, photos, strict=True):
        try:
            target.copy_(decode_square(data, image_size))
        except BrokenPhoto as error:
            raise ValueError(f"{source}: {name}: {error}; repair it or take it out") from error
    return crops, [name for name, _ in photos]


def _named_photos(source: str) -> Iterator[tuple[str, bytes]]:
    path = Path(local_path(source)) if is_local(source) else None
    if path is not None and (path.suffix == ".zip" or (path.is_dir() and not (path / FILE_NAME).exists())):
        yield from ((file.name, file.read()) for file in list_photos(path))
        return
    shards = open_shards(source)
    for shard, count in enumerate(shards.counts):
        if count:
            yield from ((photo.name, photo.data) for photo in read_piece(shards, Piece(shard, 0, count)))
