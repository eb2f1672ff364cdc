"""The embedded default data: real photographs that came with scikit-image, and procedural scenes.

Of the pictures in scikit-image's wheel (nothing is downloaded) these are color photographs worth coloring:
astronaut, motorcycle, rocket, a retina and a stained tissue to train on, coffee and chelsea (a cat) to validate
on; no crop of a validation photograph is ever trained on. Left out are drawings and figures (the color wheel,
logo, chessboards, horse, phantom), grey pictures, the deep field (nearly all black), and motorcycle_right, the
other half of a stereo pair.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import skimage
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kernels.noise import fold
from trainer.data.batch import Batch
from trainer.data.synthetic import SIZES, scene

TRAIN = ("astronaut.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png")
"""Photographs to train on."""

VALIDATION = ("coffee.png", "chelsea.png")
"""Photographs that are never trained on."""

SAMPLES_PER_EPOCH = 4096
"""Nominal: the stream of crops and scenes has no end."""

SMALLEST_CROP = 0.25
"""Side of the smallest crop, as a share of the photograph's short side."""

# Purposes keep the draws apart. Scenes to train on have even keys, scenes to validate on odd ones.
_SAMPLE, _SCENE, _VALIDATION = 1, 2, 3


def photographs(names: Sequence[str] = TRAIN + VALIDATION) -> dict[str, Image.Image]:
    """The photographs of these file names, RGB at full size, from the installed scikit-image.

    Raises:
        FileNotFoundError: this scikit-image came without one of them.
    """
    return {name: _open(Path(skimage.__file__).parent / "data" / name) for name in names}


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: this scikit-image came without its photograph {path.name}; "
            "reinstall it from its wheel (pip install --force-reinstall scikit-image), "
            "or give your own photos with --data.train and --data.validation"
        )
    with Image.open(path) as image:
        return image.convert("RGB")


class Pyramid:
    """A photograph at full size, a half, a quarter... so that a crop of any scale needs one small resize."""

    def __init__(self, photograph: Image.Image):
        number = int(math.log2(min(photograph.size))) + 1
        self._levels = [photograph.reduce(2**level) for level in range(number)]

    @property
    def short_side(self) -> int:
        """Pixels at full size."""
        return min(self._levels[0].size)

    def crop(self, side: float, x: float, y: float, image_size: int) -> NDArray[np.uint8]:
        """A square crop, resized with antialiasing to (image_size, image_size, 3).

        Args:
            side: in pixels of the full size, at most the short side.
            x: place among all places where the crop fits, 0 at the left, 1 at the right.
            y: place from top, 0, to bottom, 1.
            image_size: side of the result in pixels.
        """
        # The smallest level that still has a pixel for each of the result's. Pixel i of level n covers the full
        # size's i * 2**n to (i + 1) * 2**n, also where a side was odd.
        number = int(math.log2(max(1.0, side / image_size)))
        full = self._levels[0]
        left, top = x * (full.width - side), y * (full.height - side)
        box = [edge / 2**number for edge in (left, top, left + side, top + side)]
        small = self._levels[number].resize((image_size, image_size), Image.Resampling.BILINEAR, box=tuple(box))
        return np.asarray(small)


class EmbeddedLoader:
    """An endless stream of random crops of photographs, and scenes; a `trainer.data.batch.Loader`.

    Sample i of the stream is a pure function of (seed, i, image_size, photo_share). A step with B photos on each
    of W ranks takes the next B * W samples, of which rank r gets the r-th run of B; so the stream does not depend
    on the number of ranks.

    Args:
        image_size: side of the square photos in pixels, 8 ... 512.
        batch_size: photos per step on this rank.
        seed: any non-negative integer.
        rank: this process, 0 ... world_size - 1.
        world_size: processes that train together.
        photo_share: share of photographs; the rest are scenes.

    Raises:
        ValueError: a setting is out of range.
        FileNotFoundError: scikit-image came without its photographs.
    """

    def __init__(
        self,
        *,
        image_size: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        photo_share: float = 0.7,
    ):
        _require_size(image_size)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1 photo per rank")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}; it must be in 0 ... {world_size - 1}")
        if not 0 <= photo_share <= 1:
            raise ValueError(f"photo_share is {photo_share}; it must be in [0, 1]")
        self._image_size, self._batch_size, self._seed = image_size, batch_size, seed
        self._rank, self._world_size, self._photo_share = rank, world_size, photo_share
        self._pyramids = [Pyramid(photograph) for photograph in photographs(TRAIN).values()]

    @property
    def samples_per_epoch(self) -> int:
        """Photos in a round, over all ranks; a nominal number."""
        return SAMPLES_PER_EPOCH

    @property
    def signature(self) -> dict[str, object]:
        """What the stream depends on; not the number of ranks or the size of a batch."""
        return {
            "data": "embedded",
            "image_size": self._image_size,
            "seed": self._seed,
            "photo_share": self._photo_share,
        }

    def batches(self, images_seen: int) -> Iterator[Batch]:
        """This rank's batches from the position where all ranks together have seen `images_seen` photos."""
        first = images_seen + self._rank * self._batch_size
        while True:
            samples = [self.sample(index) for index in range(first, first + self._batch_size)]
            yield Batch(torch.from_numpy(np.stack(samples)))
            first += self._batch_size * self._world_size

    def sample(self, index: int) -> NDArray[np.uint8]:
        """Sample `index` of the stream: uint8 (3, image_size, image_size)."""
        dice = _dice(_SAMPLE, self._seed, index)
        if dice[0] >= self._photo_share:
            return scene(2 * fold(_SCENE, self._seed, index), self._image_size)
        pyramid = self._pyramids[int(dice[1] * len(self._pyramids))]
        return _random_crop(pyramid, dice[2:], self._image_size)

    def close(self) -> None:
        """Nothing to stop: samples are made in this process."""


def validation_photos(image_size: int, count: int = 64) -> tuple[UInt8[Tensor, "n 3 h w"], list[str]]:
    """A fixed set to validate on: crops of the held-out photographs and held-out scenes in turn.

    The first crop of each photograph is its largest, in the middle; further ones are random. Returns uint8 photos
    and a name for each ("coffee 0", "scene 0", "chelsea 0", "scene 1", "coffee 1"...). A larger count extends a
    smaller one.

    Raises:
        ValueError: the count is below 1, or the image size is out of range.
    """
    _require_size(image_size)
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1 photo")
    pyramids = {Path(name).stem: Pyramid(image) for name, image in photographs(VALIDATION).items()}
    photos: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for index in range(count):
        place = index // 2
        if index % 2:
            photos.append(scene(2 * fold(_SCENE, place) + 1, image_size))
            names.append(f"scene {place}")
            continue
        name, turn = list(pyramids)[place % len(pyramids)], place // len(pyramids)
        dice = _dice(_VALIDATION, place) if turn else [1.0, 0.5, 0.5]
        photos.append(_random_crop(pyramids[name], dice, image_size))
        names.append(f"{name} {turn}")
    return torch.from_numpy(np.stack(photos)), names


def _require_size(image_size: int) -> None:
    if image_size not in SIZES:
        raise ValueError(
            f"image_size is {image_size}; the embedded data has photos of {SIZES[0]} ... {SIZES[-1]} pixels. "
            "For larger ones, give your own with --data.train and --data.validation"
        )


def _dice(*parts: int) -> list[float]:
    """Eight uniform numbers in [0, 1) that are a function of these integers."""
    return np.random.Generator(np.random.Philox(key=fold(*parts))).random(8).tolist()


def _random_crop(pyramid: Pyramid, dice: Sequence[float], image_size: int) -> NDArray[np.uint8]:
    """A square crop (3, image_size, image_size) of a scale and place drawn from three dice.

    The side is uniform between a quarter of the photograph's short side, or `image_size` if that is larger
    (a crop is never enlarged where the photograph allows it), and the whole of it.
    """
    largest = pyramid.short_side
    smallest = min(max(SMALLEST_CROP * largest, image_size), largest)
    side = smallest + (largest - smallest) * dice[0]
    return pyramid.crop(side, dice[1], dice[2], image_size).transpose(2, 0, 1)
