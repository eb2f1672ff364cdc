"""Decoding of photos to upright uint8 RGB, and center crops."""

import io
import threading
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.photos.reading import MAX_PIXELS, TOO_LARGE, BrokenPhoto, as_rgb, explained

_TORCHVISION_RGB = 3

LARGE_PIXELS = 24_000_000
"""A photo of more pixels is large: it is shrunk before it is cut."""
_one_large_photo = threading.Lock()


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels from a photo's header, before EXIF turns it.

    Raises:
        BrokenPhoto: no photo, or one of more than `MAX_PIXELS`.
    """
    with explained(), Image.open(io.BytesIO(data)) as image:
        return _checked_size(image)


def decode_square(data: bytes, size: int) -> UInt8[Tensor, "3 size size"]:
    """Largest centered square of a photo, resized to `size` pixels, on which all metrics are measured.

    Any format that Pillow reads; upright (EXIF), alpha dropped, no color management. A photo of more than
    `LARGE_PIXELS` is decoded at 1/2, 1/4 or 1/8 (JPEG) or shrunk by a whole factor first, its sides still at least
    four times `size`, one such photo at a time: 0.7 GiB at most. A short side below `size` is enlarged.

    Raises:
        BrokenPhoto: see `decode_rgb`.
    """
    width, height = size_of(data)
    if width * height <= LARGE_PIXELS:
        return center_crop(decode_rgb(data), size)
    with _one_large_photo:
        return center_crop(decode_rgb(data, 4 * size), size)


def decode_rgb(data: bytes, enough: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Decode a photo in any format that Pillow reads; upright (EXIF), three channels, alpha dropped.

    With `enough`, a JPEG whose sides are at least twice as long is decoded at 1/2, 1/4 or 1/8 of its size, and
    another photo of more than `LARGE_PIXELS` is shrunk by a whole factor; sides are still at least `enough`.

    Raises:
        BrokenPhoto: no photo, one that is cut short, one of more than `MAX_PIXELS`, or one whose 32-bit pixels
            have no range that one could know.
    """
    with explained(), Image.open(io.BytesIO(data)) as image:
        full_size = _checked_size(image)
        if enough is not None:
            image.draft("RGB", (enough, enough))
        plain_jpeg = image.format == "JPEG" and image.mode in ("RGB", "L") and image.size == full_size
        if plain_jpeg and (decode := _torchvision_jpeg()):
            # A bytearray, because torch wants memory that may be written.
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return decode(encoded, _TORCHVISION_RGB, True)
        pixels = np.array(as_rgb(ImageOps.exif_transpose(_shrunk(image, enough))))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@cache
def _torchvision_jpeg() -> Callable[[Tensor, int, bool], Tensor] | None:
    """Torchvision's JPEG decoder: a quarter faster than Pillow's, with equal pixels (a test compares them).

    Its Python functions will be removed in favour of TorchCodec; without the operator Pillow decodes everything.
    """
    # Registers torch.ops.image, and takes seconds that a command which decodes nothing should not wait.
    import torchvision  # noqa: F401

    return getattr(torch.ops.image, "decode_jpeg", None)


def _checked_size(image: Image.Image) -> tuple[int, int]:
    if image.width * image.height > MAX_PIXELS:
        raise BrokenPhoto(f"{image.width} x {image.height} pixels are {TOO_LARGE}")
    return image.size


def _shrunk(image: Image.Image, enough: int | None) -> Image.Image:
    """A large image reduced so that its sides are still at least `enough`."""
    if enough is None or image.width * image.height <= LARGE_PIXELS:
        return image
    small = image if image.mode in ("RGB", "RGBA", "L", "LA", "CMYK", "YCbCr") else as_rgb(image)
    return small.reduce(max(1, min(image.size) // enough))


def center_crop(rgb: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """Largest centered square of a photo, resized to `size` pixels."""
    height, width = rgb.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(rgb[:, top : top + side, left : left + side], size)


def resized(window: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """A window resized to a square, bilinear with antialiasing; unchanged where it has that size."""
    if window.shape[1:] == (size, size):
        return window
    # torch has vector code for bilinear antialias on uint8, for contiguous channels-last pixels.
    pixels = window[None].contiguous(memory_format=torch.channels_last)
    return interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0]
