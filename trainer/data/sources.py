"""Which photos a config trains and validates on."""

from jaxtyping import UInt8
from torch import Tensor

from trainer.config import DataConfig
from trainer.data.batch import Loader
from trainer.data.embedded import EmbeddedLoader, validation_photos
from trainer.data.loader import ShardLoader, photos_from

MOST_EMBEDDED = 256
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
    return ShardLoader(
        data.train,
        data.image_size,
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        workers=data.workers,
        scale_jitter=data.scale_jitter,
        corrupt_limit=data.corrupt_limit,
        manifest=data.manifest or None,
        cache=data.cache or None,
        cache_bytes=int(data.cache_gb * 1e9),
        pin_memory=pin_memory,
    )


def open_validation(data: DataConfig, photos: int) -> tuple[UInt8[Tensor, "n 3 h w"], list[str]]:
    """The photos to validate on, and their names.

    Raises:
        ValueError: they cannot be read.
    """
    if data.validation:
        return photos_from(data.validation, data.image_size, photos)
    return validation_photos(data.image_size, min(photos, MOST_EMBEDDED))
