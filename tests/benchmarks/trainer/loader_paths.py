"""Three ways from the same photos to batches of lightness and ab, which the benchmark `loader` compares.

All scale the short side to the crop's side + 0 ... 20 pixels and cut a random window. Two of them are what people
write: a `Dataset` over files (as torchvision's ImageFolder), and webdataset's own recipe over shards.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import skimage.color
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomCrop, Resize

from trainer.data.loader import ShardLoader

Conversion = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 photos (B,3,H,W) to lightness and ab."""

SCALE_JITTER = 20
_SHUFFLED = 1000
"""Samples of webdataset's shuffle buffer; the number of its documentation."""


def usual_lab(rgb: np.ndarray) -> tuple[Tensor, Tensor]:
    """A uint8 photo (H,W,3) to lightness and ab through scikit-image."""
    lab = torch.from_numpy(skimage.color.rgb2lab(rgb).astype(np.float32)).permute(2, 0, 1)
    return lab[:1] / 100, lab[1:] / 128


class UsualPhoto:
    """A Pillow image to (lightness, ab): torchvision resizes and crops, scikit-image converts."""

    def __init__(self, image_size: int) -> None:
        self._scale = [Resize(image_size + extra) for extra in range(SCALE_JITTER + 1)]
        self._crop = RandomCrop(image_size)

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Float32 (1,H,W) and (2,H,W)."""
        scaled = self._scale[int(torch.randint(len(self._scale), ()))](image.convert("RGB"))
        return usual_lab(np.asarray(self._crop(scaled)))


class UsualDataset(Dataset):
    """JPEG files to (lightness, ab), one by one."""

    def __init__(self, files: Sequence[Path], image_size: int) -> None:
        self._files, self._prepare = files, UsualPhoto(image_size)

    def __len__(self) -> int:
        """The number of files."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Float32 (1,H,W) and (2,H,W)."""
        return self._prepare(Image.open(self._files[index]))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Photos, and what is made of them. The ways return how many photos they prepared."""

    files: Sequence[Path]
    """The photos as files."""
    shards: Path
    """The same photos as shards with a manifest."""
    image_size: int
    """Side of the crops in pixels."""
    batch_size: int
    """Photos per batch."""
    device: torch.device
    """Where lightness and ab are wanted."""

    def usual(self, workers: int) -> int:
        """Files, Pillow, torchvision, scikit-image, DataLoader."""
        dataset = UsualDataset(self.files, self.image_size)
        return self._delivered(
            DataLoader(dataset, self.batch_size, shuffle=True, num_workers=workers, drop_last=True)
        )

    def webdataset(self, workers: int) -> int:
        """Shards by webdataset's recipe: shuffled shards, a shuffle buffer, Pillow, the same crop and Lab."""
        # Not above: `trainer.data.storage` comes first, which tells webdataset to unpickle nothing.
        import webdataset

        shards = sorted(map(str, self.shards.glob("*.tar")))
        # pyright does not see what webdataset imports on first use.
        dataset_of, loader_of = (getattr(webdataset, name) for name in ("WebDataset", "WebLoader"))
        dataset = (
            dataset_of(shards, shardshuffle=len(shards), seed=0)
            .shuffle(_SHUFFLED)
            .decode("pil")
            .to_tuple("jpg;jpeg;png;webp")
            .map_tuple(UsualPhoto(self.image_size))
            .map(_only)
            .batched(self.batch_size, partial=False)
        )
        return self._delivered(loader_of(dataset, batch_size=None, num_workers=workers))

    def ours(self, workers: int, lab: Conversion, shards: str, cache: Path | None = None) -> int:
        """Shards at a URL, the trainer's loader, and Lab of whole batches."""
        batches = max(1, len(self.files) // self.batch_size)
        loader = self.loader(workers, shards, cache)
        try:
            for batch in islice(loader.batches(), batches):
                lab(batch.rgb.to(self.device, non_blocking=True))
        finally:
            loader.close()
        return batches * self.batch_size

    def loader(self, workers: int, shards: str, cache: Path | None = None) -> ShardLoader:
        """The trainer's loader over these photos."""
        return ShardLoader(
            shards,
            self.image_size,
            self.batch_size,
            workers=workers,
            scale_jitter=SCALE_JITTER,
            pin_memory=self.device.type == "cuda",
            cache=None if cache is None else str(cache),
        )

    def photos_per_second(self, way: Callable[[], int]) -> float:
        """Run a way once."""
        begin = time.perf_counter()
        photos = way()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return photos / (time.perf_counter() - begin)

    def _delivered(self, batches: Iterable[Sequence[Tensor]]) -> int:
        photos = 0
        for lightness, ab in batches:
            lightness.to(self.device)
            ab.to(self.device)
            photos += len(lightness)
        return photos


def _only(sample: tuple[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The one column of a sample, which is a pair."""
    return sample[0]
