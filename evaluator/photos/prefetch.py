"""Bounded, ordered prefetching of decoded photos by threads; bad photos are reported instead of raised."""

import hashlib
import lzma
import zipfile
import zlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from jaxtyping import UInt8
from torch import Tensor

from evaluator.photos.dataset import PhotoSource
from evaluator.photos.decode import BrokenPhoto, decode_square, size_of
from evaluator.photos.grey import NEAR_GREY_CHROMA, grey_share
from evaluator.photos.manifest import ShardError

GREY_SHARE = 0.999
"""A photo is grey when at least this share of its square's pixels is near grey."""
_UNREADABLE = (OSError, EOFError, ShardError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)
"""A RuntimeError: a zip's member that is encrypted, or packed in a way that zipfile does not know."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How photos are cropped, and which are left out."""

    size: int
    """Side of the square in pixels."""
    least_side: int = 16
    """Photos with a shorter side, in pixels, are left out: enlarged, they would measure the enlargement."""
    grey: bool = False
    """Whether to keep grey photos, whose true colors nobody knows."""

    def __post_init__(self) -> None:
        for name in ("size", "least_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1 pixel")


@dataclass(frozen=True, eq=False)
class Ready:
    """A photo to measure."""

    index: int
    rgb: UInt8[Tensor, "3 size size"]
    sha256: str
    """Of its bytes, hexadecimal."""
    enlarged: bool
    """Whether its short side was below the size."""


@dataclass(frozen=True)
class LeftOut:
    """A photo that is not measured, with the reason."""

    index: int
    reason: str


def read_ahead(
    photos: PhotoSource, indices: Iterable[int], cut: Cut, *, workers: int, depth: int
) -> Generator[Ready | LeftOut]:
    """Read, decode and crop photos in the background.

    Args:
        photos: where from.
        indices: which, in the order in which they are yielded.
        cut: size and rules.
        workers: threads; decoders release Python's lock.
        depth: photos that wait decoded, at most.
    """
    upcoming = iter(indices)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Ready | LeftOut]] = deque()
        try:
            while True:
                more = islice(upcoming, depth - len(waiting))
                waiting.extend([pool.submit(_load, photos, cut, index) for index in more])
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _load(photos: PhotoSource, cut: Cut, index: int) -> Ready | LeftOut:
    try:
        data = photos.read(index)
        width, height = size_of(data)
        if min(width, height) < cut.least_side:
            return LeftOut(index, f"tiny: {width} x {height} pixels, a side below {cut.least_side}")
        rgb = decode_square(data, cut.size)
    except BrokenPhoto as error:
        return LeftOut(index, f"unreadable: {error}")
    except _UNREADABLE as error:
        return LeftOut(index, f"unreadable: {error or type(error).__name__}")
    if not cut.grey and grey_share(rgb.permute(1, 2, 0).numpy()) >= GREY_SHARE:
        return LeftOut(
            index, f"grey: at least {GREY_SHARE:.1%} of its pixels have a chroma below {NEAR_GREY_CHROMA}"
        )
    return Ready(index, rgb, hashlib.sha256(data).hexdigest(), min(width, height) < cut.size)
