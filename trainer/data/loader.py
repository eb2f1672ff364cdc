"""From shards to equal, reproducible, resumable batches of uint8 RGB; and which source a config asks for."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from evaluator.photos.decode import BrokenPhoto, decode_square
from evaluator.photos.files import list_photos
from evaluator.photos.manifest import FILE_NAME
from trainer.config import DataConfig
from trainer.data.batch import Loader
from trainer.data.cache import ShardCache
from trainer.data.embedded import EmbeddedLoader, validation_photos
from trainer.data.reader import open_shards, read_piece
from trainer.data.sampling import Piece, block_for, steps_before
from trainer.data.storage import is_local, local_path, scheme_of
from trainer.data.stream import StreamLoader
from trainer.data.worker import CropReader, Settings, WorkerLoader

log = logging.getLogger(__name__)


class ShardLoader(WorkerLoader):
    """Endless equal batches of random crops from shards with a manifest, in an order that resumes exactly.

    Args:
        shards: Tar URLs (paths, `http(s)://`, `s3://`, `pipe:`; braces as in `coco-{000..117}.tar`), a folder
            with a manifest, or a manifest.
        image_size: Side of the square crops in pixels.
        batch_size: Photos in this rank's part of a global batch, which has world_size times as many.
        seed: Names the order and the crops, >= 0.
        rank: This process, 0 ... world_size - 1; it gets the rank-th part of every global batch.
        world_size: Processes that train together.
        workers: Processes that decode for this rank; 0 decodes in the calling process. Each reads its share of
            every batch, so more than `batch_size` of them have nothing to do and are not started.
        scale_jitter: The short side is scaled to image_size + 0 ... scale_jitter pixels before the random crop.
        manifest: The manifest's URL; by default `manifest.json` beside the tars.
        shuffle_block: Photos that each of the global batch's lanes shuffles together; from remote shards two such
            blocks of undecoded photos are in memory for each of this rank's lanes. By default
            `trainer.data.sampling.block_for` the global batch.
        corrupt_limit: Share of corrupt photos among those read at which the loader of a single process stops; with
            several, the training decides for all of them.
        pin_memory: Hand over page-locked tensors, for quick copies to a GPU.
        prefetch: Batches that the workers prepare ahead.
        cache: A folder on a local disk that keeps parts of remote shards; None keeps nothing but the output of
            commands, in a temporary folder until `close`.
        cache_bytes: Bytes that may lie in it.

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
        shuffle_block: int | None = None,
        corrupt_limit: float = 0.01,
        pin_memory: bool = False,
        prefetch: int = 4,
        cache: str | None = None,
        cache_bytes: int = 50 * 10**9,
    ) -> None:
        settings = Settings(
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            scale_jitter=scale_jitter,
            shuffle_block=block_for(max(1, batch_size * world_size)) if shuffle_block is None else shuffle_block,
        )
        super().__init__(settings, corrupt_limit=corrupt_limit, pin_memory=pin_memory, prefetch=prefetch)
        self._shards = open_shards(shards, manifest)
        self._total = sum(self._shards.counts)
        if not self._total:
            raise ValueError(f"{shards}: the shards hold no photo; make them with: python -m trainer.shards")
        self._spool: TemporaryDirectory | None = None
        if not cache and any(scheme_of(url) == "pipe" for url in self._shards.urls):
            self._spool = TemporaryDirectory(prefix="chromaclick-shards-")
            cache = self._spool.name
            log.warning("the output of pipe: commands is kept in %s meanwhile; --data.cache names another", cache)
        remote = not all(map(is_local, self._shards.urls))
        self._cache = (
            ShardCache(Path(cache), cache_bytes, self._shards.manifest.shards) if cache and remote else None
        )

    @property
    def samples_per_epoch(self) -> int:
        """Photos in all shards; every one is seen once per epoch, over all ranks together."""
        return self._total

    @property
    def signature(self) -> dict[str, object]:
        """What the order and the crops depend on, as plain values: not the number of ranks and workers."""
        settings = self.settings
        return {
            "data": self._shards.manifest.hash,
            "image_size": settings.image_size,
            "lanes": settings.global_batch,
            "seed": settings.seed,
            "scale_jitter": settings.scale_jitter,
            "shuffle_block": settings.shuffle_block,
        }

    def _reader(self, images_seen: int) -> Any:
        step = steps_before(images_seen, self.settings.global_batch)
        return CropReader(self._shards, self.settings, step, self._cache)

    def close(self) -> None:
        """Stop all iterators and their worker processes, and forget what commands wrote."""
        super().close()
        if self._spool:
            self._spool.cleanup()


def photos_from(
    source: str, image_size: int, limit: int | None = None
) -> tuple[UInt8[Tensor, "n 3 size size"], list[str]]:
    """A fixed set of photos, for validation: the largest centered square of each, resized.

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


MAX_EMBEDDED = 256
"""Embedded photos to validate on, at most: they are crops of two photographs, and scenes."""


def open_loader(data: DataConfig, *, seed: int, rank: int, world_size: int, pin_memory: bool) -> Loader:
    """This rank's training photos: the config's shards, or the embedded default.

    Raises:
        ValueError: the batch does not divide among the processes, or the shards cannot be used.
    """
    if data.batch_size % world_size:
        raise ValueError(
            f"data.batch_size is {data.batch_size} over {world_size} processes; give a multiple of {world_size}"
        )
    batch_size = data.batch_size // world_size
    if not data.train:
        return EmbeddedLoader(
            image_size=data.image_size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            photo_share=data.photo_share,
        )
    shared = {
        "seed": seed,
        "rank": rank,
        "world_size": world_size,
        "workers": data.workers,
        "scale_jitter": data.scale_jitter,
        "corrupt_limit": data.corrupt_limit,
        "pin_memory": pin_memory,
    }
    if data.order == "stream":
        return StreamLoader(data.train, data.image_size, batch_size, round_photos=data.round_photos, **shared)
    return ShardLoader(
        data.train,
        data.image_size,
        batch_size,
        manifest=data.manifest or None,
        cache=data.cache or None,
        cache_bytes=int(data.cache_gb * 1e9),
        **shared,
    )


def open_validation(data: DataConfig, photos: int) -> tuple[UInt8[Tensor, "n 3 h w"], list[str]]:
    """The photos to validate on, and their names.

    Raises:
        ValueError: they cannot be read.
    """
    if data.validation:
        return photos_from(data.validation, data.image_size, photos)
    return validation_photos(data.image_size, min(photos, MAX_EMBEDDED))
